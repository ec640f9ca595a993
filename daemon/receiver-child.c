/* SPDX-License-Identifier: MIT */
/*
 * The receiver process, forked by receiver.c: receives descriptors from untrusted peers, passes the
 * sockets that pyrod may have and closes all others. It makes system calls only and holds no
 * descriptor except the socket pair to pyrod. A close may block it for ever; pyrod notices the
 * missing DONE.
 */

#include "daemon/receiver-child.h"

#include <sys/prctl.h>
#include <sys/socket.h>

#include "proto/fdpass.h"

struct taken {
	struct receiver_reply head;
	uint8_t bytes[RECEIVER_BYTES_MAX];
	int fds[LIMIT_FDS_RECEIVE];
	size_t n_fds;
};

/* Receives a message from pyrod and its descriptor. Returns 1, 0 at EOF, -errno. */
static int next_request(struct receiver_request *ret, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(STDIN_FILENO, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	c = CMSG_FIRSTHDR(&msg);
	if (n != (ssize_t)sizeof(*ret) || !c || c->cmsg_type != SCM_RIGHTS)
		return -EPROTO;
	memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return 1;
}

/* True for an AF_UNIX stream socket whose peer is uid. Not by fstat, which a FUSE server can
 * block. */
static bool is_kept(int fd, uid_t uid)
{
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t size = sizeof(int);
	int domain = 0, type = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || domain != AF_UNIX)
		return false;
	size = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
		return false;
	size = sizeof(cred);
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.uid == uid &&
	       uid != (uid_t)-1;
}

static void collect(struct taken *t, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		n = MIN_OF(n, ARRAY_SIZE(t->fds) - t->n_fds);
		memcpy(t->fds + t->n_fds, CMSG_DATA(c), n * sizeof(int));
		t->n_fds += n;
	}
}

static void take(struct taken *t, int fd, size_t max, uid_t uid)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * LIMIT_FDS_RECEIVE)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = t->bytes, .iov_len = MIN_OF(max, sizeof(t->bytes)) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	t->head = (struct receiver_reply){ .kind = RECEIVER_TAKEN };
	t->n_fds = 0;
	if (n < 0) {
		t->head.error = -errno;
		return;
	}
	collect(t, &msg);
	t->head.n = (size_t)n;
	if ((msg.msg_flags & MSG_CTRUNC) || t->n_fds > LIMIT_FDS_WAITING)
		t->head.error = -ETOOMANYREFS;
	else
		t->head.n_fds = t->n_fds;
	for (size_t i = 0; i < t->head.n_fds; i++)
		t->head.kept[i] = is_kept(t->fds[i], uid);
}

static int answer(const struct taken *t)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * LIMIT_FDS_WAITING)];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov[] = {
		{ .iov_base = (void *)(uintptr_t)&t->head, .iov_len = sizeof(t->head) },
		{ .iov_base = (void *)(uintptr_t)t->bytes, .iov_len = t->head.n },
	};
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	int kept[LIMIT_FDS_WAITING];
	size_t n = 0;

	for (size_t i = 0; i < t->head.n_fds; i++)
		if (t->head.kept[i])
			kept[n++] = t->fds[i];
	if (n > 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(c), kept, sizeof(int) * n);
	}
	return sendmsg(STDIN_FILENO, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Answers first: closing the other descriptors may block for ever. */
static int serve_take(struct taken *t, int fd, size_t max, uid_t uid)
{
	static const struct receiver_reply done = { .kind = RECEIVER_DONE };
	int r;

	take(t, fd, max, uid);
	r = answer(t);
	for (size_t i = 0; i < t->n_fds; i++)
		(void)close(t->fds[i]);
	(void)close(fd);
	if (r < 0)
		return r;
	return send(STDIN_FILENO, &done, sizeof(done), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int receiver_main(void *arg)
{
	static struct taken taken;
	const uid_t uid = *(const uid_t *)arg;
	struct receiver_request q;
	int fd = -EBADF, r;

	if (prctl(PR_SET_NAME, "pyrod-receiver") < 0)
		return errno;
	while ((r = next_request(&q, &fd)) > 0) {
		if (q.op == RECEIVER_CLOSE) {
			(void)close(fd);
			continue;
		}
		r = serve_take(&taken, fd, q.max, uid);
		if (r < 0)
			break;
	}
	return -r;
}
