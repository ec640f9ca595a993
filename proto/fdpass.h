/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Passing of descriptors on a UNIX stream socket (mcp.md section 13). A line with descriptors gives
 * their number ("fds": n) and is sent with them in one sendmsg; the receiver queues descriptors in
 * order of arrival and a line takes its n from the queue. Missing or surplus descriptors are an
 * error that ends the connection.
 */

#include "base.h"
#include "buf.h"
#include "limits.h"

struct fd_queue {
	int fds[LIMIT_FDS_RECEIVE]; /* owned */
	size_t n;
};

void fd_queue_init(struct fd_queue *q);
void fd_queue_done(struct fd_queue *q); /* closes all */

/* Takes the first n; -ENOENT, taking none, if there are fewer. */
int fd_queue_take(struct fd_queue *q, size_t n, int *ret_fds);

/*
 * Does one non-blocking recvmsg into the buffer's tail and the queue (descriptors close-on-exec).
 * Returns the number of bytes, 0 at EOF, -EAGAIN, -ETOOMANYREFS if more descriptors arrived than
 * the queue holds or control data was truncated (the surplus is closed), -errno.
 */
ssize_t fd_recv(int sock, struct buf *b, size_t max, struct fd_queue *q);

/* Sends bytes and n_fds descriptors in one sendmsg, MSG_NOSIGNAL. Returns bytes sent (>= 1),
 * -errno. */
ssize_t fd_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds, int flags);
