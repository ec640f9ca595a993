/* SPDX-License-Identifier: MIT */
/*
 * The readers of a transcript: each has a cursor and a credit, and gets the records from there on,
 * from memory while they are in it, else from the file. Called by core/, and by transcript.c in its
 * steps.
 *
 * What must stay true: a reader gets every byte of its streams once and in order, or a gap in its
 * place; it has one read under way and at most SEGMENT_READ_MAX bytes of a file in memory; whatever
 * a callback frees is not touched after it.
 */

#include "daemon/agent/transcript-private.h"

#include <assert.h>

enum {
	SERVE_MAX = 256 * 1024, /* given to one reader in one step */
};

struct transcript_reader {
	TAILQ_ENTRY(transcript_reader) entry;
	struct transcript *t; /* borrowed: owns it */
	struct transcript_reader_callbacks cb;
	void *userdata; /* borrowed: the caller */
	unsigned streams;
	uint64_t credit;
	bool hold, caught_up, ended;
	bool served; /* serve runs: it frees the struct, if `gone` is set meanwhile */
	bool gone;
	int error;

	bool placed;   /* cursor is known */
	int64_t start; /* as asked for */
	uint64_t since;
	uint64_t cursor; /* of the next byte */

	/* A reader of one stream, by that stream's offsets: */
	uint8_t stream;  /* 0: it is none */
	uint64_t from;   /* bytes below are not passed */
	uint64_t offset; /* of the stream's next byte at the cursor */
	uint64_t lost;   /* bytes that were dropped before, to be reported */

	uint64_t pos, pos_cursor; /* the record in memory that was looked at last */

	struct transcript_op *op; /* borrowed: the read or search under way */
	uint8_t *bytes;           /* owned: records of a file */
	size_t n, at;
	uint64_t at_cursor;         /* of the record at `at` */
	uint32_t number;            /* of the segment in which */
	struct segment_place place; /* the next read goes on */
};

/* Bytes of one record from the cursor on. */
struct piece {
	bool gap;
	uint8_t stream;
	uint64_t n, usec;
	const uint8_t *bytes;
	const uint64_t *after; /* gap: the offsets behind it; NULL: it is of one stream */
};

/* Placing */

static uint64_t resolve(const struct transcript *t, int64_t start)
{
	uint64_t end = transcript_cursor(t), back = start < 0 ? -(uint64_t)start : 0;

	if (start >= 0)
		return MIN_OF((uint64_t)start, end);
	return MAX_OF(end - MIN_OF(end, back), transcript_earliest(t));
}

/* Places a reader at the beginning of the segment that has its first byte, or of memory, since only
 * there the offsets of the streams are known. */
static void place_at(struct transcript_reader *r)
{
	const struct transcript *t = r->t;
	const uint64_t *at = t->kept.offset;

	r->from = MIN_OF(r->from, t->end.offset[r->stream]);
	for (size_t i = t->segments.n; i-- > 0 && r->from < at[r->stream];)
		at = t->segments.items[i].offset;
	r->cursor = cursor_of(at);
	r->offset = at[r->stream];
	r->lost = r->offset - MIN_OF(r->offset, r->from);
}

static uint64_t find_in_memory(const struct transcript *t, uint64_t usec)
{
	uint64_t cursor = cursor_of(t->kept.offset);
	struct memory_record rec;

	for (uint64_t pos = t->kept.pos; pos < t->end.pos; pos += rec.size) {
		transcript_record_at(t, pos, &rec);
		if (!rec.gap && rec.usec >= usec)
			break;
		cursor += rec.length;
	}
	return cursor;
}

static void on_found(struct transcript_op *o)
{
	struct transcript_reader *r = o->owner;
	uint64_t found = o->r == 1 ? o->cursor : o->place.cursor;

	r->op = NULL;
	r->error = MIN_OF(o->r, 0);
	r->cursor = MAX_OF(found, resolve(r->t, r->start));
	r->placed = true;
	transcript_schedule(r->t);
}

