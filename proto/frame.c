/* SPDX-License-Identifier: MIT */
/*
 * Encodes and decodes frames on a byte stream. Used by both ends of the agent stream and of the
 * live-stdio socket. What must stay true: a frame is returned only if all its bytes precede any
 * byte that is, or may become, part of SYNC; a peer's length is compared with FRAME_PAYLOAD_MAX
 * before use; each byte is searched once, by memmem, so that the decoder runs at the speed of
 * memory.
 */

#include "proto/frame.h"

/* Room for a frame with its head, a held-back prefix of SYNC, and further input. */
#define DECODER_BYTES ((size_t)96 * 1024)

/* Contains no zero byte, and its first byte only once. */
const uint8_t frame_sync_initial[SYNC_SIZE] = {
	0x8f,
	0x2e,
	0xa0,
	0x91,
	0x35,
	0x2a,
	0x92,
	0xc8,
	0x82,
	0x7f,
	0x22,
	0xa6,
	0x79,
	0x87,
	0x60,
	0xd8,
	0x4b,
	0x7b,
	0xbb,
	0x55,
	0x52,
	0xeb,
	0xdc,
	0x35,
	0x33,
	0x53,
	0x79,
	0xbc,
	0x2a,
	0xef,
	0xd8,
	0x97,
};

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_head(
	struct buf *out, size_t n, uint16_t type, uint16_t flags, uint32_t channel, int *r)
{
	put_u32(out, (uint32_t)n, r);
	put_u16(out, type, r);
	put_u16(out, flags, r);
	put_u32(out, channel, r);
}

/* Reserves room for the whole frame first, so that a failure appends nothing. */
static int begin_frame(struct buf *out, size_t n)
{
	return buf_reserve(out, n) ? 0 : -errno;
}

/* Only file contents may be long: a peer can make the other hold a message of this size. */
static size_t message_max(uint16_t type)
{
	return type == FRAME_FILE || type == FRAME_FILE_DONE ? LIMIT_FILE_MESSAGE_BYTES
							     : LIMIT_MESSAGE_BYTES;
}

int frame_put(struct buf *out, uint16_t type, uint32_t channel, const void *payload, size_t n)
{
	if (n > FRAME_PAYLOAD_MAX)
		return -EMSGSIZE;
	return frame_put_long(out, type, channel, payload, n);
}

int frame_put_long(struct buf *out, uint16_t type, uint32_t channel, const void *payload, size_t n)
{
	const uint8_t *at = payload;

	if (n > message_max(type))
		return -EMSGSIZE;
	size_t n_frames = n > 0 ? (n + FRAME_PAYLOAD_MAX - 1) / FRAME_PAYLOAD_MAX : 1;
	int r = begin_frame(out, n + FRAME_HEAD_SIZE * n_frames);
	if (r < 0)
		return r;
	for (; n > FRAME_PAYLOAD_MAX; n -= FRAME_PAYLOAD_MAX, at += FRAME_PAYLOAD_MAX) {
		put_head(out, FRAME_PAYLOAD_MAX, type, FRAME_FLAG_MORE, channel, &r);
		put_bytes(out, at, FRAME_PAYLOAD_MAX, &r);
	}
	put_head(out, n, type, 0, channel, &r);
	put_bytes(out, at, n, &r);
	return r;
}

int frame_put_data(struct buf *out, uint32_t channel, uint8_t stream, uint64_t offset,
	const void *bytes, size_t n)
{
	if (n > FRAME_DATA_MAX)
		return -EMSGSIZE;
	int r = begin_frame(out, FRAME_HEAD_SIZE + FRAME_DATA_HEAD + n);
	if (r < 0)
		return r;
	put_head(out, FRAME_DATA_HEAD + n, FRAME_DATA, 0, channel, &r);
	put_u8(out, stream, &r);
	put_u64(out, offset, &r);
	put_bytes(out, bytes, n, &r);
	return r;
}

int frame_put_ack(struct buf *out, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit)
{
	int r = begin_frame(out, FRAME_HEAD_SIZE + 17);
	if (r < 0)
		return r;
	put_head(out, 17, FRAME_ACK, 0, channel, &r);
	put_u8(out, stream, &r);
	put_u64(out, upto, &r);
	put_u64(out, limit, &r);
	return r;
}

