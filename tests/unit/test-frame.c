/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/frame.c: every way to split, cut and resume a stream; the hold-back rule; long
 * messages; and a hundred thousand mutated streams.
 */

#include "proto/agent.h"
#include "proto/frame.h"
#include "tests/unit/recorded.h"
#include <check.h>

static const uint8_t *const SYNC = frame_sync_initial;

/* Feeds all bytes, `step` at a time, counts the frames and keeps the last one's channel. */
struct seen {
	unsigned frames, resyncs, errors;
	uint32_t last_channel;
	uint64_t payload;
	uint8_t sum;
};

static void drain(struct decoder *d, struct seen *seen)
{
	struct frame f;
	int r;

	while ((r = decoder_next(d, &f)) != DECODER_MORE) {
		if (r == DECODER_FRAME) {
			uint8_t sum = 0;
			for (uint32_t i = 0; i < f.length; i++)
				sum ^= f.payload[i]; /* every byte is readable */
			seen->frames++;
			seen->last_channel = f.channel;
			seen->payload += f.length;
			seen->sum ^= sum;
		} else if (r == DECODER_RESYNC) {
			seen->resyncs++;
		} else {
			ck_assert_int_eq(r, -EBADMSG);
			seen->errors++;
			if (d->mode != DECODER_SYNC)
				return;
		}
	}
}

static void feed(struct decoder *d, const uint8_t *p, size_t n, size_t step, struct seen *seen)
{
	while (n > 0) {
		size_t room;
		uint8_t *at = decoder_space(d, &room);
		if (!at) /* no input is accepted after an error */
			return;
		size_t k = MIN_OF(MIN_OF(n, step), room);
		memcpy(at, p, k);
		decoder_fed(d, k);
		p += k;
		n -= k;
		drain(d, seen);
	}
}

static void stream_begin(struct buf *b)
{
	buf_init(b, 64 * MIB);
	ck_assert_int_eq(buf_append(b, SYNC, SYNC_SIZE), 0);
}

START_TEST(every_split)
{
	struct buf b;

	stream_begin(&b);
	ck_assert_int_eq(frame_put(&b, FRAME_KILL, 1, "abc", 3), 0);
	ck_assert_int_eq(frame_put_data(&b, 2, STREAM_STDIN, 7, "hello", 5), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_SHUTDOWN, 3, NULL, 0), 0);
	for (size_t split = 0; split <= buf_len(&b); split++) {
		struct decoder d;
		struct seen seen = { 0 };
		decoder_init(&d, DECODER_SYNC, SYNC);
		feed(&d, buf_head(&b), split, SIZE_MAX, &seen);
		feed(&d, buf_head(&b) + split, buf_len(&b) - split, SIZE_MAX, &seen);
		ck_assert_uint_eq(seen.frames, 3);
		ck_assert_uint_eq(seen.resyncs, 1);
		ck_assert_uint_eq(seen.last_channel, 3);
		decoder_done(&d);
	}
	buf_done(&b);
}
END_TEST

START_TEST(byte_by_byte)
{
	struct buf b;
	struct decoder d;
	struct seen seen = { 0 };
	static uint8_t big[FRAME_PAYLOAD_MAX];

	stream_begin(&b);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(frame_put(&b, FRAME_DATA, i, big, sizeof(big)), 0);
	decoder_init(&d, DECODER_SYNC, SYNC);
	feed(&d, buf_head(&b), buf_len(&b), 1, &seen);
	ck_assert_uint_eq(seen.frames, 3);
	ck_assert_uint_eq(seen.payload, 3 * sizeof(big));
	ck_assert_uint_eq(buf_len(&d.in), 0);
	decoder_done(&d);
	buf_done(&b);
}
END_TEST

/* A frame is cut anywhere, then a new connection opens: the cut frame is dropped, the next one is
 * always read. */
