/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/window.c: the edges of each operation as a table, then a sender and a receiver on
 * a link that loses what is in flight and reconnects, at random from a seed: every byte arrives
 * exactly once and in order.
 */

#include "proto/window.h"

#include <check.h>

#define TOP UINT64_MAX
#define W   ((uint64_t)STREAM_WINDOW)

enum op { ACK, SEEK, ROOM, APPEND, DATA, END, ALLOW, DUE, REWIND };

static const struct sender_case {
	const char *name;
	uint64_t acked, sent, produced, limit;
	bool ended, end_sent;
	enum op op;
	uint64_t a, b; /* arguments */
	int64_t r;
	uint64_t after_acked, after_sent, after_limit;
} senders[] = {
	/* name, acked sent produced limit, ended end_sent, op a b, r, acked sent limit */
	{ "ACK", 10, 20, 30, 40, 0, 0, ACK, 15, 50, 0, 15, 20, 50 },
	{ "ACK of all", 10, 30, 30, 40, 0, 0, ACK, 30, 50, 0, 30, 30, 50 },
	{ "ACK repeated", 10, 20, 30, 40, 0, 0, ACK, 10, 40, 0, 10, 20, 40 },
	{ "ACK backwards", 10, 20, 30, 40, 0, 0, ACK, 9, 40, 0, 10, 20, 40 },
	{ "ACK backwards raises the limit", 10, 20, 30, 40, 0, 0, ACK, 9, 41, 0, 10, 20, 41 },
	{ "limit lowered", 10, 20, 30, 40, 0, 0, ACK, 12, 12, 0, 12, 20, 40 },
	{ "limit below upto", 10, 20, 30, 40, 0, 0, ACK, 12, 11, -EBADMSG, 10, 20, 40 },
	{ "ACK beyond sent", 10, 20, 30, 40, 0, 0, ACK, 21, 50, -EBADMSG, 10, 20, 40 },
	{ "ACK beyond produced", 10, 30, 30, 40, 0, 0, ACK, 31, 50, -EBADMSG, 10, 30, 40 },
	{ "ACK of 2^64-1", 10, 20, 30, 40, 0, 0, ACK, TOP, TOP, -EBADMSG, 10, 20, 40 },
	{ "limit 2^64-1", 10, 20, 30, 40, 0, 0, ACK, 20, TOP, 0, 20, 20, TOP },
	{ "ACK at the top", TOP - 9, TOP, TOP, TOP, 0, 0, ACK, TOP, TOP, 0, TOP, TOP, TOP },
	{ "seek to kept", 10, 20, 30, 40, 0, 0, SEEK, 10, 0, 0, 10, 10, 40 },
	{ "seek below kept", 10, 20, 30, 40, 0, 0, SEEK, 9, 0, -EBADMSG, 10, 20, 40 },
	{ "seek forward", 10, 20, 30, 40, 0, 0, SEEK, 30, 0, 0, 10, 30, 40 },
	{ "seek beyond produced", 10, 20, 30, 40, 0, 0, SEEK, 31, 0, -EBADMSG, 10, 20, 40 },
	{ "seek to 2^64-1", 10, 20, 30, 40, 0, 0, SEEK, TOP, 0, -EBADMSG, 10, 20, 40 },
	{ "room to the limit", 10, 20, 30, 40, 0, 0, ROOM, 0, 0, 10, 10, 20, 40 },
	{ "room to the window", 10, 20, 30, TOP, 0, 0, ROOM, 0, 0, W - 20, 10, 20, TOP },
	{ "room at the limit", 10, 20, 30, 30, 0, 0, ROOM, 0, 0, 0, 10, 20, 30 },
	{ "room beyond the limit", 10, 20, 30, 5, 0, 0, ROOM, 0, 0, 0, 10, 20, 5 },
	{ "room at the top", TOP - 9, TOP - 9, TOP - 4, TOP, 0, 0, ROOM, 0, 0, 4, TOP - 9, TOP - 9,
		TOP },
	{ "room in a full window", 0, 0, W, TOP, 0, 0, ROOM, 0, 0, 0, 0, 0, TOP },
	{ "append nothing", 10, 20, 30, 5, 0, 0, APPEND, 0, 0, 0, 10, 20, 5 },
	{ "append to a full window", 0, 0, W, TOP, 0, 0, APPEND, 1, 0, -ENOBUFS, 0, 0, TOP },
	{ "append the last byte of it", 0, 0, W - 1, 5, 0, 0, APPEND, 1, 0, 0, 0, 0, 5 },
	{ "append one too many", 0, 0, W - 1, 5, 0, 0, APPEND, 2, 0, -ENOBUFS, 0, 0, 5 },
	{ "append over the top", TOP - 1, TOP - 1, TOP - 1, TOP, 0, 0, APPEND, 2, 0, -ENOBUFS,
		TOP - 1, TOP - 1, TOP },
	{ "append beyond the limit", 10, 20, 30, 5, 0, 0, APPEND, 1, 0, 0, 10, 20, 5 },
	{ "frame", 10, 20, 30, 40, 0, 0, DATA, 0, 0, 1, 10, 30, 40 },
	{ "frame to the limit", 10, 20, 30, 25, 0, 0, DATA, 0, 0, 1, 10, 25, 25 },
	{ "frame at the limit", 10, 20, 30, 20, 0, 0, DATA, 0, 0, 0, 10, 20, 20 },
	{ "frame beyond the limit", 10, 20, 30, 15, 0, 0, DATA, 0, 0, 0, 10, 20, 15 },
	{ "largest frame", 0, 0, W, TOP, 0, 0, DATA, 0, 0, 1, 0, FRAME_DATA_MAX, TOP },
	{ "no frame when all is sent", 10, 30, 30, 40, 1, 0, DATA, 0, 0, 0, 10, 30, 40 },
	{ "END", 10, 30, 30, 30, 1, 0, END, 0, 0, 1, 10, 30, 30 },
	{ "END before the last byte", 10, 29, 30, 40, 1, 0, END, 0, 0, 0, 10, 29, 40 },
	{ "END of a stream that goes on", 10, 30, 30, 40, 0, 0, END, 0, 0, 0, 10, 30, 40 },
	{ "END once", 10, 30, 30, 40, 1, 1, END, 0, 0, 0, 10, 30, 40 },
};

