/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Descriptors beside bytes on a UNIX stream socket (mcp.md section 13). A line that owns
 * descriptors says how many ("fds": n) and is sent with them in one sendmsg; the receiver queues
 * descriptors in order of arrival and a line takes its n from the queue. What is missing or left
 * over is an error that ends the connection.
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

/* Takes the first n; -ENOENT when there are fewer (none is taken then). */
int fd_queue_take(struct fd_queue *q, size_t n, int *ret_fds);

/*
 * One recvmsg into the buffer's tail and the queue, close-on-exec, without waiting. Returns bytes,
 * 0 at EOF, -EAGAIN, -ETOOMANYREFS when more descriptors came than the queue holds or control data
 * was cut (all surplus closed), -errno.
 */
ssize_t fd_recv(int sock, struct buf *b, size_t max, struct fd_queue *q);

/* Sends bytes and n_fds descriptors in one sendmsg, MSG_NOSIGNAL. Returns bytes sent (>= 1),
 * -errno. */
ssize_t fd_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds, int flags);