START_TEST(cut_short)
{
	for (size_t payload = 0; payload < 64; payload += 7) {
		struct buf whole;
		uint8_t bytes[64];
		memset(bytes, SYNC[0], sizeof(bytes)); /* a prefix of SYNC */
		stream_begin(&whole);
		ck_assert_int_eq(frame_put(&whole, FRAME_KILL, 11, bytes, payload), 0);
		size_t n = buf_len(&whole);
		for (size_t cut = 1; cut <= 40 && cut <= n - SYNC_SIZE; cut++) {
			for (size_t step = 1; step < 90; step += 11) {
				struct buf b;
				struct decoder d;
				struct seen seen = { 0 };
				buf_init(&b, MIB);
				ck_assert_int_eq(buf_append(&b, buf_head(&whole), n - cut), 0);
				ck_assert_int_eq(buf_append(&b, SYNC, SYNC_SIZE), 0);
				ck_assert_int_eq(frame_put(&b, FRAME_HELLO, 22, "x", 1), 0);
				decoder_init(&d, DECODER_SYNC, SYNC);
				feed(&d, buf_head(&b), buf_len(&b), step, &seen);
				ck_assert_uint_eq(seen.frames, 1);
				ck_assert_uint_eq(seen.resyncs, 2);
				ck_assert_uint_eq(seen.last_channel, 22);
				decoder_done(&d);
				buf_done(&b);
			}
		}
		buf_done(&whole);
	}
}
END_TEST

/* The missing end of the frame is at most as long as SYNC: only the hold-back rule distinguishes
 * them. */
START_TEST(held_back_until_clear)
{
	for (size_t k = 1; k < SYNC_SIZE; k++) {
		struct buf b;
		struct decoder d;
		struct seen seen = { 0 };
		stream_begin(&b);
		ck_assert_int_eq(frame_put(&b, FRAME_DATA, 5, SYNC, k), 0);
		ck_assert(frame_needs_nop(SYNC, buf_head(&b), buf_len(&b)));
		decoder_init(&d, DECODER_SYNC, SYNC);
		feed(&d, buf_head(&b), buf_len(&b), SIZE_MAX, &seen);
		ck_assert_uint_eq(seen.frames, 0); /* may still become SYNC */
		buf_clear(&b);
		ck_assert_int_eq(frame_put(&b, FRAME_NOP, 0, NULL, 0), 0);
		ck_assert(!frame_needs_nop(SYNC, buf_head(&b), buf_len(&b)));
		feed(&d, buf_head(&b), buf_len(&b), SIZE_MAX, &seen);
		ck_assert_uint_eq(seen.frames, 2); /* the frame and the NOP */
		ck_assert_uint_eq(seen.payload, k);
		decoder_done(&d);
		buf_done(&b);
	}
}
END_TEST

START_TEST(payload_of_beginnings)
{
	struct buf b;
	struct decoder d;
	struct seen seen = { 0 };
	uint8_t bytes[31 * 32 / 2];
	size_t n = 0;

	for (size_t k = 1; k < SYNC_SIZE; n += k, k++)
		memcpy(bytes + n, SYNC, k);
	stream_begin(&b);
	ck_assert_int_eq(frame_put(&b, FRAME_DATA, 5, bytes, n), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_NOP, 0, NULL, 0), 0);
	for (size_t step = 1; step < 80; step++) {
		memset(&seen, 0, sizeof(seen));
		decoder_init(&d, DECODER_SYNC, SYNC);
		feed(&d, buf_head(&b), buf_len(&b), step, &seen);
		ck_assert_uint_eq(seen.frames, 2);
		ck_assert_uint_eq(seen.payload, n);
		ck_assert_uint_eq(seen.resyncs, 1);
		decoder_done(&d);
	}
	buf_done(&b);
}
END_TEST

/* A mark whose prefix occurs again inside it. */
START_TEST(self_similar_mark)
{
	uint8_t mark[SYNC_SIZE];
	struct buf b;

	memset(mark, 'a', sizeof(mark));
	mark[SYNC_SIZE - 1] = 'b';
	for (size_t extra = 0; extra < 40; extra++) {
		for (size_t step = 1; step < 40; step += 3) {
			struct decoder d;
			struct seen seen = { 0 };
			buf_init(&b, MIB);
			for (size_t i = 0; i < extra; i++)
				ck_assert_int_eq(buf_append(&b, "a", 1), 0);
			ck_assert_int_eq(buf_append(&b, mark, sizeof(mark)), 0);
			ck_assert_int_eq(frame_put(&b, FRAME_HELLO, 9, NULL, 0), 0);
			decoder_init(&d, DECODER_SYNC, mark);
			feed(&d, buf_head(&b), buf_len(&b), step, &seen);
			ck_assert_uint_eq(seen.resyncs, 1);
			ck_assert_uint_eq(seen.frames, 1);
			decoder_done(&d);
			buf_done(&b);
		}
	}
}
END_TEST