static int64_t do_send(struct window_sender *s, const struct sender_case *c)
{
	static const uint8_t bytes[2];
	struct buf out;
	int64_t r = 0;

	buf_init(&out, FRAME_HEAD_SIZE + FRAME_PAYLOAD_MAX);
	switch (c->op) {
	case ACK: r = window_sender_ack(s, c->a, c->b); break;
	case SEEK: r = window_sender_seek(s, c->a); break;
	case ROOM: r = (int64_t)window_sender_room(s); break;
	case APPEND: r = window_sender_append(s, bytes, (size_t)c->a); break;
	case DATA: r = window_sender_put_data(s, &out, 0, STREAM_STDOUT); break;
	case END: r = window_sender_put_end(s, &out, 0, STREAM_STDOUT); break;
	default: ck_abort();
	}
	buf_done(&out);
	return r;
}

START_TEST(sender_edges)
{
	const struct sender_case *c = &senders[_i];
	static const uint8_t bytes[STREAM_WINDOW];
	struct window_sender s = { .acked = c->acked, .produced = c->acked, .limit = c->limit };

	ck_assert_int_eq(window_sender_append(&s, bytes, (size_t)(c->produced - c->acked)), 0);
	s.sent = c->sent;
	s.ended = c->ended;
	s.end_sent = c->end_sent;
	ck_assert_msg(do_send(&s, c) == c->r, "%s", c->name);
	ck_assert_msg(
		s.acked == c->after_acked && s.sent == c->after_sent && s.limit == c->after_limit,
		"%s: acked %ju, sent %ju, limit %ju", c->name, (uintmax_t)s.acked,
		(uintmax_t)s.sent, (uintmax_t)s.limit);
	free(s.ring);
}
END_TEST

