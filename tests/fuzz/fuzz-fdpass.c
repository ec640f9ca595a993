/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of descriptor passing: each input byte is one step of the sender or the receiver. In
 * any order, a received descriptor is in the queue, taken, or closed.
 */

#include "proto/fdpass.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	if (!d)
		abort();
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n;
}

static void send_some(int sock, int null, unsigned n_bytes, unsigned n_fds)
{
	static const uint8_t bytes[64];
	int fds[LIMIT_FDS_RECEIVE + 1];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = null;
	ssize_t n = fd_send(sock, bytes, n_bytes, fds, n_fds, MSG_DONTWAIT);
	if ((n_bytes == 0 || n_fds > LIMIT_FDS_RECEIVE) && n != -EINVAL)
		abort();
}

static void take_some(struct fd_queue *q, size_t n)
{
	int fds[LIMIT_FDS_RECEIVE];
	size_t before = q->n;

	if (n > ARRAY_SIZE(fds))
		return;
	if (fd_queue_take(q, n, fds) < 0) {
		if (n <= before || q->n != before)
			abort();
		return;
	}
	for (size_t i = 0; i < n; i++)
		if (fcntl(fds[i], F_GETFD) != FD_CLOEXEC || close(fds[i]) < 0)
			abort();
}

/* False at the end of the stream. */
static bool receive_some(int sock, struct buf *b, struct fd_queue *q, size_t max)
{
	ssize_t n = fd_recv(sock, b, max, q);

	if (n > 0 && (size_t)n > max)
		abort();
	if (n == -ENOBUFS)
		buf_clear(b);
	return n != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int null = -EBADF;
	struct fd_queue q;
	struct buf b;
	int pair[2];

	if (null < 0)
		null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	size_t before = open_fds();
	if (null < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	buf_init(&b, 256);
	fd_queue_init(&q);
	for (size_t i = 0; i < size; i++) {
		unsigned low = data[i] & 0x0f;

		switch (data[i] >> 6) {
		case 0: send_some(pair[0], null, data[i] & 0x3f, 0); break;
		case 1: send_some(pair[0], null, 1 + (data[i] >> 4 & 3), low); break;
		case 2: (void)receive_some(pair[1], &b, &q, 1 + low); break;
		default: take_some(&q, low); break;
		}
		if (open_fds() != before + 2 + q.n)
			abort();
	}
	(void)close(pair[0]);
	while (receive_some(pair[1], &b, &q, 64))
		;
	fd_queue_done(&q);
	(void)close(pair[1]);
	buf_done(&b);
	if (open_fds() != before)
		abort();
	return 0;
}