START_TEST(nonce_throws_away)
{
	uint8_t nonce[NONCE_SIZE];
	struct decoder d;
	struct seen seen = { 0 };
	struct buf b;
	static uint8_t rubbish[100003];
	unsigned seed = 3;

	random_bytes(nonce, sizeof(nonce));
	decoder_init(&d, DECODER_NONCE, nonce);
	for (size_t i = 0; i < sizeof(rubbish); i++)
		rubbish[i] = (uint8_t)rand_r(&seed);
	for (int i = 0; i < 50; i++)
		feed(&d, rubbish, sizeof(rubbish), 65536, &seen);
	feed(&d, nonce, NONCE_SIZE - 1, SIZE_MAX, &seen);
	ck_assert_uint_eq(seen.frames + seen.resyncs + seen.errors, 0);
	ck_assert_uint_lt(buf_len(&d.in), NONCE_SIZE);
	buf_init(&b, MIB);
	ck_assert_int_eq(buf_append(&b, nonce + NONCE_SIZE - 1, 1), 0);
	/* After synchronisation the nonce is plain data, and nothing is held back. */
	ck_assert_int_eq(frame_put(&b, FRAME_DATA, 8, nonce, NONCE_SIZE), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_DATA, 9, nonce, NONCE_SIZE - 1), 0);
	feed(&d, buf_head(&b), buf_len(&b), 5, &seen);
	ck_assert_uint_eq(seen.resyncs, 1);
	ck_assert_uint_eq(seen.frames, 2);
	/* A new connection. */
	nonce[0] ^= 1;
	decoder_set_mark(&d, nonce);
	feed(&d, buf_head(&b), buf_len(&b), SIZE_MAX, &seen);
	ck_assert_uint_eq(seen.frames, 2);
	decoder_done(&d);
	buf_done(&b);
}
END_TEST

START_TEST(mark_changes_under_way)
{
	uint8_t secret[SYNC_SIZE];
	struct decoder d;
	struct frame f;
	struct buf b;
	size_t room;

	frame_make_sync(secret);
	ck_assert_ptr_null(memchr(secret, 0, sizeof(secret)));
	stream_begin(&b);
	ck_assert_int_eq(frame_put(&b, FRAME_SETUP, 1, "setup", 5), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_START, 2, SYNC, SYNC_SIZE), 0); /* now only data */
	ck_assert_int_eq(buf_append(&b, secret, SYNC_SIZE), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_HELLO, 3, NULL, 0), 0);
	decoder_init(&d, DECODER_SYNC, SYNC);
	memcpy(decoder_space(&d, &room), buf_head(&b), buf_len(&b));
	decoder_fed(&d, buf_len(&b));
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_RESYNC);
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_FRAME);
	decoder_set_mark(&d, secret);
	ck_assert_mem_eq(f.payload, "setup", 5);
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_FRAME);
	ck_assert_uint_eq(f.channel, 2);
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_RESYNC);
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_FRAME);
	ck_assert_uint_eq(f.channel, 3);
	ck_assert_int_eq(decoder_next(&d, &f), DECODER_MORE);
	decoder_done(&d);
	buf_done(&b);
}
END_TEST

