/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Receives the message of the launch socket and places its descriptors.
 */

#include "daemon/launch-msg.h"

struct fd_queue;

/* Waits for the message and leaves its descriptors in q. */
int handover_receive(int conn, struct launch_msg *ret, struct fd_queue *q);
/* Makes 0 /dev/null, the message's first descriptor 1 and 2, and the others LAUNCH_FIRST_FD and up.
 * All other descriptors are close-on-exec, also *conn, which is moved. */
int handover_place(struct fd_queue *q, int *conn);
