/* SPDX-License-Identifier: MIT */
/*
 * The streams of a command, owned by exec.c. The output ring is the flow-control window: if the
 * host does not acknowledge, the agent stops reading this pipe, so the program blocks and no output
 * is lost.
 *
 * What must stay true: kept <= sent <= produced <= kept + STREAM_WINDOW, produced never passes the
 * highest limit the host has given, and written <= accepted <= written + STREAM_WINDOW.
 */

#include "guest/stream.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

enum { DISCARD_MAX = 256 * 1024 };

int out_open(struct out_stream *o, int fd, uint64_t limit)
{
	uint8_t *ring = malloc(STREAM_WINDOW);

	if (!ring)
		return -ENOMEM;
	o->ring = ring;
	o->fd = fd;
	o->limit = MAX_OF(o->limit, limit); /* a RESUME may have raised it */
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
	free(TAKE_PTR(o->ring));
}

static size_t out_room(const struct out_stream *o)
{
	uint64_t end = MIN_OF(o->kept + STREAM_WINDOW, o->limit);

	return end > o->produced ? (size_t)(end - o->produced) : 0;
}

ssize_t out_fill(struct loop *l, struct out_stream *o)
{
	ssize_t total = 0;
	size_t room;

	while (o->fd >= 0 && o->readable && (room = out_room(o)) > 0) {
		size_t at = (size_t)(o->produced % STREAM_WINDOW);
		size_t first = MIN_OF(room, (size_t)STREAM_WINDOW - at);
		struct iovec iov[2] = {
			{ .iov_base = o->ring + at, .iov_len = first },
			{ .iov_base = o->ring, .iov_len = room - first },
		};
		ssize_t n = readv(o->fd, iov, room > first ? 2 : 1);
		if (n < 0 && errno == EAGAIN) {
			o->readable = false;
		} else if (n <= 0) {
			int r = n < 0 ? -errno : 0;
			out_close(l, o);
			return r < 0 ? r : total;
		} else {
			o->produced += (uint64_t)n;
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
		o->owed = o->produced + (uint64_t)waiting;
}

size_t out_next(const struct out_stream *o, size_t max, const uint8_t **ret_p)
{
	uint64_t n = MIN_OF(o->produced, o->limit);
	size_t at = (size_t)(o->sent % STREAM_WINDOW);

	*ret_p = NULL;
	if (n <= o->sent)
		return 0;
	n -= o->sent;
	n = MIN_OF(n, (uint64_t)(STREAM_WINDOW - at));
	*ret_p = o->ring + at;
	return MIN_OF((size_t)n, max);
}

int out_ack(struct out_stream *o, uint64_t upto, uint64_t limit)
{
	if (upto > o->produced)
		return -EBADMSG;
	o->kept = MAX_OF(o->kept, upto);
	o->sent = MAX_OF(o->sent, o->kept);
	o->limit = MAX_OF(o->limit, limit);
	return 0;
}

int out_resume(struct out_stream *o, uint64_t upto, uint64_t limit)
{
	if (upto > o->produced)
		return -EBADMSG;
	o->kept = MAX_OF(o->kept, upto);
	o->sent = o->kept;
	o->limit = MAX_OF(o->limit, limit);
	return 0;
}

void in_init(struct in_stream *in)
{
	in->fd = -EBADF;
	buf_init(&in->data, STREAM_WINDOW);
}

void in_open(struct in_stream *in, int fd)
{
	in->fd = fd;
	in->ack_due = true;
}

void in_close(struct loop *l, struct in_stream *in)
{
	loop_unwatch(l, &in->source);
	in->fd = fd_close(in->fd);
	in->closed = true;
	in->ack_due = in->ack_due || in->written != in->accepted;
	in->written = in->accepted;
	buf_clear(&in->data);
}

void in_done(struct loop *l, struct in_stream *in)
{
	in_close(l, in);
	buf_done(&in->data);
}

int in_data(struct loop *l, struct in_stream *in, uint64_t offset, const uint8_t *p, size_t n)
{
	uint64_t known;
	int r;

	if (offset > in->accepted || offset > UINT64_MAX - n)
		return -EBADMSG;
	known = in->accepted - offset;
	if (known >= n) {
		in->ack_due = true;
		return 0;
	}
	p += known;
	n -= known;
	if (in->ended)
		return -EBADMSG;
	if (!in->closed) {
		r = buf_append(&in->data, p, n);
		if (r < 0)
			return r == -ENOBUFS ? -EBADMSG : r;
		in->accepted += n;
		in_flush(l, in);
		return 0;
	}
	in->accepted += n;
	in->written = in->accepted;
	in->ack_due = true;
	return 0;
}

int in_end(struct loop *l, struct in_stream *in, uint64_t offset)
{
	if (offset != in->accepted)
		return -EBADMSG;
	in->ended = true;
	in->ack_due = true;
	in_flush(l, in);
	return 0;
}

void in_flush(struct loop *l, struct in_stream *in)
{
	while (in->fd >= 0 && buf_len(&in->data) > 0) {
		ssize_t n = buf_write_fd(&in->data, in->fd);
		if (n == -EAGAIN)
			return;
		if (n < 0) {
			in_close(l, in);
			return;
		}
		in->written += (uint64_t)n;
		in->ack_due = true;
	}
	if (in->fd >= 0 && in->ended)
		in_close(l, in);
}
