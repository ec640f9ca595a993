/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target of the frame decoder and assembler: the first byte picks the mode, the second how many
 * bytes arrive at a time, the rest is the stream. Whatever comes, every frame lies within its buffer and
 * the decoder takes all bytes or says -EBADMSG.
 */

#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads all of a frame, so that a sanitizer sees a byte outside. */
static void touch(const struct frame *f)
{
	struct frame_data data;
	uint8_t stream;
	uint64_t a, b;
	volatile uint8_t sum = 0;

	for (uint32_t i = 0; i < f->length; i++)
		sum = (uint8_t)(sum ^ f->payload[i]);
	if (frame_get_data(f, &data) >= 0 && data.n > f->length)
		abort();
	(void)frame_get_ack(f, &stream, &a, &b);
	(void)frame_get_end(f, &stream, &a);
}

static bool take_frames(struct decoder *d, struct frame_assembler *a)
{
	struct frame f;
	int r;

	while ((r = decoder_next(d, &f)) != DECODER_MORE) {
		if (r == DECODER_RESYNC) {
			frame_assembler_reset(a);
		} else if (r == DECODER_FRAME) {
			touch(&f);
			r = frame_assembler_add(a, &f);
			if (r == 1)
				touch(&f);
			else if (r < 0)
				frame_assembler_reset(a);
		} else if (d->mode != DECODER_SYNC) {
			return false;
		}
	}
	return true;
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