static const struct receiver_case {
	const char *name;
	struct window_receiver w; /* received acked limit ended rewound */
	enum op op;
	uint64_t a, b;
	int64_t r;
	struct window_receiver after;
} receivers[] = {
	{ "DATA", { 10, 5, 20, 0, 0 }, DATA, 10, 5, 5, { 15, 5, 20, 0, 0 } },
	{ "DATA up to the limit", { 10, 5, 20, 0, 0 }, DATA, 10, 10, 10, { 20, 5, 20, 0, 0 } },
	{ "DATA beyond it", { 10, 5, 20, 0, 0 }, DATA, 10, 11, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "DATA at it", { 20, 5, 20, 0, 0 }, DATA, 20, 1, -EBADMSG, { 20, 5, 20, 0, 0 } },
	{ "no byte at the limit", { 20, 5, 20, 0, 0 }, DATA, 20, 0, 0, { 20, 5, 20, 0, 0 } },
	{ "no byte", { 10, 5, 20, 0, 0 }, DATA, 10, 0, 0, { 10, 5, 20, 0, 0 } },
	{ "no byte after a gap", { 10, 5, 20, 0, 0 }, DATA, 11, 0, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "a gap", { 10, 5, 20, 0, 0 }, DATA, 11, 1, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "repeated", { 10, 5, 20, 0, 0 }, DATA, 2, 8, 0, { 10, 5, 20, 0, 0 } },
	{ "overlapping", { 10, 5, 20, 0, 0 }, DATA, 8, 5, 3, { 13, 5, 20, 0, 0 } },
	{ "after END", { 10, 5, 20, 1, 0 }, DATA, 10, 1, -EBADMSG, { 10, 5, 20, 1, 0 } },
	{ "repeated after END", { 10, 5, 20, 1, 0 }, DATA, 9, 1, 0, { 10, 5, 20, 1, 0 } },
	{ "offset 2^64-1", { 10, 5, 20, 0, 0 }, DATA, TOP, 1, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "the last byte", { TOP - 1, 5, TOP, 0, 0 }, DATA, TOP - 1, 1, 1, { TOP, 5, TOP, 0, 0 } },
	{ "over the top", { TOP - 1, 5, TOP, 0, 0 }, DATA, TOP - 1, 2, -EBADMSG,
		{ TOP - 1, 5, TOP, 0, 0 } },
	{ "no limit given", { 0 }, DATA, 0, 1, -EBADMSG, { 0 } },
	{ "in flight", { 10, 5, 99, 0, 1 }, DATA, 11, 1, 0, { 10, 5, 99, 0, 1 } },
	{ "the first after it", { 10, 5, 99, 0, 1 }, DATA, 10, 2, 2, { 12, 5, 99, 0, 0 } },
	{ "an older one after it", { 10, 5, 99, 0, 1 }, DATA, 4, 2, 0, { 10, 5, 99, 0, 0 } },
	{ "END", { 10, 5, 20, 0, 0 }, END, 10, 0, 0, { 10, 5, 20, 1, 0 } },
	{ "END twice", { 10, 5, 20, 1, 0 }, END, 10, 0, 0, { 10, 5, 20, 1, 0 } },
	{ "END too early", { 10, 5, 20, 0, 0 }, END, 9, 0, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "END too late", { 10, 5, 20, 0, 0 }, END, 11, 0, -EBADMSG, { 10, 5, 20, 0, 0 } },
	{ "END elsewhere", { 10, 5, 20, 1, 0 }, END, 11, 0, -EBADMSG, { 10, 5, 20, 1, 0 } },
	{ "END in flight", { 10, 5, 99, 0, 1 }, END, 11, 0, 0, { 10, 5, 99, 0, 1 } },
	{ "END after it", { 10, 5, 99, 0, 1 }, END, 10, 0, 0, { 10, 5, 99, 1, 1 } },
	{ "allow", { 10, 5, 20, 0, 0 }, ALLOW, 8, 30, 1, { 10, 8, 30, 0, 0 } },
	{ "allow the same", { 10, 5, 20, 0, 0 }, ALLOW, 5, 20, 0, { 10, 5, 20, 0, 0 } },
	{ "allow less", { 10, 5, 20, 0, 0 }, ALLOW, 4, 19, 0, { 10, 5, 20, 0, 0 } },
	{ "limit lowered", { 10, 5, 20, 0, 0 }, ALLOW, 6, 19, 1, { 10, 6, 20, 0, 0 } },
	{ "a quarter free", { W, 0, W, 0, 0 }, DUE, W / 4, 0, 1, { W, 0, W, 0, 0 } },
	{ "less than that", { W, 0, W, 0, 0 }, DUE, W / 4 - 1, 0, 0, { W, 0, W, 0, 0 } },
	{ "less, and awaited", { W, 0, W, 0, 0 }, DUE, 1, 1, 1, { W, 0, W, 0, 0 } },
	{ "nothing, and awaited", { W, 7, W, 0, 0 }, DUE, 7, 1, 0, { W, 7, W, 0, 0 } },
	{ "backwards, and awaited", { W, 7, W, 0, 0 }, DUE, 6, 1, 0, { W, 7, W, 0, 0 } },
	{ "rewind", { 10, 5, 20, 0, 0 }, REWIND, 7, 0, 0, { 7, 7, 20, 0, 1 } },
	{ "rewind to received", { 10, 5, 20, 0, 0 }, REWIND, 10, 0, 0, { 10, 10, 20, 0, 0 } },
	{ "rewind twice", { 7, 7, 20, 0, 1 }, REWIND, 7, 0, 0, { 7, 7, 20, 0, 1 } },
	{ "rewind after END", { 10, 5, 20, 1, 0 }, REWIND, 10, 0, 0, { 10, 10, 20, 0, 0 } },
	{ "rewind forward", { 0 }, REWIND, 7, 0, 0, { 7, 7, 7, 0, 0 } },
};