static int start_find(struct transcript_reader *r)
{
	struct transcript *t = r->t;
	_cleanup_(transcript_op_freep) struct transcript_op *o =
		transcript_op_new(t->dir, t->id, transcript_run_find);
	int e = o ? segments_copy(&o->segments, &t->segments) : -ENOMEM;

	if (e < 0)
		return e;
	o->want = r->since;
	o->place.cursor = find_in_memory(t, r->since);
	r->op = o;
	transcript_op_queue(t->w, TAKE_PTR(o), r, on_found);
	return 0;
}

static bool place_reader(struct transcript_reader *r)
{
	if (!r->placed && r->since > 0) {
		if (!r->op)
			r->error = start_find(r);
	} else if (!r->placed) {
		if (r->stream)
			place_at(r);
		else
			r->cursor = resolve(r->t, r->start);
		r->placed = true;
	}
	return r->placed;
}

/* Reading files */

static struct segment *find_number(struct segments *l, uint32_t number)
{
	for (size_t i = 0; i < l->n; i++) {
		if (l->items[i].number == number)
			return &l->items[i];
	}
	return NULL;
}

static void on_read(struct transcript_op *o)
{
	struct transcript_reader *r = o->owner;
	struct segment *s = find_number(&r->t->segments, o->number);

	r->op = NULL;
	transcript_schedule(r->t);
	if (o->r == -ENOENT) { /* somebody has deleted it */
		if (s)
			s->bad = cursor_of(s->offset);
	} else if (o->r < 0) {
		r->error = o->r;
	} else if (o->read_n == 0) { /* not what was written */
		if (s)
			s->bad = MIN_OF(s->bad, o->cursor);
	} else {
		r->bytes = TAKE_PTR(o->read);
		r->n = o->read_n;
		r->at = 0;
		r->at_cursor = o->cursor;
		r->number = o->number;
		r->place = o->place;
	}
}

static int start_read(struct transcript_reader *r, const struct segment *s)
{
	struct transcript *t = r->t;
	struct transcript_op *o = transcript_op_new(t->dir, t->id, transcript_run_read);

	if (!o)
		return -ENOMEM;
	o->number = s->number;
	o->size = s->size;
	o->want = r->cursor;
	o->place = r->place;
	if (r->number != s->number || r->place.at == 0 || r->place.cursor > r->cursor)
		o->place = (struct segment_place){ SEGMENT_HEAD_SIZE, cursor_of(s->offset) };
	r->op = o;
	transcript_op_queue(t->w, o, r, on_read);
	return 0;
}

static bool next_of_buffer(struct transcript_reader *r, struct piece *ret)
{
	struct record rec;

	while (r->bytes) {
		uint64_t skip;

		if (record_get(r->bytes + r->at, r->n - r->at, &rec) < 0) {
			free(TAKE_PTR(r->bytes)); /* at its end */
			return false;
		}
		skip = r->cursor - r->at_cursor;
		if (skip < rec.length) {
			*ret = (struct piece){ .stream = rec.stream,
				.n = rec.length - skip,
				.usec = rec.usec,
				.bytes = r->bytes + r->at + RECORD_HEAD_SIZE + skip };
			return true;
		}
		r->at += record_size(&rec);
		r->at_cursor += rec.length;
	}
	return false;
}

/* A reader stays at the last record when it has had all of it, since the record may still grow. */
static bool next_of_memory(struct transcript_reader *r, struct piece *ret)
{
	const struct transcript *t = r->t;
	struct memory_record rec;

	if (r->pos < t->kept.pos || r->pos_cursor > r->cursor) {
		r->pos = t->kept.pos;
		r->pos_cursor = cursor_of(t->kept.offset);
	}
	while (r->pos < t->end.pos) {
		uint64_t skip;

		transcript_record_at(t, r->pos, &rec);
		skip = r->cursor - r->pos_cursor;
		if (skip < rec.length) {
			*ret = (struct piece){ .gap = rec.gap,
				.stream = rec.stream,
				.n = rec.length - skip,
				.usec = rec.usec,
				.bytes = rec.bytes + (rec.gap ? 0 : skip) };
			return true;
		}
		if (r->pos + rec.size >= t->end.pos)
			return false;
		r->pos += rec.size;
		r->pos_cursor += rec.length;
	}
	return false;
}

