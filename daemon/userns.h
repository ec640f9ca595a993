/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A new user namespace in which the first process keeps its uid and gid. Uses the kernel and libc
 * only.
 */

#include "proto/base.h"

struct userns {
	char uid_map[32], gid_map[32];
};

/* Call in the process whose ids are kept, before it or its child enters the namespace. */
void userns_plan(struct userns *ret);
/* Call in the namespace, before exec. Makes system calls only, so it may run between fork and
 * exec. */
int userns_settle(const struct userns *u);
/* Does both for the calling process, which must be single-threaded. */
int userns_enter(void);
