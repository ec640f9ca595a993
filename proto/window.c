/* SPDX-License-Identifier: MIT */
/*
 * Streams by absolute offset. Used by guest/stream.c, daemon/agent and client/relay.c.
 *
 * What must stay true: acked <= sent <= produced <= acked + STREAM_WINDOW, so a sender's ring is
 * the window; no sum with a peer's offset wraps.
 */

#include "proto/window.h"

/* The place in the ring of a byte from acked on. */
static size_t place(const struct window_sender *s, uint64_t offset)
{
	return (size_t)((s->head + (offset - s->acked)) % STREAM_WINDOW);
}

size_t window_sender_room(const struct window_sender *s)
{
	uint64_t end = MIN_OF(window_limit(s->acked), s->limit);
	uint64_t n = end > s->produced ? end - s->produced : 0;

	return MIN_OF((size_t)n, STREAM_WINDOW - place(s, s->produced));
}

uint8_t *window_sender_tail(struct window_sender *s)
{
	if (!s->ring)
		s->ring = malloc(STREAM_WINDOW);
	return s->ring ? s->ring + place(s, s->produced) : NULL;
}

int window_sender_append(struct window_sender *s, const void *p, size_t n)
{
	size_t first = MIN_OF(n, STREAM_WINDOW - place(s, s->produced));
	uint8_t *at;

	if (n > window_limit(s->acked) - s->produced)
		return -ENOBUFS;
	at = window_sender_tail(s);
	if (!at)
		return -ENOMEM;
	memcpy(at, p, first);
	memcpy(s->ring, (const uint8_t *)p + first, n - first);
	s->produced += n;
	return 0;
}

int window_sender_put_data(
	struct window_sender *s, struct buf *out, uint32_t channel, uint8_t stream)
{
	uint64_t end = MIN_OF(s->produced, s->limit);
	size_t at = place(s, s->sent), n = end > s->sent ? (size_t)(end - s->sent) : 0;
	int r = 0;

	n = MIN_OF(MIN_OF(n, STREAM_WINDOW - at), (size_t)FRAME_DATA_MAX);
	if (n > 0)
		r = frame_put_data(out, channel, stream, s->sent, s->ring + at, n);
	if (r < 0)
		return r;
	s->sent += n;
	return n > 0;
}

int window_sender_put_end(
	struct window_sender *s, struct buf *out, uint32_t channel, uint8_t stream)
{
	int r;

	if (!s->ended || s->end_sent || s->sent < s->produced)
		return 0;
	r = frame_put_end(out, channel, stream, s->produced);
	s->end_sent = r >= 0;
	return r < 0 ? r : 1;
}

int window_sender_ack(struct window_sender *s, uint64_t upto, uint64_t limit)
{
	if (upto > s->sent || limit < upto)
		return -EBADMSG;
	s->limit = MAX_OF(s->limit, limit);
	upto = MAX_OF(s->acked, upto);
	/* An empty ring begins at its start again, so that few bytes in flight use few pages. */
	s->head = upto < s->produced ? place(s, upto) : 0;
	s->acked = upto;
	return 0;
}

int window_sender_seek(struct window_sender *s, uint64_t offset)
{
	if (offset < s->acked || offset > s->produced)
		return -EBADMSG;
	s->sent = offset;
	s->end_sent = false;
	return 0;
}

int window_receiver_data(struct window_receiver *w, struct frame_data *d)
{
	bool in_flight = w->rewound && d->offset > w->received;
	size_t known;

	if (!in_flight &&
		(d->offset > w->received || d->n > w->limit || d->offset > w->limit - d->n))
		return -EBADMSG;
	known = in_flight ? d->n : (size_t)MIN_OF((uint64_t)d->n, w->received - d->offset);
	if (w->ended && known < d->n)
		return -EBADMSG;
	w->rewound = in_flight;
	w->received += d->n - known;
	d->offset += known;
	d->bytes += known;
	d->n -= known;
	return 0;
}

int window_receiver_end(struct window_receiver *w, uint64_t offset)
{
	if (w->rewound && offset > w->received)
		return 0;
	if (offset != w->received)
		return -EBADMSG;
	w->ended = true;
	return 0;
}

bool window_receiver_allow(struct window_receiver *w, uint64_t upto, uint64_t limit)
{
	bool raised = upto > w->acked || limit > w->limit;

	w->acked = MAX_OF(w->acked, upto);
	w->limit = MAX_OF(w->limit, limit);
	return raised;
}

bool window_receiver_ack_due(const struct window_receiver *w, uint64_t upto, bool waiting)
{
	return upto > w->acked && (waiting || upto - w->acked >= STREAM_WINDOW / 4);
}

int window_receiver_put_ack(
	struct window_receiver *w, struct buf *out, uint32_t channel, uint8_t stream, uint64_t upto)
{
	int r = frame_put_ack(out, channel, stream, upto, window_limit(upto));

	if (r >= 0)
		(void)window_receiver_allow(w, upto, window_limit(upto));
	return r;
}

void window_receiver_rewind(struct window_receiver *w, uint64_t offset)
{
	w->rewound = w->rewound || offset < w->received;
	w->received = w->acked = offset;
	w->limit = MAX_OF(w->limit, offset);
	w->ended = false;
}
