/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What pyrod and a receiver say to each other, over a SOCK_SEQPACKET pair of theirs. Both are one program,
 * so structures cross as they are.
 */

#include "proto/base.h"
#include "proto/limits.h"
#include <sys/types.h>

#define RECEIVER_BYTES_MAX (64 * 1024) /* of one receipt */

enum receiver_op {
	RECEIVER_TAKE, /* one recvmsg from the descriptor that comes along; answered by TAKEN, then DONE */
	RECEIVER_CLOSE, /* close it; not answered */
};

struct receiver_request {
	enum receiver_op op;
	size_t max;
};

enum receiver_kind { RECEIVER_TAKEN, RECEIVER_DONE };

/* TAKEN is followed by n bytes, and comes with the descriptors that are kept. */
struct receiver_reply {
	enum receiver_kind kind;
	int error;
	size_t n, n_fds;
	bool kept[LIMIT_FDS_WAITING];
};

/* The child: serves fd 0 until its other end is closed; takes for *(const uid_t *)arg. */
int receiver_main(void *arg);
