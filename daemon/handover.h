/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a program takes from the launch socket: one message, and its descriptors where they belong.
 */

#include "daemon/launch-msg.h"

struct fd_queue;

/* Waits for the one message; its descriptors are left in q. */
int handover_receive(int conn, struct launch_msg *ret, struct fd_queue *q);
/* Descriptors: 0 is /dev/null, the message's first 1 and 2, its others LAUNCH_FIRST_FD and on. All others, *conn too,
 * which is moved, end at exec. */
int handover_place(struct fd_queue *q, int *conn);