static int64_t do_receive(struct window_receiver *w, const struct receiver_case *c)
{
	static const uint8_t bytes[16];
	struct frame_data d = { STREAM_STDOUT, c->a, bytes, (size_t)c->b };
	int r;

	switch (c->op) {
	case DATA:
		r = window_receiver_data(w, &d);
		ck_assert(r < 0 || d.bytes + d.n == bytes + c->b);
		ck_assert(r < 0 || d.offset + d.n == c->a + c->b);
		return r < 0 ? r : (int64_t)d.n;
	case END: return window_receiver_end(w, c->a);
	case ALLOW: return window_receiver_allow(w, c->a, c->b);
	case DUE: return window_receiver_ack_due(w, c->a, c->b);
	case REWIND: window_receiver_rewind(w, c->a); return 0;
	default: ck_abort();
	}
}

START_TEST(receiver_edges)
{
	const struct receiver_case *c = &receivers[_i];
	struct window_receiver w = c->w;

	ck_assert_msg(do_receive(&w, c) == c->r, "%s", c->name);
	ck_assert_msg(w.received == c->after.received && w.acked == c->after.acked &&
			      w.limit == c->after.limit && w.ended == c->after.ended &&
			      w.rewound == c->after.rewound,
		"%s: received %ju, acked %ju, limit %ju, ended %d, rewound %d", c->name,
		(uintmax_t)w.received, (uintmax_t)w.acked, (uintmax_t)w.limit, w.ended, w.rewound);
}
END_TEST

START_TEST(limit_at_the_top)
{
	ck_assert_uint_eq(window_limit(7), W + 7);
	ck_assert_uint_eq(window_limit(TOP - W), TOP);
	ck_assert_uint_eq(window_limit(TOP - W + 1), TOP);
	ck_assert_uint_eq(window_limit(TOP), TOP);
}
END_TEST

/* A frame that does not fit is sent later, whole. */
START_TEST(full_output)
{
	struct window_sender s = { .limit = TOP };
	struct buf out;

	buf_init(&out, FRAME_HEAD_SIZE + FRAME_DATA_HEAD + 2);
	ck_assert_int_eq(window_sender_append(&s, "abc", 3), 0);
	s.ended = true;
	ck_assert_int_eq(window_sender_put_data(&s, &out, 0, STREAM_STDIN), -ENOBUFS);
	ck_assert_uint_eq(s.sent, 0);
	ck_assert_int_eq(window_sender_put_end(&s, &out, 0, STREAM_STDIN), 0);
	ck_assert_int_eq(window_sender_seek(&s, 1), 0);
	ck_assert_int_eq(window_sender_put_data(&s, &out, 0, STREAM_STDIN), 1);
	ck_assert_int_eq(window_sender_put_end(&s, &out, 0, STREAM_STDIN), -ENOBUFS);
	buf_clear(&out);
	ck_assert_int_eq(window_sender_put_end(&s, &out, 0, STREAM_STDIN), 1);
	buf_clear(&out);
	ck_assert_int_eq(window_sender_seek(&s, 3), 0);
	ck_assert_int_eq(window_sender_put_end(&s, &out, 0, STREAM_STDIN), 1);
	buf_done(&out);
	free(s.ring);
}
END_TEST