/* Returns a gap, or starts a read. */
static bool next_of_file(struct transcript_reader *r, struct piece *ret)
{
	const struct transcript *t = r->t;
	const uint64_t *next = t->kept.offset;

	for (size_t i = 0; i < t->segments.n; i++) {
		const struct segment *s = &t->segments.items[i];

		if (r->cursor < cursor_of(s->offset)) {
			if (cursor_of(s->offset) < cursor_of(next))
				next = s->offset;
			break;
		}
		if (r->cursor < MIN_OF(s->end, s->bad)) {
			if (r->credit > 0)
				r->error = start_read(r, s);
			return false;
		}
	}
	*ret = (struct piece){ .gap = true, .n = cursor_of(next) - r->cursor, .after = next };
	return true;
}

static bool next_piece(struct transcript_reader *r, struct piece *ret)
{
	if (r->ended || r->error < 0 || r->op)
		return false;
	if (r->lost > 0) {
		*ret = (struct piece){ .gap = true };
		return true;
	}
	if (next_of_buffer(r, ret))
		return true;
	if (r->cursor >= cursor_of(r->t->kept.offset))
		return next_of_memory(r, ret);
	return next_of_file(r, ret);
}

/* Serving */

/* The last act on a reader: the callback may free it. */
static void finish(struct transcript_reader *r, int error)
{
	r->ended = true;
	free(TAKE_PTR(r->bytes));
	if (r->cb.on_end)
		r->cb.on_end(r, error, r->userdata);
}

static void pass_gap(struct transcript_reader *r, const struct piece *p)
{
	uint64_t n = p->n, after, had;

	r->cursor += n;
	if (r->stream) {
		after = r->offset + (p->stream == r->stream ? n : 0);
		if (p->after)
			after = p->after[r->stream];
		had = MAX_OF(r->offset, r->from);
		r->offset = after;
		n = after - MIN_OF(after, had) + r->lost;
		r->lost = 0;
	}
	if (n > 0 && r->cb.on_gap)
		r->cb.on_gap(r, n, r->userdata);
}

/* Passes one piece, or as much of it as the credit allows. Returns false without credit. */
static bool give(struct transcript_reader *r, const struct piece *p, uint64_t *left)
{
	uint64_t n = MIN_OF(p->n, MIN_OF(r->credit, *left));
	int e;

	if (p->gap) {
		pass_gap(r, p);
		return true;
	}
	if (!(r->streams & 1u << p->stream)) {
		r->cursor += p->n;
		return true;
	}
	if (r->stream && r->offset < r->from) {
		n = MIN_OF(p->n, r->from - r->offset);
		r->cursor += n;
		r->offset += n;
		return true;
	}
	if (n == 0)
		return false;
	r->cursor += n;
	r->offset += n;
	r->credit -= n;
	*left -= n;
	e = r->cb.on_bytes(r, p->stream, p->bytes, (size_t)n, p->usec, r->userdata);
	if (e < 0)
		r->error = e;
	return true;
}

static void notify_end(struct transcript_reader *r)
{
	struct transcript *t = r->t;

	if (r->ended)
		return;
	if (r->error < 0) {
		finish(r, r->error);
	} else if (r->placed && r->cursor >= transcript_cursor(t)) {
		if (t->ended)
			finish(r, 0);
		else if (!r->caught_up) {
			r->caught_up = true;
			if (r->cb.on_caught_up)
				r->cb.on_caught_up(r, r->userdata);
		}
	}
}