int frame_put_end(struct buf *out, uint32_t channel, uint8_t stream, uint64_t offset)
{
	int r = begin_frame(out, FRAME_HEAD_SIZE + 9);
	if (r < 0)
		return r;
	put_head(out, 9, FRAME_END, 0, channel, &r);
	put_u8(out, stream, &r);
	put_u64(out, offset, &r);
	return r;
}

int frame_get_data(const struct frame *f, struct frame_data *ret)
{
	struct rd rd = { .p = f->payload, .n = f->length };

	uint8_t stream = get_u8(&rd);
	uint64_t offset = get_u64(&rd);
	/* Refuses an offset that would wrap. */
	if (rd.failed || stream >= STREAM_MAX || offset > UINT64_MAX - rd.n)
		return -EBADMSG;
	*ret = (struct frame_data){ stream, offset, rd.p, rd.n };
	return 0;
}

int frame_get_ack(
	const struct frame *f, uint8_t *ret_stream, uint64_t *ret_upto, uint64_t *ret_limit)
{
	struct rd rd = { .p = f->payload, .n = f->length };

	uint8_t stream = get_u8(&rd);
	uint64_t upto = get_u64(&rd);
	uint64_t limit = get_u64(&rd);
	if (rd_done(&rd) < 0 || stream >= STREAM_MAX)
		return -EBADMSG;
	*ret_stream = stream;
	*ret_upto = upto;
	*ret_limit = limit;
	return 0;
}

int frame_get_end(const struct frame *f, uint8_t *ret_stream, uint64_t *ret_offset)
{
	struct rd rd = { .p = f->payload, .n = f->length };

	uint8_t stream = get_u8(&rd);
	uint64_t offset = get_u64(&rd);
	if (rd_done(&rd) < 0 || stream >= STREAM_MAX)
		return -EBADMSG;
	*ret_stream = stream;
	*ret_offset = offset;
	return 0;
}

/* Returns the length of the longest suffix of the n bytes that is a proper prefix of mark. */
static size_t mark_begins(const uint8_t *mark, const uint8_t *p, size_t n)
{
	size_t k = MIN_OF(n, (size_t)SYNC_SIZE - 1);

	while (k > 0 && memcmp(p + n - k, mark, k) != 0)
		k--;
	return k;
}

bool frame_needs_nop(const uint8_t sync[SYNC_SIZE], const uint8_t *tail, size_t n)
{
	return mark_begins(sync, tail, n) > 0;
}

void frame_make_sync(uint8_t ret[SYNC_SIZE])
{
	random_bytes(ret, SYNC_SIZE);
	for (size_t i = 0; i < SYNC_SIZE; i++) {
		while (ret[i] == 0)
			random_bytes(&ret[i], 1);
	}
}

void decoder_init(struct decoder *d, enum decoder_mode mode, const uint8_t *mark)
{
	*d = (struct decoder){ .mode = mode, .synced = mode == DECODER_PLAIN };
	buf_init(&d->in, DECODER_BYTES);
	if (mark)
		memcpy(d->mark, mark, SYNC_SIZE);
}

void decoder_done(struct decoder *d)
{
	buf_done(&d->in);
}

static void decoder_consume(struct decoder *d, size_t n)
{
	buf_consume(&d->in, n);
	d->scanned -= MIN_OF(n, d->scanned);
}

static void decoder_drop_frame(struct decoder *d)
{
	decoder_consume(d, d->frame);
	d->frame = 0;
}

void decoder_set_mark(struct decoder *d, const uint8_t *mark)
{
	memcpy(d->mark, mark, SYNC_SIZE);
	d->found = false;
	if (d->mode == DECODER_NONCE) {
		buf_clear(&d->in);
		d->synced = false;
		d->frame = 0;
		d->scanned = 0;
		return;
	}
	/* The frame returned last was complete under the old mark: search after it. */
	d->scanned = d->frame;
}