START_TEST(oversized)
{
	static const uint8_t head[FRAME_HEAD_SIZE] = { 1, 0x80 }; /* 32769 */
	struct decoder d;
	struct seen seen = { 0 };
	struct buf b;
	static uint8_t big[FRAME_PAYLOAD_MAX + 1];

	buf_init(&b, MIB);
	ck_assert_int_eq(frame_put(&b, FRAME_DATA, 0, big, sizeof(big)), -EMSGSIZE);
	ck_assert_int_eq(frame_put_data(&b, 0, 0, 0, big, FRAME_DATA_MAX + 1), -EMSGSIZE);
	ck_assert_int_eq(frame_put(&b, FRAME_DATA, 0, big, sizeof(big) - 1), 0);
	buf_clear(&b);
	ck_assert_int_eq(buf_append(&b, SYNC, SYNC_SIZE), 0);
	ck_assert_int_eq(buf_append(&b, head, sizeof(head)), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_KILL, 1, NULL, 0), 0); /* lost */
	ck_assert_int_eq(buf_append(&b, SYNC, SYNC_SIZE), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_KILL, 2, NULL, 0), 0);
	decoder_init(&d, DECODER_SYNC, SYNC);
	feed(&d, buf_head(&b), buf_len(&b), SIZE_MAX, &seen);
	ck_assert_uint_eq(seen.errors, 1);
	ck_assert_uint_eq(seen.resyncs, 2);
	ck_assert_uint_eq(seen.frames, 1);
	ck_assert_uint_eq(seen.last_channel, 2);
	decoder_done(&d);

	memset(&seen, 0, sizeof(seen));
	decoder_init(&d, DECODER_PLAIN, NULL);
	feed(&d, head, sizeof(head), SIZE_MAX, &seen);
	feed(&d, head, sizeof(head), SIZE_MAX, &seen);
	ck_assert_uint_eq(seen.errors, 2); /* for ever */
	decoder_done(&d);
	buf_done(&b);
}
END_TEST

START_TEST(full_output)
{
	struct buf b;

	buf_init(&b, FRAME_HEAD_SIZE + 20);
	ck_assert_int_eq(frame_put(&b, FRAME_KILL, 1, "123456789012345678901", 21), -ENOBUFS);
	ck_assert_uint_eq(buf_len(&b), 0);
	ck_assert_int_eq(frame_put(&b, FRAME_KILL, 1, "12345678901234567890", 20), 0);
	ck_assert_int_eq(frame_put_ack(&b, 1, 1, 1, 1), -ENOBUFS);
	ck_assert_int_eq(frame_put_end(&b, 1, 1, 1), -ENOBUFS);
	ck_assert_int_eq(frame_put_data(&b, 1, 1, 1, NULL, 0), -ENOBUFS);
	buf_done(&b);
}
END_TEST

START_TEST(stream_frames)
{
	uint8_t bytes[32] = { STREAM_STDERR };
	struct frame f = { .type = FRAME_DATA, .payload = bytes, .length = 9 };
	struct frame_data data;
	uint8_t stream;
	uint64_t a, b;

	ck_assert_int_eq(frame_get_data(&f, &data), 0);
	ck_assert_uint_eq(data.n, 0);
	ck_assert_uint_eq(data.stream, STREAM_STDERR);
	ck_assert_int_eq(frame_get_end(&f, &stream, &a), 0);
	ck_assert_int_eq(frame_get_ack(&f, &stream, &a, &b), -EBADMSG);
	f.length = 17;
	ck_assert_int_eq(frame_get_ack(&f, &stream, &a, &b), 0);
	ck_assert_int_eq(frame_get_end(&f, &stream, &a), -EBADMSG);
	f.length = 8;
	ck_assert_int_eq(frame_get_data(&f, &data), -EBADMSG);
	f.length = 12;
	memset(bytes + 1, 0xff, 8);
	bytes[1] = 0xfe; /* offset 2^64-2 and three bytes: wraps */
	ck_assert_int_eq(frame_get_data(&f, &data), -EBADMSG);
	memset(bytes, 0, sizeof(bytes));
	bytes[0] = STREAM_MAX;
	ck_assert_int_eq(frame_get_data(&f, &data), -EBADMSG);
	f.length = 9;
	ck_assert_int_eq(frame_get_end(&f, &stream, &a), -EBADMSG);
}
END_TEST

static int assemble(struct frame_assembler *a, uint16_t type, uint16_t flags, uint32_t channel,
	const void *p, uint32_t n, struct frame *ret)
{
	*ret = (struct frame){ type, flags, channel, p, n };
	return frame_assembler_add(a, ret);
}

