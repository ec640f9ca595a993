/* SPDX-License-Identifier: MIT */
/*
 * The relay between a caller's stdio socket and a command's streams. Made and owned by core/run.c
 * and core/run-attach.c.
 *
 * What must stay true:
 * - at most STREAM_WINDOW bytes of a stream are held, since the guest may send only what the caller
 *   has allowed;
 * - a caller that stops reading stops only this command;
 * - a caller that has closed its sending side cannot acknowledge any more: from then on bytes
 *   written to the socket count as taken;
 * - when a caller has closed the socket, its output is discarded but acknowledged, so that the
 *   command can finish.
 */

#include "daemon/agent/stdio.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/receiver.h"
#include "proto/agent.h"
#include "proto/window.h"

/* When a caller is lost, its connection must be found closed within this time after its stdio
 * socket. */
#define LOST_USEC USEC_PER_SEC

enum {
	OUT_HIGH = 2 * FRAME_PAYLOAD_MAX, /* enough for one write; the rest waits per stream */
	OUT_MAX = 8 * FRAME_PAYLOAD_MAX,
	READ_ROUNDS = 16,
};

struct stdio {
	int fd;                 /* owned; -EBADF: closed */
	sd_event_source *io;    /* owned */
	sd_event_source *drain; /* owned: calls on_drained from an event of its own */
	sd_event_source *lost;  /* owned: starts discarding */
	struct stdio_callbacks cb;
	void *userdata;
	struct receivers *receivers; /* borrowed: the manager's */

	struct decoder in;
	struct buf out;
	unsigned streams; /* a mask */
	struct window_sender output[STREAM_MAX];
	unsigned turn; /* the stream framed next */

	struct window_receiver input;
	bool half_closed; /* the caller has closed its sending side */
	bool held;        /* nothing will be discarded */
	bool discards;
	bool finish;
};

static int take_limit(struct stdio *s, uint8_t stream, uint64_t upto, uint64_t limit)
{
	struct window_sender *o = &s->output[stream];
	int r = window_sender_ack(o, upto, limit);

	if (r >= 0)
		s->cb.on_limit(s, stream, o->acked, o->limit, s->userdata);
	return r;
}

/* Acknowledges, in the caller's place, what is sent. */
static void self_ack(struct stdio *s)
{
	STREAM_FOREACH (i, s->streams & STREAMS_OUTPUT)
		(void)take_limit(s, i, s->output[i].sent, window_limit(s->output[i].sent));
}

static int input_ended(struct stdio *s, uint64_t offset)
{
	bool before = s->input.ended;
	int r = window_receiver_end(&s->input, offset);

	if (r >= 0 && !before)
		s->cb.on_stdin_end(s, s->userdata);
	return r;
}

static void check_drained(struct stdio *s)
{
	bool empty = buf_len(&s->out) == 0;

	STREAM_FOREACH (i, s->streams & STREAMS_OUTPUT)
		empty = empty && s->output[i].end_sent;
	if (s->finish && (empty || s->fd < 0))
		(void)sd_event_source_set_enabled(s->drain, SD_EVENT_ONESHOT);
}

static int on_lost(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct stdio *s = userdata;

	s->discards = true;
	self_ack(s);
	(void)input_ended(s, s->input.received);
	return 0;
}

/* Closes the socket; what is not sent counts as sent. */
static void hang_up(struct stdio *s)
{
	if (s->fd < 0)
		return;
	s->io = sd_event_source_disable_unref(s->io);
	receivers_close(s->receivers, TAKE_FD(s->fd), true);
	buf_clear(&s->out);
	STREAM_FOREACH (i, s->streams & STREAMS_OUTPUT)
		(void)window_sender_seek(&s->output[i], s->output[i].produced);
	if (!s->held && (sd_event_source_set_time_relative(s->lost, LOST_USEC) < 0 ||
				sd_event_source_set_enabled(s->lost, SD_EVENT_ONESHOT) < 0))
		(void)on_lost(NULL, 0, s);
	check_drained(s);
}

static void broken(struct stdio *s, const char *cause)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_INVALID_ARGUMENT, cause, "update the client to the daemon's version",
		"the caller's stdio socket violated the protocol");
	hang_up(s);
	s->cb.on_broken(s, &err, s->userdata);
}

/* Frames output of all streams in turn, up to OUT_HIGH bytes. */
static void fill_out(struct stdio *s)
{
	for (unsigned idle = 0; idle < STREAM_MAX && buf_len(&s->out) < OUT_HIGH; s->turn++) {
		uint8_t i = (uint8_t)(s->turn % STREAM_MAX);
		struct window_sender *o = &s->output[i];

		idle++;
		if (!(s->streams & STREAMS_OUTPUT & STREAM_BIT(i)))
			continue;
		if (window_sender_put_data(o, &s->out, 0, i) > 0)
			idle = 0;
		else
			(void)window_sender_put_end(o, &s->out, 0, i);
	}
}

