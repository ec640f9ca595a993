/* SPDX-License-Identifier: MIT */
/*
 * Keeps the last bytes of an untrusted stream, the guest's console or QEMU's stderr, in a ring.
 * Owned by the driver's object and by struct launch. What must stay true: the memory is fixed at
 * creation, one iteration of the loop reads a bounded amount, and the output is lines of printable
 * text: control characters and terminal sequences are dropped, bidirectional controls are escaped.
 */
#include "daemon/vmm/console.h"

#include "daemon/log.h"
#include "proto/utf8.h"

enum { READ_SIZE = 4096, READS_PER_RUN = 16, DRAIN_READS = 256, CAUSE_BYTES = 200 };

#define PANIC "Kernel panic - not syncing"

/* Texts that explain the end of a guest, without a panic or before it. */
static const char *const clues[] = { "pyro-agent: ", "Out of memory: ", "oom-kill:" };

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

/* Copies the last n bytes in order; the ring holds at least n. */
static void ring_get(const struct console *c, char *ret, size_t n)
{
	for (size_t i = 0; i < n; i++)
		ret[i] = c->ring[(c->total - n + i) % c->cap];
}

/* Reads up to `reads` times. Returns 0 if no more is available now, 1 if there may be more, -EPIPE
 * at EOF, -errno. */
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

bool console_written(const struct console *c)
{
	return c->total > 0;
}

void console_drain(struct console *c)
{
	if (c->fd >= 0 && pull(c, DRAIN_READS) < 0)
		end(c);
}

/* Returns the length of the prefix of p whose bytes are all in [from, to]. */
static size_t span(const char *p, size_t n, char from, char to)
{
	size_t i = 0;

	while (i < n && p[i] >= from && p[i] <= to)
		i++;
	return i;
}

/* Returns the length of the control sequence at p, which starts with ESC (ECMA-48: CSI, OSC, else
 * intermediate bytes and a final one); an incomplete one extends to the end of the line. */
static size_t sequence_length(const char *p, size_t n)
{
	size_t i;

	if (n > 1 && p[1] == ']') {
		i = 2;
		while (i < n && p[i] != '\a' && p[i] != '\x1b' && p[i] != '\n')
			i++;
		return i + (i < n && p[i] == '\a');
	}
	i = n > 1 && p[1] == '[' ? 2 + span(p + 2, n - 2, ' ', '?')
				 : 1 + span(p + 1, n - 1, ' ', '/');
	return i + span(p + i, MIN_OF(n - i, (size_t)1), '0', '~');
}

/* Removes control characters in place; line ends become '\n', and empty lines are removed. */
static size_t drop_controls(char *p, size_t n)
{
	size_t to = 0;

	for (size_t i = 0; i < n;) {
		char c = p[i];

		if (c == '\x1b') {
			i += sequence_length(p + i, n - i);
			continue;
		}
		i++;
		if (c == '\r' || c == '\n') {
			if (to > 0 && p[to - 1] != '\n')
				p[to++] = '\n';
		} else if (c == '\t') {
			p[to++] = ' ';
		} else if ((unsigned char)c >= 0x20 && c != 0x7f) {
			p[to++] = c;
		}
	}
	while (to > 0 && (p[to - 1] == '\n' || p[to - 1] == ' '))
		to--;
	return to;
}

int console_tail(const struct console *c, size_t max, char **ret)
{
	size_t n = (size_t)MIN_OF((uint64_t)MIN_OF(max, c->cap), c->total), at = 0;
	_cleanup_free_ char *raw = malloc(n + 1), *text = NULL;

	if (!raw)
		return -ENOMEM;
	ring_get(c, raw, n);
	n = drop_controls(raw, n);
	text = malloc(4 * n + 1); /* each byte may become \xNN */
	if (!text)
		return -ENOMEM;
	text[0] = '\0';
	for (size_t i = 0; i < n;) {
		const char *end = memchr(raw + i, '\n', n - i);
		size_t line = end ? (size_t)(end - raw) - i : n - i;

		if (i > 0)
			text[at++] = '\n';
		at += log_escape(raw + i, line, text + at, 4 * n + 1 - at);
		i += line + 1;
	}
	*ret = TAKE_PTR(text);
	return 0;
}

/* Copies the line that contains p, without the kernel's "[ 1.234567] ", cut to max bytes. */
static char *copy_line(const char *text, const char *p, size_t max)
{
	size_t n, stamp = 0;

	while (p > text && p[-1] != '\n')
		p--;
	if (p[0] == '[')
		stamp = 1 + strspn(p + 1, " .0123456789");
	if (stamp > 1 && startswith(p + stamp, "] "))
		p += stamp + 2;
	n = strcspn(p, "\n");
	return n <= max ? strndup(p, n) : str_printf("%.*s...", utf8_cut(p, max), p);
}

/* Returns the last of these texts in the output. */
static const char *last_clue(const char *text)
{
	const char *found = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(clues); i++)
		for (const char *p = strstr(text, clues[i]); p; p = strstr(p + 1, clues[i]))
			if (!found || p > found)
				found = p;
	return found;
}

static int last_line(const char *text, char **ret)
{
	const char *line = strrchr(text, '\n');

	*ret = NULL;
	if (text[0] == '\0')
		return 0;
	*ret = copy_line(text, line ? line + 1 : text, CAUSE_BYTES);
	return *ret ? 0 : -ENOMEM;
}

int console_last_line(const struct console *c, char **ret)
{
	_cleanup_free_ char *text = NULL;
	int r = console_tail(c, c->cap, &text);

	return r < 0 ? r : last_line(text, ret);
}

int console_cause(const struct console *c, char **ret)
{
	_cleanup_free_ char *text = NULL, *panic = NULL, *before = NULL;
	const char *panicked, *clue;
	int r = console_tail(c, c->cap, &text);

	if (r < 0)
		return r;
	panicked = strstr(text, PANIC); /* the first: the kernel repeats it at its end */
	clue = last_clue(text);
	if (!panicked && !clue)
		return last_line(text, ret);
	if (panicked)
		panic = copy_line(text, panicked, clue ? CAUSE_BYTES / 2 : CAUSE_BYTES);
	if (clue)
		before = copy_line(text, clue, panicked ? CAUSE_BYTES / 2 : CAUSE_BYTES);
	if ((panicked && !panic) || (clue && !before))
		return -ENOMEM;
	*ret = panic && before ? str_printf("%s; %s", before, panic)
	       : panic         ? TAKE_PTR(panic)
			       : TAKE_PTR(before);
	return *ret ? 0 : -ENOMEM;
}

static int on_readable(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct console *c = userdata;

	if (pull(c, READS_PER_RUN) < 0)
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