START_TEST(long_messages)
{
	static uint8_t big[LIMIT_MESSAGE_BYTES + 1];
	static const size_t sizes[] = { 0, 1, FRAME_PAYLOAD_MAX, FRAME_PAYLOAD_MAX + 1,
		2 * FRAME_PAYLOAD_MAX, LIMIT_MESSAGE_BYTES };
	struct buf b;

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (uint8_t)(i * 7 + i / 251);
	for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
		struct frame_assembler a;
		struct decoder d;
		struct frame f;
		unsigned whole = 0;
		buf_init(&b, 2 * MIB);
		frame_assembler_init(&a, LIMIT_MESSAGE_BYTES);
		decoder_init(&d, DECODER_PLAIN, NULL);
		ck_assert_int_eq(frame_put_long(&b, FRAME_START, 4, big, sizes[k]), 0);
		while (buf_len(&b) > 0) {
			size_t room;
			uint8_t *at = decoder_space(&d, &room);
			size_t n = MIN_OF(room, buf_len(&b));
			memcpy(at, buf_head(&b), n);
			decoder_fed(&d, n);
			buf_consume(&b, n);
			while (decoder_next(&d, &f) == DECODER_FRAME) {
				int r = frame_assembler_add(&a, &f);
				ck_assert_int_ge(r, 0);
				if (r == 0)
					continue;
				whole++;
				ck_assert_uint_eq(f.length, sizes[k]);
				ck_assert_uint_eq(f.channel, 4);
				ck_assert_uint_eq(f.flags, 0);
				if (f.length > 0)
					ck_assert_mem_eq(f.payload, big, f.length);
			}
		}
		ck_assert_uint_eq(whole, 1);
		frame_assembler_done(&a);
		decoder_done(&d);
		buf_done(&b);
	}
	buf_init(&b, 2 * MIB);
	ck_assert_int_eq(frame_put_long(&b, FRAME_START, 4, big, sizeof(big)), -EMSGSIZE);
	buf_done(&b);
}
END_TEST

START_TEST(hostile_parts)
{
	struct frame_assembler a;
	struct frame f;

	frame_assembler_init(&a, 10);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, "123456", 6, &f), 0);
	ck_assert_int_eq(assemble(&a, FRAME_NOP, 0, 0, NULL, 0, &f), 1);
	ck_assert_int_eq(assemble(&a, FRAME_START, 0, 2, "x", 1, &f), -EBADMSG);
	frame_assembler_reset(&a);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, "123456", 6, &f), 0);
	ck_assert_int_eq(assemble(&a, FRAME_KILL, 0, 1, "x", 1, &f), -EBADMSG);
	frame_assembler_reset(&a);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, "123456", 6, &f), 0);
	ck_assert_int_eq(assemble(&a, FRAME_START, 0, 1, "12345", 5, &f), -EBADMSG);
	frame_assembler_reset(&a);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, NULL, 0, &f), -EBADMSG);
	ck_assert_int_eq(assemble(&a, FRAME_START, 2, 1, NULL, 0, &f), -EBADMSG);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, "123456", 6, &f), 0);
	frame_assembler_reset(&a); /* the connection closed in the middle */
	ck_assert_int_eq(assemble(&a, FRAME_KILL, 0, 9, "x", 1, &f), 1);
	ck_assert_uint_eq(f.length, 1);
	ck_assert_int_eq(assemble(&a, FRAME_START, FRAME_FLAG_MORE, 1, "12345", 5, &f), 0);
	ck_assert_int_eq(assemble(&a, FRAME_START, 0, 1, "67890", 5, &f), 1);
	ck_assert_mem_eq(f.payload, "1234567890", 10);
	frame_assembler_done(&a);
}
END_TEST