/* Sends pending output to the caller. -EAGAIN: the socket is full. */
static int flush(struct stdio *s)
{
	for (;;) {
		ssize_t n;

		fill_out(s);
		if (buf_len(&s->out) == 0)
			return 0;
		n = send(s->fd, buf_head(&s->out), buf_len(&s->out), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			buf_consume(&s->out, (size_t)n);
	}
}

static void write_now(struct stdio *s)
{
	uint32_t in = s->half_closed ? 0 : EPOLLIN;
	int r = flush(s);

	if (r < 0 && r != -EAGAIN) {
		hang_up(s);
		return;
	}
	(void)sd_event_source_set_io_events(s->io, r == -EAGAIN ? in | EPOLLOUT : in);
	if (s->half_closed)
		self_ack(s);
	check_drained(s);
}

static void schedule(struct stdio *s)
{
	uint32_t in = s->half_closed ? 0 : EPOLLIN;

	if (s->fd >= 0)
		(void)sd_event_source_set_io_events(s->io, in | EPOLLOUT);
}

int stdio_output(struct stdio *s, uint8_t stream, const void *p, size_t n)
{
	struct window_sender *o = &s->output[stream];
	int r = window_sender_append(o, p, n);

	if (r >= 0 && s->fd < 0)
		r = window_sender_seek(o, o->produced);
	if (r >= 0 && s->discards)
		self_ack(s);
	schedule(s);
	return r;
}

void stdio_ack_stdin(struct stdio *s, uint64_t upto)
{
	struct window_receiver *w = &s->input;

	if (s->fd < 0 || !(s->streams & STREAM_BIT(STREAM_STDIN)) || w->ended ||
		!window_receiver_ack_due(w, upto, w->received == w->limit))
		return;
	(void)window_receiver_put_ack(w, &s->out, 0, STREAM_STDIN, upto);
	schedule(s);
}

void stdio_hold(struct stdio *s)
{
	s->held = true;
	(void)sd_event_source_set_enabled(s->lost, SD_EVENT_OFF);
}

void stdio_finish(struct stdio *s)
{
	s->finish = true;
	STREAM_FOREACH (i, s->streams & STREAMS_OUTPUT)
		s->output[i].ended = true;
	schedule(s);
	check_drained(s);
}

static int take_data(struct stdio *s, const struct frame *f)
{
	struct frame_data d;
	int r = frame_get_data(f, &d);

	if (r < 0)
		return r;
	/* A caller never repeats a byte. */
	if (d.stream != STREAM_STDIN || s->input.ended || d.offset != s->input.received)
		return -EBADMSG;
	r = window_receiver_data(&s->input, &d);
	return r < 0 ? r : s->cb.on_stdin(s, d.bytes, d.n, s->userdata);
}

static int take_ack(struct stdio *s, const struct frame *f)
{
	uint64_t upto, limit;
	uint8_t stream;
	int r = frame_get_ack(f, &stream, &upto, &limit);

	if (r < 0)
		return r;
	if (!(s->streams & STREAMS_OUTPUT & STREAM_BIT(stream)) || limit > window_limit(upto))
		return -EBADMSG;
	return take_limit(s, stream, upto, limit);
}

static int take_end(struct stdio *s, const struct frame *f)
{
	uint64_t offset;
	uint8_t stream;
	int r = frame_get_end(f, &stream, &offset);

	if (r < 0)
		return r;
	return stream == STREAM_STDIN ? input_ended(s, offset) : -EBADMSG;
}

static int take_frame(struct stdio *s, const struct frame *f)
{
	switch (f->type) {
	case FRAME_DATA: return take_data(s, f);
	case FRAME_ACK: return take_ack(s, f);
	case FRAME_END: return take_end(s, f);
	case FRAME_NOP: return 0;
	default: return -EBADMSG;
	}
}

static int take_frames(struct stdio *s)
{
	struct frame f;
	int r = DECODER_FRAME;

	while (s->fd >= 0 && r == DECODER_FRAME) {
		r = decoder_next(&s->in, &f);
		if (r == DECODER_FRAME) {
			int taken = take_frame(s, &f);

			if (taken < 0)
				return taken;
		}
	}
	return r < 0 ? r : 0;
}

/* True when the peer has closed both directions, as when its process was killed. That is not an end
 * of input. */
static bool is_closed(const struct stdio *s)
{
	struct pollfd fd = { .fd = s->fd };

	return poll(&fd, 1, 0) > 0 && (fd.revents & (POLLHUP | POLLERR)) != 0;
}

/* Returns 1 when there may be more to read. */
static int read_some(struct stdio *s)
{
	size_t room;
	uint8_t *p = decoder_space(&s->in, &room);
	ssize_t n;
	int r;

	if (!p)
		return -ENOMEM;
	n = receivers_read(s->receivers, s->fd, true, p, room);
	if (n == -EAGAIN)
		return 0;
	if (n == RECEIVERS_FDS)
		return -EBADMSG;
	if (n < 0 || (n == 0 && is_closed(s))) {
		hang_up(s);
		return 0;
	}
	if (n == 0) {
		s->half_closed = true;
		return input_ended(s, s->input.received);
	}
	decoder_fed(&s->in, (size_t)n);
	r = take_frames(s);
	return r < 0 ? r : 1;
}

static int on_io(
	_unused_ sd_event_source *source, _unused_ int fd, uint32_t revents, void *userdata)
{
	struct stdio *s = userdata;
	int r = 1;

	if (!s->half_closed && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		for (int i = 0; s->fd >= 0 && r == 1 && i < READ_ROUNDS; i++)
			r = read_some(s);
	if (r < 0)
		broken(s, r == -EBADMSG ? "a frame is malformed, beyond its limit, or came with a "
					  "descriptor"
					: strerror(-r));
	else if (s->half_closed && (revents & (EPOLLHUP | EPOLLERR)))
		hang_up(s);
	else if (s->fd >= 0)
		write_now(s);
	return 0;
}

static int on_drain(_unused_ sd_event_source *source, void *userdata)
{
	struct stdio *s = userdata;

	s->cb.on_drained(s, s->userdata);
	return 0;
}

static int check_socket(int fd, struct error *err)
{
	struct stat st;
	int type = 0;
	socklen_t size = sizeof(type);

	if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM)
		return error_set(err, ERROR_INVALID_ARGUMENT, "it is not a stream socket",
			"pass one end of socketpair(AF_UNIX, SOCK_STREAM)",
			"the descriptor for live stdio cannot be used");
	return 0;
}

static int stdio_init(struct stdio *s, sd_event *event, int fd)
{
	int r = sd_event_add_defer(event, &s->drain, on_drain, s);

	if (r >= 0)
		r = sd_event_source_set_enabled(s->drain, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time(event, &s->lost, CLOCK_MONOTONIC, 0, 0, on_lost, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->lost, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_io(event, &s->io, fd, EPOLLIN | EPOLLOUT, on_io, s);
	if (r >= 0 && (s->streams & STREAM_BIT(STREAM_STDIN)))
		r = window_receiver_put_ack(&s->input, &s->out, 0, STREAM_STDIN, s->input.received);
	return r;
}

int stdio_new(sd_event *event, struct receivers *rs, int fd, bool with_stdin,
	const struct stdio_callbacks *cb, void *userdata, struct stdio **ret, struct error *err)
{
	static const uint64_t out[STREAM_MAX] = { 0 };

	return stdio_new_at(event, rs, fd, with_stdin, 0, out, cb, userdata, ret, err);
}

int stdio_new_at(sd_event *event, struct receivers *rs, int fd, bool with_stdin, uint64_t in,
	const uint64_t out[STREAM_MAX], const struct stdio_callbacks *cb, void *userdata,
	struct stdio **ret, struct error *err)
{
	_cleanup_(stdio_freep) struct stdio *s = NULL;
	int r = check_socket(fd, err);

	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return error_no_memory(err, "cannot set up live stdio");
	s->fd = -EBADF;
	s->receivers = rs;
	s->cb = *cb;
	s->userdata = userdata;
	s->streams = start_streams(with_stdin ? START_STDIN : 0);
	decoder_init(&s->in, DECODER_PLAIN, NULL);
	buf_init(&s->out, OUT_MAX);
	s->input.received = s->input.acked = s->input.limit = in;
	STREAM_FOREACH (i, s->streams & STREAMS_OUTPUT) {
		struct window_sender *o = &s->output[i];

		o->acked = o->sent = o->produced = out[i];
		o->limit = window_limit(out[i]); /* what may come before the caller's first ACK */
	}
	r = stdio_init(s, event, fd);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot set up live stdio");
	s->fd = fd;
	*ret = TAKE_PTR(s);
	return 0;
}

struct stdio *stdio_free(struct stdio *s)
{
	if (!s)
		return NULL;
	sd_event_source_disable_unref(s->io);
	sd_event_source_disable_unref(s->drain);
	sd_event_source_disable_unref(s->lost);
	receivers_close(s->receivers, s->fd, true);
	decoder_done(&s->in);
	buf_done(&s->out);
	for (size_t i = 0; i < STREAM_MAX; i++)
		free(s->output[i].ring);
	free(s);
	return NULL;
}

struct stdio *stdio_disown(struct stdio *s)
{
	if (!s)
		return NULL;
	s->io = sd_event_source_disable_unref(s->io);
	s->fd = -EBADF;
	return stdio_free(s);
}