/* Returns true if it may have more at once. A callback may free it, or the transcript. */
static bool serve(struct transcript_reader *r)
{
	uint64_t left = SERVE_MAX;
	struct piece p;

	if (r->t->error < 0)
		r->error = r->t->error;
	if (r->ended || (r->error == 0 && !place_reader(r) && r->error == 0))
		return false;
	r->served = true;
	if (r->cursor < transcript_cursor(r->t))
		r->caught_up = false;
	while (!r->gone && left > 0 && next_piece(r, &p)) {
		if (!give(r, &p, &left))
			break;
	}
	if (!r->gone)
		notify_end(r);
	r->served = false;
	if (r->gone)
		free(r);
	return left == 0;
}

bool transcript_readers_serve(struct transcript *t)
{
	struct transcript_reader *r;
	bool more = false;
	size_t n = 0;

	if (!t->opened && t->error == 0)
		return false;
	TAILQ_FOREACH (r, &t->readers, entry)
		n++;
	/* Callbacks make and free readers: each one served goes to the end of the list. */
	for (; n > 0 && !t->freed && (r = TAILQ_FIRST(&t->readers)); n--) {
		TAILQ_REMOVE(&t->readers, r, entry);
		TAILQ_INSERT_TAIL(&t->readers, r, entry);
		more = serve(r) || more;
	}
	return more;
}

uint64_t transcript_readers_held(const struct transcript *t)
{
	const struct transcript_reader *r;
	uint64_t held = UINT64_MAX;

	TAILQ_FOREACH (r, &t->readers, entry) {
		if (r->hold && !r->ended)
			held = MIN_OF(held, r->placed ? r->cursor : 0);
	}
	return held;
}

/* Making, and what callers ask for */

static struct transcript_reader *reader_new(struct transcript *t, unsigned streams,
	const struct transcript_reader_callbacks *cb, void *userdata)
{
	struct transcript_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->t = t;
	r->cb = *cb;
	r->userdata = userdata;
	r->streams = streams;
	TAILQ_INSERT_TAIL(&t->readers, r, entry);
	transcript_schedule(t);
	return r;
}

int transcript_reader_new(struct transcript *t, int64_t cursor, unsigned streams,
	const struct transcript_reader_callbacks *cb, void *userdata,
	struct transcript_reader **ret)
{
	struct transcript_reader *r = reader_new(t, streams, cb, userdata);

	if (!r)
		return -ENOMEM;
	r->start = cursor;
	if (t->opened)
		(void)place_reader(r);
	*ret = r;
	return 0;
}

int transcript_reader_new_at(struct transcript *t, uint8_t stream, uint64_t offset,
	const struct transcript_reader_callbacks *cb, void *userdata,
	struct transcript_reader **ret)
{
	struct transcript_reader *r;

	if (stream == STREAM_STDIN || stream >= STREAM_MAX)
		return -EINVAL;
	r = reader_new(t, 1u << stream, cb, userdata);
	if (!r)
		return -ENOMEM;
	r->stream = stream;
	r->from = offset;
	if (t->opened)
		(void)place_reader(r);
	*ret = r;
	return 0;
}

struct transcript_reader *transcript_reader_free(struct transcript_reader *r)
{
	if (!r)
		return NULL;
	r->op = transcript_op_cancel(r->t->w, r->op);
	TAILQ_REMOVE(&r->t->readers, r, entry);
	transcript_schedule(r->t); /* it may have held segments */
	free(r->bytes);
	if (r->served)
		r->gone = true;
	else
		free(r);
	return NULL;
}

void transcript_reader_since(struct transcript_reader *r, uint64_t usec)
{
	assert(!r->stream);
	r->since = usec;
	r->placed = usec == 0 && r->placed;
	transcript_schedule(r->t);
}

void transcript_reader_credit(struct transcript_reader *r, uint64_t bytes)
{
	r->credit += MIN_OF(bytes, UINT64_MAX - r->credit);
	transcript_schedule(r->t);
}

uint64_t transcript_reader_cursor(const struct transcript_reader *r)
{
	if (r->placed)
		return r->cursor;
	return r->start > 0 ? (uint64_t)r->start : 0;
}

void transcript_reader_hold(struct transcript_reader *r)
{
	r->hold = true;
}