/* Mutated streams: no crash, no read out of bounds (sanitizers), and it always terminates. */
START_TEST(mutations)
{
	unsigned seed = 42;
	struct buf b;
	struct decoder d;
	uint8_t copy[1024];

	buf_init(&b, sizeof(copy));
	ck_assert_int_eq(buf_append(&b, SYNC, SYNC_SIZE), 0);
	for (uint32_t i = 0; i < 8; i++) {
		ck_assert_int_eq(frame_put_data(&b, i, 1, i, SYNC, i * 4), 0);
		ck_assert_int_eq(frame_put_ack(&b, i, 1, i, i), 0);
	}
	size_t n = buf_len(&b);
	for (int round = 0; round < 100000; round++) {
		struct seen seen = { 0 };
		memcpy(copy, buf_head(&b), n);
		for (int k = rand_r(&seed) % 6; k >= 0; k--) {
			size_t at = (size_t)rand_r(&seed) % n;
			if (rand_r(&seed) % 8 == 0)
				memcpy(copy + at, SYNC, MIN_OF(n - at, (size_t)SYNC_SIZE));
			else
				copy[at] = (uint8_t)rand_r(&seed);
		}
		enum decoder_mode mode = (enum decoder_mode)(round % 3);
		decoder_init(&d, mode, mode == DECODER_PLAIN ? NULL : SYNC);
		feed(&d, copy, (size_t)rand_r(&seed) % (n + 1), (size_t)rand_r(&seed) % 200 + 1,
			&seen);
		decoder_done(&d);
		ck_assert_uint_le(seen.frames, n / FRAME_HEAD_SIZE);
	}
	buf_done(&b);
}
END_TEST

static void one_event(struct decoder *d, const struct recorded *line)
{
	bool mark = streq(line->name, "SYNC") || streq(line->name, "NONCE");
	struct frame f;

	for (size_t i = 0; i < line->n; i++) {
		size_t room;
		uint8_t *at = decoder_space(d, &room);

		ck_assert_int_eq(decoder_next(d, &f), DECODER_MORE);
		at[0] = line->data[i];
		decoder_fed(d, 1);
	}
	ck_assert_int_eq(decoder_next(d, &f), mark ? DECODER_RESYNC : DECODER_FRAME);
	if (mark)
		return;
	ck_assert_uint_eq(f.type, line->frame.type);
	ck_assert_uint_eq(f.channel, line->frame.channel);
	ck_assert_uint_eq(f.length, line->frame.length);
	ck_assert_mem_eq(f.payload, line->frame.payload, f.length);
}

/* Each recorded frame is complete with its last byte, on both sides: it does not wait for the
 * next. */
START_TEST(recorded_frames)
{
	FILE *file = recorded_open((unsigned)_i);
	struct decoder host, agent;
	struct recorded line;
	unsigned frames = 0;

	decoder_init(&host, DECODER_NONCE, SYNC);
	decoder_init(&agent, DECODER_SYNC, SYNC);
	for (; recorded_next(file, &line); frames++) {
		if (line.way == '=' || line.way == '-')
			continue;
		if (streq(line.name, "SYNC"))
			decoder_set_mark(&agent, line.data);
		if (streq(line.name, "NONCE"))
			decoder_set_mark(&host, line.data);
		one_event(line.way == '>' ? &agent : &host, &line);
	}
	ck_assert_uint_gt(frames, 50);
	decoder_done(&host);
	decoder_done(&agent);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("frame");
	TCase *tc = tcase_create("frame");

	tcase_set_timeout(tc, 100);
	tcase_add_test(tc, every_split);
	tcase_add_test(tc, byte_by_byte);
	tcase_add_test(tc, cut_short);
	tcase_add_test(tc, held_back_until_clear);
	tcase_add_test(tc, payload_of_beginnings);
	tcase_add_test(tc, self_similar_mark);
	tcase_add_test(tc, nonce_throws_away);
	tcase_add_test(tc, mark_changes_under_way);
	tcase_add_test(tc, oversized);
	tcase_add_test(tc, full_output);
	tcase_add_test(tc, stream_frames);
	tcase_add_test(tc, long_messages);
	tcase_add_test(tc, hostile_parts);
	tcase_add_test(tc, mutations);
	tcase_add_loop_test(tc, recorded_frames, AGENT_PROTOCOL_MIN, AGENT_PROTOCOL_MAX);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
