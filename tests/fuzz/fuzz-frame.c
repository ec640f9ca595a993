/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the frame decoder and assembler: the first byte selects the mode, the second how
 * many bytes arrive at a time, the rest is the stream. Every frame must lie within its buffer, the
 * decoder must take all bytes or return -EBADMSG, and a frame that was read must be written again
 * as the same bytes. A frame of type SET_MARK changes the mark, as SETUP does with SYNC.
 */

#include "proto/frame.h"

#define SET_MARK 0xfffe

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_same(const struct buf *b, const struct frame *f)
{
	struct decoder d;
	struct frame again;
	size_t room = 0;

	decoder_init(&d, DECODER_PLAIN, NULL);
	uint8_t *at = decoder_space(&d, &room);
	if (!at || room < buf_len(b))
		abort();
	memcpy(at, buf_head(b), buf_len(b));
	decoder_fed(&d, buf_len(b));
	if (decoder_next(&d, &again) != DECODER_FRAME || again.type != f->type || again.flags ||
		again.channel != f->channel || again.length != f->length ||
		memcmp(again.payload, f->payload, f->length) != 0 ||
		decoder_next(&d, &again) != DECODER_MORE)
		abort();
	decoder_done(&d);
}

/* Writes f again by the function of its type: the same frame, or nothing when the bound is too
 * small. */
static void check_written(const struct frame *f)
{
	struct frame_data data;
	uint8_t stream;
	uint64_t a, b;
	struct buf out;
	int r;

	for (size_t max = f->length; max <= f->length + FRAME_HEAD_SIZE; max += FRAME_HEAD_SIZE) {
		buf_init(&out, max);
		if (f->type == FRAME_DATA && frame_get_data(f, &data) >= 0)
			r = frame_put_data(
				&out, f->channel, data.stream, data.offset, data.bytes, data.n);
		else if (f->type == FRAME_ACK && frame_get_ack(f, &stream, &a, &b) >= 0)
			r = frame_put_ack(&out, f->channel, stream, a, b);
		else if (f->type == FRAME_END && frame_get_end(f, &stream, &a) >= 0)
			r = frame_put_end(&out, f->channel, stream, a);
		else
			r = frame_put(&out, f->type, f->channel, f->payload, f->length);
		if (max == f->length ? r >= 0 || buf_len(&out) != 0 : r < 0)
			abort();
		if (r >= 0)
			check_same(&out, f);
		buf_done(&out);
	}
}

/* A long message that is cut into frames and reassembled is unchanged. */
static void check_long(const struct frame *f)
{
	struct frame_assembler a;
	struct decoder d;
	struct frame part;
	struct buf out;
	int r = 0;

	buf_init(&out, 2 * LIMIT_MESSAGE_BYTES);
	decoder_init(&d, DECODER_PLAIN, NULL);
	frame_assembler_init(&a, LIMIT_MESSAGE_BYTES);
	if (frame_put_long(&out, f->type, f->channel, f->payload, f->length) < 0)
		abort();
	while (r == 0) {
		size_t room = 0, n;
		uint8_t *at = decoder_space(&d, &room);

		n = MIN_OF(room, buf_len(&out));
		if (!at || n == 0)
			abort();
		memcpy(at, buf_head(&out), n);
		decoder_fed(&d, n);
		buf_consume(&out, n);
		while (r == 0 && decoder_next(&d, &part) == DECODER_FRAME)
			r = frame_assembler_add(&a, &part);
	}
	if (r != 1 || buf_len(&out) != 0 || part.type != f->type || part.channel != f->channel ||
		part.length != f->length || memcmp(part.payload, f->payload, f->length) != 0)
		abort();
	frame_assembler_done(&a);
	decoder_done(&d);
	buf_done(&out);
}

/* Reads the whole frame, so that a sanitizer sees a byte out of bounds. */
static void touch(const struct frame *f)
{
	struct frame_data data;
	uint8_t stream;
	uint64_t a, b;
	volatile uint8_t sum = 0;

	for (uint32_t i = 0; i < f->length; i++)
		sum = (uint8_t)(sum ^ f->payload[i]);
	if (frame_get_data(f, &data) >= 0 &&
		(data.n > f->length || data.offset > UINT64_MAX - data.n))
		abort();
	(void)frame_get_ack(f, &stream, &a, &b);
	(void)frame_get_end(f, &stream, &a);
}

static void check_whole(const struct frame *f)
{
	touch(f);
	if (f->length <= FRAME_PAYLOAD_MAX)
		check_written(f);
	check_long(f);
}

static bool take_frames(struct decoder *d, struct frame_assembler *a)
{
	struct frame f;
	int r;

	while ((r = decoder_next(d, &f)) != DECODER_MORE) {
		if (r == DECODER_RESYNC) {
			frame_assembler_reset(a);
		} else if (r == DECODER_FRAME) {
			if (f.type == SET_MARK && f.length == SYNC_SIZE &&
				d->mode != DECODER_PLAIN) {
				decoder_set_mark(d, f.payload);
				continue;
			}
			touch(&f);
			r = frame_assembler_add(a, &f);
			if (r == 1)
				check_whole(&f);
			else if (r < 0)
				frame_assembler_reset(a);
		} else if (d->mode != DECODER_SYNC) {
			return false;
		}
	}
	return true;
}

/* Checks frame_needs_nop, which a writer calls before it goes idle: does the output end with a
 * prefix of SYNC? */
static void check_nop(const uint8_t *p, size_t n)
{
	bool begins = false;

	for (size_t k = 1; k < SYNC_SIZE && k <= n; k++)
		begins = begins || memcmp(p + n - k, frame_sync_initial, k) == 0;
	if (frame_needs_nop(frame_sync_initial, p, n) != begins)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct decoder d;
	struct frame_assembler a;

	if (size < 2)
		return 0;
	decoder_init(&d, (enum decoder_mode)(data[0] % 3), data[0] % 3 ? frame_sync_initial : NULL);
	frame_assembler_init(&a, LIMIT_MESSAGE_BYTES);
	size_t step = (size_t)data[1] + 1;
	data += 2;
	size -= 2;
	check_nop(data, size);
	while (size > 0) {
		size_t room = 0;
		uint8_t *at = decoder_space(&d, &room);
		if (!at || room < 4096)
			abort();
		size_t n = MIN_OF(step, size);
		memcpy(at, data, n);
		decoder_fed(&d, n);
		data += n;
		size -= n;
		if (!take_frames(&d, &a))
			break;
	}
	frame_assembler_done(&a);
	decoder_done(&d);
	return 0;
}