uint8_t *decoder_space(struct decoder *d, size_t *ret_n)
{
	decoder_drop_frame(d);
	size_t n = DECODER_BYTES - buf_len(&d->in);
	uint8_t *p = buf_reserve(&d->in, MAX_OF(n, (size_t)1));
	if (p)
		*ret_n = n;
	return p;
}

void decoder_fed(struct decoder *d, size_t n)
{
	buf_commit(&d->in, n);
}

/* Advances `scanned` to the mark, or to the first byte of a possible mark. */
static void decoder_scan(struct decoder *d)
{
	const uint8_t *p = buf_head(&d->in);
	size_t n = buf_len(&d->in);

	if (d->mode == DECODER_PLAIN || (d->mode == DECODER_NONCE && d->synced)) {
		d->scanned = n;
		return;
	}
	if (d->found || d->scanned == n)
		return;
	const uint8_t *at = memmem(p + d->scanned, n - d->scanned, d->mark, SYNC_SIZE);
	if (at) {
		d->found = true;
		d->scanned = (size_t)(at - p);
	} else {
		d->scanned = n - mark_begins(d->mark, p + d->scanned, n - d->scanned);
	}
}

/* Decodes the next frame before `scanned`: returns 1, 0 if it is incomplete, -EBADMSG. */
static int decoder_frame(struct decoder *d, struct frame *ret)
{
	if (d->scanned < FRAME_HEAD_SIZE)
		return 0;
	const uint8_t *p = buf_head(&d->in);
	uint32_t length = le32(p);
	if (length > FRAME_PAYLOAD_MAX)
		return -EBADMSG;
	if (d->scanned < FRAME_HEAD_SIZE + length)
		return 0;
	*ret = (struct frame){
		.type = (uint16_t)(p[4] | p[5] << 8),
		.flags = (uint16_t)(p[6] | p[7] << 8),
		.channel = le32(p + 8),
		.payload = p + FRAME_HEAD_SIZE,
		.length = length,
	};
	d->frame = FRAME_HEAD_SIZE + length;
	return 1;
}

int decoder_next(struct decoder *d, struct frame *ret)
{
	decoder_drop_frame(d);
	decoder_scan(d);
	if (d->synced) {
		int r = decoder_frame(d, ret);
		if (r > 0)
			return DECODER_FRAME;
		if (r < 0) {
			d->synced = d->mode != DECODER_SYNC;
			return r;
		}
	}
	if (d->found) {
		decoder_consume(d, d->scanned + SYNC_SIZE);
		d->found = false;
		d->synced = true;
		return DECODER_RESYNC;
	}
	if (!d->synced)
		decoder_consume(d, d->scanned);
	return DECODER_MORE;
}

void frame_assembler_init(struct frame_assembler *a, size_t max)
{
	*a = (struct frame_assembler){ 0 };
	buf_init(&a->whole, max);
}

void frame_assembler_reset(struct frame_assembler *a)
{
	buf_clear(&a->whole);
	a->pending = false;
}

void frame_assembler_done(struct frame_assembler *a)
{
	buf_done(&a->whole);
	a->pending = false;
}

int frame_assembler_add(struct frame_assembler *a, struct frame *f)
{
	bool more = f->flags & FRAME_FLAG_MORE;

	if (f->flags & ~FRAME_FLAG_MORE)
		return -EBADMSG;
	if (!a->pending) {
		buf_clear(&a->whole); /* the message returned last */
		if (!more)
			return f->length <= a->whole.max ? 1 : -EBADMSG;
		a->type = f->type;
		a->channel = f->channel;
	} else if (f->type == FRAME_NOP && !more) {
		return 1;
	} else if (f->type != a->type || f->channel != a->channel) {
		return -EBADMSG;
	}
	/* A peer could repeat an empty part for ever. */
	if ((more && f->length == 0) || f->length > message_max(f->type) - buf_len(&a->whole))
		return -EBADMSG;
	int r = buf_append(&a->whole, f->payload, f->length);
	if (r < 0)
		return r == -ENOBUFS ? -EBADMSG : r;
	a->pending = more;
	if (more)
		return 0;
	f->flags = 0;
	f->payload = buf_head(&a->whole);
	f->length = (uint32_t)buf_len(&a->whole);
	return 1;
}
