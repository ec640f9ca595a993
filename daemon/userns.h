/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A new user namespace in which its first process stays who it is. Of no more than the kernel and libc.
 */

#include "proto/base.h"

struct userns {
	char uid_map[32], gid_map[32];
};

/* In the process whose ids are to stay, before it or its child enters the namespace. */
void userns_plan(struct userns *ret);
/* In the namespace, in a process that has not executed anything there. System calls alone: also between fork and exec. */
int userns_settle(const struct userns *u);
/* Both, for the calling process, which has one thread. */
int userns_enter(void);
