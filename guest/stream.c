/* SPDX-License-Identifier: MIT */
/*
 * The streams of a command, owned by exec.c. The output ring is the flow-control window: if the
 * host does not acknowledge, the agent stops reading this pipe, so the program blocks and no output
 * is lost.
 *
 * What must stay true: no more is read from the pipe than the highest limit the host has given.
 */

#include "guest/stream.h"

#include <sys/ioctl.h>

enum { DISCARD_MAX = 256 * 1024 };

int out_open(struct out_stream *o, int fd, uint64_t limit)
{
	if (!window_sender_tail(&o->w)) /* so that no later read lacks memory */
		return -ENOMEM;
	o->fd = fd;
	o->w.limit = MAX_OF(o->w.limit, limit); /* a RESUME may have raised it */
	o->readable = true;
	return 0;
}

void out_close(struct loop *l, struct out_stream *o)
{
	loop_unwatch(l, &o->source);
	o->fd = fd_close(o->fd);
	o->readable = false;
}

void out_done(struct loop *l, struct out_stream *o)
{
	out_close(l, o);
	free(TAKE_PTR(o->w.ring));
}

ssize_t out_fill(struct loop *l, struct out_stream *o)
{
	ssize_t total = 0;
	size_t room;

	while (o->fd >= 0 && o->readable && (room = window_sender_room(&o->w)) > 0) {
		ssize_t n = read(o->fd, window_sender_tail(&o->w), room);
		if (n < 0 && errno == EAGAIN) {
			o->readable = false;
		} else if (n <= 0) {
			int r = n < 0 ? -errno : 0;
			out_close(l, o);
			return r < 0 ? r : total;
		} else {
			o->w.produced += (uint64_t)n;
			total += n;
		}
	}
	return total;
}

bool out_discard(struct loop *l, struct out_stream *o)
{
	char scratch[16 * 1024];
	size_t total = 0;

	while (o->fd >= 0 && o->readable && total < DISCARD_MAX) {
		ssize_t n = read(o->fd, scratch, sizeof(scratch));
		if (n > 0)
			total += (size_t)n;
		else if (n < 0 && errno == EAGAIN)
			o->readable = false;
		else
			out_close(l, o);
	}
	return o->readable;
}

void out_note_owed(struct out_stream *o)
{
	int waiting = 0;

	if (o->fd >= 0 && ioctl(o->fd, FIONREAD, &waiting) == 0 && waiting > 0)
		o->owed = o->w.produced + (uint64_t)waiting;
}

int out_ack(struct out_stream *o, uint64_t upto, uint64_t limit)
{
	/* The host may acknowledge what an earlier connection brought. */
	if (upto > o->w.sent && window_sender_seek(&o->w, upto) < 0)
		return -EBADMSG;
	return window_sender_ack(&o->w, upto, MAX_OF(limit, upto));
}

int out_resume(struct out_stream *o, uint64_t upto, uint64_t limit)
{
	int r = out_ack(o, upto, limit);

	return r < 0 ? r : window_sender_seek(&o->w, o->w.acked);
}

void in_init(struct in_stream *in)
{
	in->fd = -EBADF;
	buf_init(&in->data, STREAM_WINDOW);
	in->w.limit = STREAM_WINDOW;
}

void in_open(struct in_stream *in, int fd)
{
	in->fd = fd;
	in->ack_due = true;
}

/* Lets the next ACK contain what is written. */
static void note_written(struct in_stream *in)
{
	uint64_t upto = in_written(in);

	if (window_receiver_allow(&in->w, upto, window_limit(upto)))
		in->ack_due = true;
}

void in_close(struct loop *l, struct in_stream *in)
{
	loop_unwatch(l, &in->source);
	in->fd = fd_close(in->fd);
	in->closed = true;
	buf_clear(&in->data);
	note_written(in);
}

void in_done(struct loop *l, struct in_stream *in)
{
	in_close(l, in);
	buf_done(&in->data);
}

int in_data(struct loop *l, struct in_stream *in, struct frame_data d)
{
	int r;

	if (in->w.ended) {
		in->ack_due = true;
		return 0;
	}
	r = window_receiver_data(&in->w, &d);
	if (r < 0)
		return r;
	in->ack_due = in->ack_due || d.n == 0;
	if (!in->closed)
		r = buf_append(&in->data, d.bytes, d.n);
	if (r < 0)
		in->w.received -= d.n;
	else
		in_flush(l, in);
	return r;
}

int in_end(struct loop *l, struct in_stream *in, uint64_t offset)
{
	int r = in->w.ended ? 0 : window_receiver_end(&in->w, offset);

	if (r >= 0) {
		in->ack_due = true;
		in_flush(l, in);
	}
	return r;
}

void in_flush(struct loop *l, struct in_stream *in)
{
	ssize_t n = 0;

	while (in->fd >= 0 && n >= 0 && buf_len(&in->data) > 0)
		n = buf_write_fd(&in->data, in->fd);
	note_written(in);
	if ((n < 0 && n != -EAGAIN) || (in->fd >= 0 && in->w.ended && buf_len(&in->data) == 0))
		in_close(l, in);
}
