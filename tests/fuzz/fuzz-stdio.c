/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the daemon's end of a caller's live stdio: the first byte selects stdin, how the
 * caller ends and whether its connection is known to be lost; the rest is the caller's output.
 * Stdin must be in order and within the window, limits must not decrease, a protocol error is
 * reported once, stdio_finish is followed by the end, and nothing is acknowledged for a lost
 * caller.
 */

#include "daemon/agent/stdio.h"

#include <sys/socket.h>

#include "daemon/receiver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct caller {
	uint64_t received, acked;
	uint64_t upto[STREAM_MAX], limit[STREAM_MAX], sent[STREAM_MAX];
	unsigned ends, drained, broken;
	bool with_stdin, lost;
};

static int on_stdin(struct stdio *s, _unused_ const void *p, size_t n, void *userdata)
{
	struct caller *c = userdata;

	c->received += n;
	if (c->ends || (!c->with_stdin && n > 0) || c->received - c->acked > STREAM_WINDOW)
		abort();
	if (c->received % 3 == 0) {
		c->acked = c->received;
		stdio_ack_stdin(s, c->acked);
	}
	return 0;
}

static void on_stdin_end(_unused_ struct stdio *s, void *userdata)
{
	struct caller *c = userdata;

	if (++c->ends > 1)
		abort();
}

static void on_limit(
	_unused_ struct stdio *s, uint8_t stream, uint64_t upto, uint64_t limit, void *userdata)
{
	struct caller *c = userdata;

	if ((stream != STREAM_STDOUT && stream != STREAM_STDERR) || upto < c->upto[stream] ||
		limit < c->limit[stream] || limit - upto > STREAM_WINDOW || upto > c->sent[stream])
		abort();
	if (c->lost)
		abort();
	c->upto[stream] = upto;
	c->limit[stream] = limit;
}

static void on_drained(_unused_ struct stdio *s, void *userdata)
{
	((struct caller *)userdata)->drained++;
}

static void on_broken(_unused_ struct stdio *s, const struct error *err, void *userdata)
{
	struct caller *c = userdata;

	if (++c->broken > 1 || !err->set)
		abort();
}

static void output(struct stdio *s, struct caller *c, uint8_t stream)
{
	static const uint8_t bytes[1000];
	uint64_t room = c->limit[stream] - MIN_OF(c->limit[stream], c->sent[stream]);
	size_t n = (size_t)MIN_OF(room, (uint64_t)sizeof(bytes));

	c->sent[stream] += n;
	if (n > 0 && stdio_output(s, stream, bytes, n) < 0)
		abort();
}

/* Runs the events that are due. */
static void turns(sd_event *event)
{
	for (int i = 0; i < 1000; i++) {
		int r = sd_event_run(event, 0);

		if (r < 0)
			abort();
		if (r == 0)
			return;
	}
	abort(); /* it spins */
}

static void drain_socket(int fd)
{
	uint8_t nowhere[65536];

	while (recv(fd, nowhere, sizeof(nowhere), MSG_DONTWAIT) > 0)
		;
}

static void talk(sd_event *event, struct stdio *s, struct caller *c, int fd, const uint8_t *data,
	size_t size)
{
	while (size > 0) {
		size_t n = MIN_OF(size, (size_t)1 + size % 7 * 100);

		if (send(fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			return; /* stdio has closed it */
		data += n;
		size -= n;
		turns(event);
		output(s, c, STREAM_STDOUT);
		output(s, c, STREAM_STDERR);
		drain_socket(fd);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct stdio_callbacks cb = { on_stdin, on_stdin_end, on_limit, on_drained,
		on_broken };
	struct caller c = { .with_stdin = size > 0 && (data[0] & 1) };
	static struct receivers *rs; /* made by the first input, for all */
	static sd_event *event;
	struct stdio *s = NULL;
	int pair[2];

	if (size < 1)
		return 0;
	if (!rs && (sd_event_new(&event) < 0 || receivers_new(event, &rs) < 0))
		abort();
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
		stdio_new(event, rs, pair[0], c.with_stdin, &cb, &c, &s, NULL) < 0)
		abort();
	talk(event, s, &c, pair[1], data + 1, size - 1);
	if (data[0] & 2)
		(void)shutdown(pair[1], SHUT_WR);
	turns(event);
	if (data[0] & 4) {
		stdio_hold(s);
		(void)close(TAKE_FD(pair[1]));
		turns(event);
		c.lost = true;
		output(s, &c, STREAM_STDOUT);
	}
	stdio_finish(s);
	for (int i = 0; i < 4; i++) {
		turns(event);
		drain_socket(pair[1]);
	}
	fd_close(pair[1]);
	turns(event);
	/* A lost caller may reconnect, so that is no end of its input. A caller that broke the
	 * protocol counts as closed. */
	if (c.drained < 1 || c.ends > 1 || ((data[0] & 6) == 2 && !c.broken && c.ends != 1))
		abort();
	stdio_free(s);
	return 0;
}
