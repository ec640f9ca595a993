/* SPDX-License-Identifier: MIT */
/*
 * The receiving end of the launch socket (service.c): takes the message and the descriptors from
 * pyrod. Called by pyro-vmm and pyro-import as their first step, single-threaded.
 */
#include "daemon/handover.h"

#include <fcntl.h>
#include <poll.h>

#include "proto/fdpass.h"

/* Above all target descriptors and below the limit of open files. */
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

/* Replaces stdin by /dev/null, whatever the parent process left there. */
static int null_stdin(void)
{
	_cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return dup2(fd, STDIN_FILENO) < 0 ? -errno : 0;
}

/*
 * Moves the descriptors to the numbers that the arguments expect: first all to high numbers, so
 * that no source occupies a target. All except the targets are close-on-exec.
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
