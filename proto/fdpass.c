/* SPDX-License-Identifier: MIT */
/*
 * Passes descriptors with bytes on a UNIX stream socket, for the daemon's connections, libpyro and
 * the launch socket. What must stay true: each received descriptor is either in the queue or
 * closed, whatever the peer sends, and no call blocks.
 */

#include "proto/fdpass.h"
#include <sys/socket.h>

void fd_queue_init(struct fd_queue *q)
{
	q->n = 0;
}

void fd_queue_done(struct fd_queue *q)
{
	for (size_t i = 0; i < q->n; i++)
		fd_close(q->fds[i]);
	q->n = 0;
}

int fd_queue_take(struct fd_queue *q, size_t n, int *ret_fds)
{
	if (n > q->n)
		return -ENOENT;
	memcpy(ret_fds, q->fds, n * sizeof(*q->fds));
	q->n -= n;
	memmove(q->fds, q->fds + n, q->n * sizeof(*q->fds));
	return 0;
}

/* Queues the descriptors of one control message; false if some had to be closed. */
static bool queue_rights(struct fd_queue *q, struct cmsghdr *c)
{
	size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	bool fits = true;

	for (size_t i = 0; i < n; i++) {
		int fd;
		memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
		if (q->n < ARRAY_SIZE(q->fds)) {
			q->fds[q->n++] = fd;
		} else {
			fd_close(fd);
			fits = false;
		}
	}
	return fits;
}

static bool queue_control(struct fd_queue *q, struct msghdr *msg)
{
	bool fits = !(msg->msg_flags & MSG_CTRUNC);

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
			fits = queue_rights(q, c) && fits;
	}
	return fits;
}

ssize_t fd_recv(int sock, struct buf *b, size_t max, struct fd_queue *q)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * LIMIT_FDS_RECEIVE)];
		struct cmsghdr align;
	} control;
	ssize_t n;

	size_t want = MIN_OF(max, b->max - buf_len(b));
	if (want == 0)
		return -ENOBUFS;
	uint8_t *at = buf_reserve(b, want);
	if (!at)
		return -errno;
	struct iovec iov = { .iov_base = at, .iov_len = want };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (!queue_control(q, &msg))
		return -ETOOMANYREFS;
	buf_commit(b, (size_t)n);
	return n;
}

ssize_t fd_send(int sock, const void *p, size_t n, const int *fds, size_t n_fds, int flags)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * LIMIT_FDS_RECEIVE)];
		struct cmsghdr align;
	} control;
	ssize_t sent;

	if (n == 0 || n_fds > LIMIT_FDS_RECEIVE)
		return -EINVAL;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (n_fds > 0) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		sent = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : sent;
}