/* The random walk. An agent's output resumes at the last ACK, and its host rewinds for a new
 * reader; a caller's input resumes at what was received. */

enum { STEPS = 40000, WIRE = 4 * FRAME_PAYLOAD_MAX };

static struct walk {
	bool input;
	unsigned seed;
	struct window_sender s;
	struct window_receiver r;
	struct buf down, up; /* in flight */
	struct decoder at_receiver, at_sender;
	uint64_t taken;  /* the reader took the bytes below, in order */
	uint64_t passed; /* and has dealt with these */
	unsigned losses, rewinds;
} k;

static uint8_t byte_at(uint64_t offset)
{
	return (uint8_t)((offset * UINT64_C(0x9e3779b97f4a7c15)) >> 56);
}

static size_t some(size_t most)
{
	return most == 0 ? 0 : (size_t)rand_r(&k.seed) % (most + 1);
}

static void produce(bool copy)
{
	size_t n = k.s.ended ? 0 : some(MIN_OF((size_t)8192, window_sender_room(&k.s)));
	uint8_t bytes[8192], *p = copy ? bytes : window_sender_tail(&k.s);

	for (size_t i = 0; i < n; i++)
		p[i] = byte_at(k.s.produced + i);
	if (copy)
		ck_assert_int_eq(window_sender_append(&k.s, bytes, n), 0);
	else
		k.s.produced += n;
}

static void put_data(void)
{
	int r = window_sender_put_data(&k.s, &k.down, 0, STREAM_STDOUT);

	ck_assert(r >= 0 || r == -ENOBUFS);
	if (r == 0)
		(void)window_sender_put_end(&k.s, &k.down, 0, STREAM_STDOUT);
}

static void put_ack(bool always)
{
	k.passed += some((size_t)(k.r.received - k.passed));
	if (always || window_receiver_ack_due(&k.r, k.passed, k.r.received == k.r.limit))
		(void)window_receiver_put_ack(&k.r, &k.up, 0, STREAM_STDOUT, k.passed);
}

/* As in the agent: an ACK may concern an earlier connection. */
static void sender_acked(uint64_t upto, uint64_t limit, bool resumed)
{
	if (!k.input && upto > k.s.sent)
		ck_assert_int_eq(window_sender_seek(&k.s, upto), 0);
	ck_assert_int_eq(window_sender_ack(&k.s, upto, limit), 0);
	if (resumed)
		ck_assert_int_eq(window_sender_seek(&k.s, k.s.acked), 0);
}

static void receiver_takes(const struct frame *f)
{
	struct frame_data d;
	uint64_t offset;
	uint8_t stream;

	if (f->type == FRAME_END) {
		ck_assert_int_eq(frame_get_end(f, &stream, &offset), 0);
		ck_assert_int_eq(window_receiver_end(&k.r, offset), 0);
		return;
	}
	ck_assert_int_eq(frame_get_data(f, &d), 0);
	ck_assert_int_eq(window_receiver_data(&k.r, &d), 0);
	for (size_t i = 0; i < d.n; i++)
		if (d.bytes[i] != byte_at(k.taken + i))
			ck_abort_msg("wrong byte at %ju", (uintmax_t)(k.taken + i));
	k.taken += d.n;
	ck_assert_uint_eq(k.taken, k.r.received);
}

static void sender_takes(const struct frame *f)
{
	uint64_t upto, limit;
	uint8_t stream;

	ck_assert_int_eq(frame_get_ack(f, &stream, &upto, &limit), 0);
	sender_acked(upto, limit, stream == STREAM_PTY);
}

/* Carries some bytes; frames may be cut. */
static void carry(struct buf *wire, struct decoder *d, void (*take)(const struct frame *f))
{
	size_t n = some(buf_len(wire)), room;
	struct frame f;
	uint8_t *p;

	while (n > 0) {
		p = decoder_space(d, &room);
		ck_assert_ptr_nonnull(p);
		room = MIN_OF(room, n);
		memcpy(p, buf_head(wire), room);
		buf_consume(wire, room);
		decoder_fed(d, room);
		n -= room;
		while (decoder_next(d, &f) == DECODER_FRAME)
			take(&f);
	}
}

