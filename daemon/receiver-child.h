/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The messages between pyrod and a receiver, on a SOCK_SEQPACKET pair. Both are the same program,
 * so structures are sent as they are.
 */

#include "proto/base.h"
#include "proto/limits.h"
#include <sys/types.h>

#define RECEIVER_BYTES_MAX (64 * 1024) /* per receipt */

enum receiver_op {
	/* do one recvmsg on the descriptor sent along; answered by TAKEN, then DONE */
	RECEIVER_TAKE,
	RECEIVER_CLOSE, /* close the descriptor; no answer */
};

struct receiver_request {
	enum receiver_op op;
	size_t max;
};

enum receiver_kind { RECEIVER_TAKEN, RECEIVER_DONE };

/* TAKEN is followed by n bytes and carries the descriptors that are kept. */
struct receiver_reply {
	enum receiver_kind kind;
	int error;
	size_t n, n_fds;
	bool kept[LIMIT_FDS_WAITING];
};

/* Runs in the child: serves fd 0 until the other end is closed; receives for the uid *(const uid_t
 * *)arg. */
int receiver_main(void *arg);
