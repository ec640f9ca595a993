/* SPDX-License-Identifier: MIT */
/*
 * The other end of the launch socket: what a program that pyrod started is handed there (service.c). Used by pyro-vmm and
 * pyro-import, single-threaded, before anything else.
 */
#include "daemon/handover.h"

#include <fcntl.h>
#include <poll.h>

#include "proto/fdpass.h"

/* Above every descriptor that is handed over, below the program's own limit. */
enum { FD_PARK = 64, WAIT_MSEC = 10000 };

int handover_receive(int conn, struct launch_msg *ret, struct fd_queue *q)
{
	struct pollfd p = { .fd = conn, .events = POLLIN };
	struct buf b;
	ssize_t n;
	int r;

	r = poll(&p, 1, WAIT_MSEC);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	buf_init(&b, LAUNCH_BYTES + 1);
	n = fd_recv(conn, &b, LAUNCH_BYTES + 1, q);
	if (n <= 0)
		r = n < 0 ? (int)n : -ECONNRESET;
	else
		r = launch_msg_get(buf_head(&b), buf_len(&b), ret);
	buf_done(&b);
	if (r >= 0 && q->n != ret->n_fds)
		r = -EBADMSG;
	return r;
}

/* stdin must be /dev/null even when whoever started us left something else there. */
static int null_stdin(void)
{
	_cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return dup2(fd, STDIN_FILENO) < 0 ? -errno : 0;
}

/*
 * Puts the descriptors where the arguments expect them: all are parked high first, so that no target is
 * taken by another source, and all but the targets end at exec.
 */
int handover_place(struct fd_queue *q, int *conn)
{
	int parked[LAUNCH_FDS_MAX], high, r;

	r = null_stdin();
	if (r < 0)
		return r;
	high = fcntl(*conn, F_DUPFD_CLOEXEC, FD_PARK);
	if (high < 0)
		return -errno;
	*conn = high;
	for (size_t i = 0; i < q->n; i++) {
		parked[i] = fcntl(q->fds[i], F_DUPFD_CLOEXEC, FD_PARK);
		if (parked[i] < 0)
			return -errno;
	}
	if (dup2(parked[0], STDOUT_FILENO) < 0 || dup2(parked[0], STDERR_FILENO) < 0)
		return -errno;
	for (size_t i = 1; i < q->n; i++)
		if (dup2(parked[i], LAUNCH_FIRST_FD + (int)i - 1) < 0)
			return -errno;
	if (close_range((unsigned)LAUNCH_FIRST_FD + (unsigned)q->n - 1, ~0u, CLOSE_RANGE_CLOEXEC) <
		0)
		return -errno;
	q->n = 0;
	return 0;
}