static void connect_again(void)
{
	buf_clear(&k.down);
	buf_clear(&k.up);
	decoder_done(&k.at_receiver);
	decoder_done(&k.at_sender);
	decoder_init(&k.at_receiver, DECODER_PLAIN, NULL);
	decoder_init(&k.at_sender, DECODER_PLAIN, NULL);
	if (k.input)
		ck_assert_int_eq(window_sender_seek(&k.s, k.r.received), 0);
	else
		sender_acked(k.r.acked, k.r.limit, true);
	(void)window_receiver_put_ack(&k.r, &k.up, 0, STREAM_STDOUT, k.passed);
	k.losses++;
}

/* A new reader, which has what the last one acknowledged or more. RESUME is an ACK of another
 * stream here. */
static void rewind_reader(void)
{
	struct buf *up = &k.up;
	uint64_t have = k.r.acked + some((size_t)(k.r.received - k.r.acked));

	if (up->max - buf_len(up) < 64)
		return;
	window_receiver_rewind(&k.r, have);
	k.taken = k.passed = have;
	ck_assert_int_eq(frame_put_ack(up, 0, STREAM_PTY, have, k.r.limit), 0);
	k.rewinds++;
}

static void step(void)
{
	switch (some(400)) {
	case 0: connect_again(); break;
	case 1:
		if (!k.input)
			rewind_reader();
		break;
	case 2: put_ack(true); break;
	default:
		switch (some(4)) {
		case 0: produce(some(1)); break;
		case 1: put_data(); break;
		case 2: put_ack(false); break;
		case 3: carry(&k.down, &k.at_receiver, receiver_takes); break;
		default: carry(&k.up, &k.at_sender, sender_takes); break;
		}
	}
	ck_assert(k.s.acked <= k.s.sent && k.s.sent <= k.s.produced);
	ck_assert_uint_le(k.s.produced - k.s.acked, W);
	ck_assert_uint_le(k.r.received, k.r.limit);
	ck_assert(k.r.acked <= k.passed && k.passed <= k.r.received);
}

static const struct {
	bool input;
	uint64_t from;
} walks[] = { { false, 0 }, { true, 0 }, { false, TOP - 8 * W }, { true, TOP - 8 * W } };

START_TEST(lossy_link)
{
	const char *seed = getenv("PYRO_TEST_SEED");
	uint64_t from = walks[_i].from;

	k = (struct walk){ .input = walks[_i].input, .seed = seed ? (unsigned)atoi(seed) : 7 };
	k.taken = k.passed = k.s.acked = k.s.sent = k.s.produced = from;
	k.r.received = k.r.acked = from;
	buf_init(&k.down, WIRE);
	buf_init(&k.up, WIRE);
	decoder_init(&k.at_receiver, DECODER_PLAIN, NULL);
	decoder_init(&k.at_sender, DECODER_PLAIN, NULL);
	put_ack(true);
	for (unsigned i = 0; i < STEPS; i++)
		step();
	k.s.ended = true;
	while (!k.r.ended)
		step();
	ck_assert_uint_eq(k.r.received, k.s.produced);
	ck_assert_uint_gt(k.losses, 50);
	ck_assert(k.input || k.rewinds > 50);
	ck_assert_uint_gt(k.r.received - from, from == 0 ? 20 * W : 8 * W - 1);
	free(k.s.ring);
	buf_done(&k.down);
	buf_done(&k.up);
	decoder_done(&k.at_receiver);
	decoder_done(&k.at_sender);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("window");
	TCase *tc = tcase_create("window");

	tcase_add_loop_test(tc, sender_edges, 0, ARRAY_SIZE(senders));
	tcase_add_loop_test(tc, receiver_edges, 0, ARRAY_SIZE(receivers));
	tcase_add_test(tc, limit_at_the_top);
	tcase_add_test(tc, full_output);
	tcase_add_loop_test(tc, lossy_link, 0, ARRAY_SIZE(walks));
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
