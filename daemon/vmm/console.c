/* SPDX-License-Identifier: MIT */
/*
 * A ring of the last bytes of a stream somebody else writes: the guest's console, QEMU's stderr. Owned
 * by the driver's object and by struct launch. The writer is hostile: memory is fixed at creation, one
 * turn of the loop reads a bounded amount, and nothing leaves unescaped.
 */
#include "daemon/vmm/console.h"

#include "daemon/log.h"

enum { READ_SIZE = 4096, READS_PER_TURN = 16, DRAIN_READS = 256, LINE_MAX_BYTES = 512 };

struct console {
	int fd;                  /* owned */
	sd_event_source *source; /* owned */
	size_t cap;
	uint64_t total; /* bytes ever written; the ring holds the last cap of them */
	char ring[];
};

static void ring_put(struct console *c, const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		c->ring[(c->total + i) % c->cap] = p[i];
	c->total += n;
}

/* The last n bytes in order; n is at most what is held. */
static void ring_get(const struct console *c, char *ret, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ret[i] = c->ring[(c->total - n + i) % c->cap];
}

/* Reads up to `reads` times. 0: nothing more now; 1: there may be more; -errno or -EPIPE: it has ended. */
static int pull(struct console *c, unsigned reads)
{
	char chunk[READ_SIZE];

	for (unsigned i = 0; i < reads; i++) {
		ssize_t n = read(c->fd, chunk, sizeof(chunk));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			return n < 0 ? -errno : -EPIPE;
		ring_put(c, chunk, (size_t)n);
	}
	return 1;
}

static void end(struct console *c)
{
	c->source = sd_event_source_disable_unref(c->source);
	c->fd = fd_close(c->fd);
}

struct console *console_free(struct console *c)
{
	if (!c)
		return NULL;
	end(c);
	free(c);
	return NULL;
}

void console_drain(struct console *c)
{
	if (c->fd >= 0 && pull(c, DRAIN_READS) < 0)
		end(c);
}

int console_tail(const struct console *c, size_t max, char **ret)
{
	size_t n = (size_t)MIN_OF((uint64_t)MIN_OF(max, c->cap), c->total);
	_cleanup_free_ char *raw = malloc(n + 1), *text = NULL;

	if (!raw)
		return -ENOMEM;
	ring_get(c, raw, n);
	text = malloc(4 * n + 1); /* \xNN at worst */
	if (!text)
		return -ENOMEM;
	(void)log_escape(raw, n, text, 4 * n + 1);
	*ret = TAKE_PTR(text);
	return 0;
}

int console_last_line(const struct console *c, char **ret)
{
	size_t n = (size_t)MIN_OF((uint64_t)c->cap, c->total), start;
	_cleanup_free_ char *raw = malloc(n + 1);
	char text[4 * LINE_MAX_BYTES + 1];

	if (!raw)
		return -ENOMEM;
	ring_get(c, raw, n);
	while (n > 0 && strchr("\r\n\t ", raw[n - 1]))
		n--;
	for (start = n; start > 0 && raw[start - 1] != '\n'; start--)
		;
	*ret = NULL;
	if (start == n)
		return 0;
	(void)log_escape(
		raw + start, MIN_OF(n - start, (size_t)LINE_MAX_BYTES), text, sizeof(text));
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int on_readable(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct console *c = userdata;

	if (pull(c, READS_PER_TURN) < 0)
		end(c);
	return 0;
}

int console_new(sd_event *event, int fd, size_t keep, struct console **ret)
{
	_cleanup_(console_freep) struct console *c = calloc(1, sizeof(*c) + keep);
	int r;

	if (!c)
		return -ENOMEM;
	c->fd = -EBADF;
	c->cap = keep;
	r = sd_event_add_io(event, &c->source, fd, EPOLLIN, on_readable, c);
	if (r < 0)
		return r;
	c->fd = fd;
	*ret = TAKE_PTR(c);
	return 0;
}
