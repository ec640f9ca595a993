/* SPDX-License-Identifier: MIT */
/*
 * The kept output of one command: appended to memory, written in order by the writer thread, given
 * to readers by transcript-reader.c. Called by core/.
 *
 * Appending only adds to memory; everything else happens in steps, which are events of the loop:
 * readers get what is new, the next write is queued, what was written is dropped from memory and
 * reported as kept.
 *
 * What must stay true:
 * - bytes are written once, in the order in which they were appended, one write at a time;
 * - memory holds at most STREAM_WINDOW bytes of each stream, and a head of 13 bytes for each append
 *   that could not be joined to the one before;
 * - what cannot be written is a gap: it is dropped when every holding reader has had it, and the
 *   next bytes begin a segment of their own;
 * - nobody opens, reads or writes a file on the loop.
 */

#include "daemon/agent/transcript-private.h"

#include <assert.h>

#include "daemon/log.h"

enum {
	ID_MAX = 64,
	WRITE_MAX = 256 * 1024, /* in one operation */
	JOIN_USEC = 10 * 1000,  /* bytes that arrive within it share a record, and its time */
	LENGTH_AT = 1,          /* of a record's length in its head */
	SEGMENTS_MIN = 2,       /* whatever the limit: the one that is written and a full one */
	MEMORY_KEEP = 8 * 1024, /* an empty memory frees a larger allocation */
	/* Of all streams, each byte in a record of its own. */
	MEMORY_MAX = 4 * STREAM_WINDOW * (RECORD_HEAD_SIZE + 1),
};

/* Marks and memory */

static void put_le(uint8_t *p, uint64_t v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint8_t *memory_at(const struct transcript *t, uint64_t pos)
{
	return t->memory.data + t->memory.start + (pos - t->kept.pos);
}

void transcript_record_at(const struct transcript *t, uint64_t pos, struct memory_record *ret)
{
	struct rd rd = { .p = memory_at(t, pos), .n = (size_t)(t->end.pos - pos) };
	uint8_t stream = get_u8(&rd);
	uint32_t length = get_u32(&rd);
	uint64_t usec = get_u64(&rd);
	bool gap = stream & RECORD_GAP;

	*ret = (struct memory_record){ .stream = (uint8_t)(stream & ~RECORD_GAP),
		.gap = gap,
		.length = gap ? usec : length,
		.usec = usec,
		.size = RECORD_HEAD_SIZE + length,
		.bytes = rd.p };
}

static void mark_pass(struct mark *m, const struct memory_record *rec)
{
	m->pos += rec->size;
	m->offset[rec->stream] += rec->length;
}

/* Makes the bytes part of the last record, if that is not with the writer thread yet. Readers have
 * no pointer into it, and notice that it has grown. */
static bool join_last(struct transcript *t, uint8_t stream, const void *p, size_t n, uint64_t usec)
{
	struct memory_record last;

	if (t->end.pos == t->submitted.pos)
		return false;
	transcript_record_at(t, t->last_pos, &last);
	if (last.gap || last.stream != stream || last.length + n > RECORD_BYTES_MAX ||
		usec < last.usec || usec - last.usec >= JOIN_USEC)
		return false;
	if (buf_append(&t->memory, p, n) < 0)
		return false;
	put_le(memory_at(t, t->last_pos) + LENGTH_AT, last.length + n, sizeof(uint32_t));
	t->end.pos += n;
	t->end.offset[stream] += n;
	return true;
}

static int add_record(struct transcript *t, const struct record *rec, const void *p)
{
	int r = record_put(&t->memory, rec, p);

	if (r < 0)
		return r;
	t->last_pos = t->end.pos;
	t->end.pos += record_size(rec);
	t->end.offset[rec->stream] += rec->length;
	return 0;
}

static bool is_output(uint8_t stream)
{
	return stream == STREAM_STDOUT || stream == STREAM_STDERR || stream == STREAM_PTY;
}

static int may_append(const struct transcript *t, uint8_t stream)
{
	if (!is_output(stream))
		return -EINVAL;
	if (!t->opened)
		return t->error < 0 ? t->error : -EAGAIN;
	return t->ended ? -EPIPE : 0;
}

int transcript_append(struct transcript *t, uint8_t stream, const void *p, size_t n)
{
	size_t heads = (n / RECORD_BYTES_MAX + 1) * RECORD_HEAD_SIZE;
	uint64_t usec = wall_usec();
	int r = may_append(t, stream);
	uint64_t unkept;

	if (r < 0)
		return r;
	unkept = t->end.offset[stream] - t->kept.offset[stream];
	if (unkept > STREAM_WINDOW || n > STREAM_WINDOW - unkept)
		return -ENOBUFS;
	if (n == 0)
		return 0;
	if (!buf_reserve(&t->memory, n + heads)) /* from here on nothing fails */
		return -errno;
	transcript_schedule(t);
	if (join_last(t, stream, p, n, usec))
		return 0;
	for (size_t at = 0; r >= 0 && at < n;) {
		struct record rec = { .stream = stream,
			.length = (uint32_t)MIN_OF(n - at, (size_t)RECORD_BYTES_MAX),
			.usec = usec };

		r = add_record(t, &rec, (const uint8_t *)p + at);
		at += rec.length;
	}
	return r;
}

int transcript_skip(struct transcript *t, uint8_t stream, uint64_t upto)
{
	uint8_t head[RECORD_HEAD_SIZE] = { stream | RECORD_GAP };
	int r = may_append(t, stream);

	if (r < 0)
		return r;
	if (upto > OFFSET_MAX)
		return -ERANGE;
	if (upto <= t->end.offset[stream])
		return 0;
	put_le(head + LENGTH_AT + sizeof(uint32_t), upto - t->end.offset[stream], sizeof(uint64_t));
	r = buf_append(&t->memory, head, sizeof(head));
	if (r < 0)
		return r;
	t->last_pos = t->end.pos;
	t->end.pos += sizeof(head);
	t->end.offset[stream] = upto;
	transcript_schedule(t);
	return 0;
}

/* The limit */

static void drop_first(struct transcript *t)
{
	struct transcript_op *o = transcript_op_new(t->dir, t->id, transcript_run_unlink);

	if (o) { /* else the file stays until transcript_remove */
		o->number = t->segments.items[0].number;
		transcript_op_queue(t->w, o, NULL, NULL);
	}
	segments_drop_first(&t->segments);
}

/* Drops the oldest segments beyond the limit; the last one counts as full. more: another one is
 * about to begin. */
static void trim(struct transcript *t, bool more)
{
	uint64_t limit = MAX_OF(t->limit, (uint64_t)SEGMENTS_MIN * SEGMENT_BYTES);
	uint64_t held = transcript_readers_held(t), total = more ? SEGMENT_BYTES : 0;

	for (size_t i = 0; i < t->segments.n; i++)
		total +=
			i + 1 < t->segments.n ? t->segments.items[i].size : (uint64_t)SEGMENT_BYTES;
	while (total > limit && t->segments.n > 1 && t->segments.items[0].end <= held) {
		total -= t->segments.items[0].size;
		drop_first(t);
	}
}

/* Writing */

static struct segment *last_segment(const struct transcript *t)
{
	return t->segments.n > 0 ? &t->segments.items[t->segments.n - 1] : NULL;
}

/* Bytes that never came are done: nothing is written for them. */
static void pass_gaps(struct transcript *t)
{
	struct memory_record rec;

	while (t->submitted.pos < t->end.pos) {
		transcript_record_at(t, t->submitted.pos, &rec);
		if (!rec.gap)
			return;
		mark_pass(&t->submitted, &rec);
		t->done_pos = t->submitted.pos;
		t->begin_segment = true;
	}
}

/* Chooses the segment that gets the next record, and whether it begins with it. */
static int choose_segment(struct transcript *t, struct transcript_op *o)
{
	struct segment *last = last_segment(t);
	struct memory_record rec;

	transcript_record_at(t, t->submitted.pos, &rec);
	if (last && !t->begin_segment && last->size + rec.size <= SEGMENT_BYTES) {
		o->number = last->number;
		o->place.at = last->size;
		return 0;
	}
	trim(t, true);
	o->number = t->segments.next_number;
	return segment_put_head(&o->bytes, t->submitted.offset);
}

/* Moves submitted over the records that fit into the operation. */
static int fill_write(struct transcript *t, struct transcript_op *o)
{
	uint64_t from = t->submitted.pos, used = o->place.at + buf_len(&o->bytes);
	uint64_t room = MIN_OF((uint64_t)WRITE_MAX, SEGMENT_BYTES - used);
	struct memory_record rec;

	while (t->submitted.pos < t->end.pos) {
		transcript_record_at(t, t->submitted.pos, &rec);
		if (rec.gap || t->submitted.pos + rec.size - from > room)
			break;
		mark_pass(&t->submitted, &rec);
	}
	return buf_append(&o->bytes, memory_at(t, from), (size_t)(t->submitted.pos - from));
}

/* Enters a write into the list of segments. There is room for it. */
static void enter_write(struct transcript *t, const struct transcript_op *o)
{
	struct segment *s = last_segment(t);

	if (o->place.at == 0) {
		s = &t->segments.items[t->segments.n++];
		*s = (struct segment){ .number = o->number, .bad = UINT64_MAX };
		memcpy(s->offset, o->begin, sizeof(s->offset));
		t->segments.next_number = o->number + 1;
	}
	assert(s); /* a write to its end was made from it, and the last is never dropped */
	s->end = cursor_of(o->end);
	s->size = o->place.at + buf_len(&o->bytes);
	t->begin_segment = false;
}

/* The records below pos cannot be written. */
static void lose(struct transcript *t, uint64_t pos, int error)
{
	t->lost_pos = pos;
	if (!t->fails)
		log_warning_errno(error,
			"cannot write the output of %s in %s; until this succeeds again, it is "
			"passed on but not kept",
			t->id, t->dir);
	t->fails = true;
}

/* Makes the next write. Returns 0 and NULL if there is none, -errno if it could not be made; its
 * records are below submitted then. */
static int next_write(struct transcript *t, struct transcript_op **ret)
{
	_cleanup_(transcript_op_freep) struct transcript_op *o = NULL;
	struct mark begin;
	int r;

	*ret = NULL;
	pass_gaps(t);
	if (t->submitted.pos == t->end.pos)
		return 0;
	begin = t->submitted;
	o = transcript_op_new(t->dir, t->id, transcript_run_append);
	r = o ? segments_reserve(&t->segments) : -ENOMEM;
	if (r >= 0)
		r = choose_segment(t, o);
	if (r >= 0)
		r = fill_write(t, o);
	if (r < 0) {
		t->submitted = t->end;
		return r;
	}
	memcpy(o->begin, begin.offset, sizeof(o->begin));
	memcpy(o->end, t->submitted.offset, sizeof(o->end));
	o->end_pos = t->submitted.pos;
	*ret = TAKE_PTR(o);
	return 0;
}

static void on_written(struct transcript_op *o)
{
	struct transcript *t = o->owner;

	t->write = NULL;
	if (o->r >= 0) {
		enter_write(t, o);
		t->done_pos = o->end_pos;
		t->fails = false;
	} else {
		if (o->r == -EEXIST && o->place.at == 0)
			t->segments.next_number = o->number + 1;
		lose(t, o->end_pos, o->r);
	}
	transcript_schedule(t);
}

static void start_write(struct transcript *t)
{
	struct transcript_op *o;
	int r;

	if (t->write || t->lost_pos > 0)
		return;
	r = next_write(t, &o);
	if (r < 0) {
		lose(t, t->submitted.pos, r);
		transcript_schedule(t);
	} else if (o) {
		t->write = o;
		transcript_op_queue(t->w, o, t, on_written);
	}
}

/* What could not be written is a gap as soon as every holding reader has had it. */
static void pass_lost(struct transcript *t)
{
	struct mark m = t->kept;
	struct memory_record rec;

	if (t->lost_pos == 0)
		return;
	while (m.pos < t->lost_pos) {
		transcript_record_at(t, m.pos, &rec);
		mark_pass(&m, &rec);
	}
	/* At the end nobody is waited for: the end must be saved. */
	if (!t->ended && transcript_readers_held(t) < cursor_of(m.offset))
		return;
	t->done_pos = t->lost_pos;
	t->lost_pos = 0;
	t->begin_segment = true;
}

static void drop_done(struct transcript *t)
{
	uint64_t from = t->kept.pos;
	struct memory_record rec;
	struct mark m = t->kept;

	while (m.pos < t->done_pos) {
		transcript_record_at(t, m.pos, &rec);
		mark_pass(&m, &rec);
	}
	t->kept = m;
	buf_consume(&t->memory, (size_t)(m.pos - from));
	if (buf_len(&t->memory) == 0 && t->memory.cap > MEMORY_KEEP) {
		buf_done(&t->memory);
		buf_init(&t->memory, MEMORY_MAX);
	}
}

/* Synchronising */

static void on_synced(struct transcript_op *o)
{
	struct transcript *t = o->owner;
	struct transcript_sync_request *q;

	t->sync = NULL;
	if (o->r >= 0)
		t->unsynced = o->segments.items[o->segments.n - 1].number;
	STAILQ_FOREACH(q, &t->requests, entry)
	{
		if (q->state != SYNC_RUNS)
			continue;
		q->state = SYNC_DONE;
		q->r = o->r;
	}
	transcript_schedule(t);
}

/* One sync at a time, for all requests whose bytes are written. */
static void start_sync(struct transcript *t)
{
	struct transcript_sync_request *q;
	_cleanup_(transcript_op_freep) struct transcript_op *o = NULL;
	int r = t->error;
	bool any = false;

	if (t->sync || (!t->opened && r == 0))
		return;
	if (r == 0 && t->segments.n > 0) {
		STAILQ_FOREACH(q, &t->requests, entry)
		any = any || (q->state == SYNC_WAITS && q->pos <= t->kept.pos);
		if (!any)
			return;
		o = transcript_op_new(t->dir, t->id, transcript_run_sync);
		r = o ? segments_copy(&o->segments, &t->segments) : -ENOMEM;
	}
	STAILQ_FOREACH(q, &t->requests, entry)
	{
		if (q->state != SYNC_WAITS || (r == 0 && q->pos > t->kept.pos))
			continue;
		q->state = o && r == 0 ? SYNC_RUNS : SYNC_DONE;
		q->r = r;
	}
	if (!o || r < 0)
		return;
	o->number = t->unsynced;
	t->sync = o;
	transcript_op_queue(t->w, TAKE_PTR(o), t, on_synced);
}

int transcript_sync(struct transcript *t, transcript_done_fn done, void *userdata)
{
	struct transcript_sync_request *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->pos = t->end.pos;
	q->done = done;
	q->userdata = userdata;
	STAILQ_INSERT_TAIL(&t->requests, q, entry);
	transcript_schedule(t);
	return 0;
}

/* Steps. The calls to the caller, each of which may free the transcript. */

static void answer_open(struct transcript *t)
{
	transcript_done_fn done = t->open_done;

	if (!done || (!t->opened && t->error == 0))
		return;
	t->open_done = NULL;
	done(t->error, t->open_userdata);
}

static void answer_syncs(struct transcript *t)
{
	while (!t->freed) {
		struct transcript_sync_request *q = STAILQ_FIRST(&t->requests);

		if (!q || q->state != SYNC_DONE)
			return;
		STAILQ_REMOVE_HEAD(&t->requests, entry);
		q->done(q->r, q->userdata);
		free(q);
	}
}

static void report_kept(struct transcript *t)
{
	for (uint8_t i = STREAM_STDOUT; !t->freed && i < STREAM_MAX; i++) {
		if (t->reported[i] == t->kept.offset[i])
			continue;
		t->reported[i] = t->kept.offset[i];
		if (t->cb.on_kept)
			t->cb.on_kept(t, i, t->reported[i], t->userdata);
	}
}

/* Everything that needs no caller. */
static void go_on(struct transcript *t)
{
	pass_lost(t);
	start_write(t);
	drop_done(t);
	trim(t, false);
	start_sync(t);
}

/* A callback may free the transcript: what is left of it is freed at the end. */
static int on_step(_unused_ sd_event_source *source, void *userdata)
{
	struct transcript *t = userdata;
	bool more = false;

	t->steps = true;
	answer_open(t);
	if (!t->freed)
		more = transcript_readers_serve(t);
	if (!t->freed)
		go_on(t);
	if (!t->freed && more)
		transcript_schedule(t);
	report_kept(t);
	answer_syncs(t);
	t->steps = false;
	if (t->freed)
		free(t);
	return 0;
}

void transcript_schedule(struct transcript *t)
{
	/* Fails only after a fork, or when the loop is finished. */
	(void)sd_event_source_set_enabled(t->step, SD_EVENT_ONESHOT);
}

/* Making and freeing */

static bool id_is_valid(const char *id)
{
	size_t n = strlen(id);

	return n > 0 && n <= ID_MAX && id[0] != '.' && !strchr(id, '/');
}

int transcript_new(struct writer *w, const char *dir, const char *id, uint64_t limit_bytes,
	const struct transcript_callbacks *cb, void *userdata, struct transcript **ret)
{
	_cleanup_(transcript_freep) struct transcript *t = NULL;
	int r;

	if (!id_is_valid(id))
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	TAILQ_INIT(&t->readers);
	STAILQ_INIT(&t->requests);
	buf_init(&t->memory, MEMORY_MAX);
	t->w = w;
	t->limit = limit_bytes;
	t->cb = *cb;
	t->userdata = userdata;
	t->opened = true;
	/* Not 0: readers begin at no place in memory. */
	t->kept.pos = t->submitted.pos = t->end.pos = t->done_pos = 1;
	t->dir = strdup(dir);
	t->id = strdup(id);
	if (!t->dir || !t->id)
		return -ENOMEM;
	r = sd_event_add_defer(writer_event(w), &t->step, on_step, t);
	if (r >= 0)
		r = sd_event_source_set_enabled(t->step, SD_EVENT_OFF);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(t);
	return 0;
}

static void on_opened(struct transcript_op *o)
{
	struct transcript *t = o->owner;

	t->open = NULL;
	t->error = MIN_OF(o->r, 0);
	t->opened = o->r >= 0;
	transcript_schedule(t);
	if (o->r < 0)
		return;
	t->segments = o->segments;
	o->segments = (struct segments){ 0 };
	memcpy(t->end.offset, t->segments.offset, sizeof(t->end.offset));
	t->kept = t->submitted = t->end;
	memcpy(t->reported, t->end.offset, sizeof(t->reported));
	t->unsynced = 0; /* the previous daemon may have been killed before it did */
}

int transcript_open(struct writer *w, const char *dir, const char *id, uint64_t limit_bytes,
	const struct transcript_callbacks *cb, void *userdata, transcript_done_fn done,
	struct transcript **ret)
{
	_cleanup_(transcript_freep) struct transcript *t = NULL;
	int r = transcript_new(w, dir, id, limit_bytes, cb, userdata, &t);

	if (r < 0)
		return r;
	t->opened = false;
	t->open_done = done;
	t->open_userdata = userdata;
	t->open = transcript_op_new(dir, id, transcript_run_open);
	if (!t->open)
		return -ENOMEM;
	transcript_op_queue(w, t->open, t, on_opened);
	*ret = TAKE_PTR(t);
	return 0;
}

/* Queues all that is in memory. That each write succeeds is assumed; the thread refuses one that
 * does not fit the file. */
static void write_rest(struct transcript *t)
{
	struct transcript_op *o;

	if (t->write)
		enter_write(t, t->write);
	t->write = transcript_op_disown(t->write);
	if (t->lost_pos > 0)
		t->begin_segment = true;
	while (next_write(t, &o) >= 0 && o) {
		enter_write(t, o);
		transcript_op_queue(t->w, o, NULL, NULL);
	}
}

struct transcript *transcript_free(struct transcript *t)
{
	struct transcript_sync_request *q;

	if (!t)
		return NULL;
	while (!TAILQ_EMPTY(&t->readers))
		transcript_reader_free(TAILQ_FIRST(&t->readers));
	if (t->opened && t->dir && t->id)
		write_rest(t);
	t->open = transcript_op_cancel(t->w, t->open);
	t->sync = transcript_op_disown(t->sync);
	while ((q = STAILQ_FIRST(&t->requests))) {
		STAILQ_REMOVE_HEAD(&t->requests, entry);
		free(q);
	}
	sd_event_source_disable_unref(t->step);
	segments_done(&t->segments);
	buf_done(&t->memory);
	free(t->dir);
	free(t->id);
	if (t->steps)
		t->freed = true;
	else
		free(t);
	return NULL;
}

void transcript_end(struct transcript *t)
{
	t->ended = true;
	transcript_schedule(t);
}

uint64_t transcript_size(const struct transcript *t, uint8_t stream)
{
	return is_output(stream) ? t->end.offset[stream] : 0;
}

uint64_t transcript_kept(const struct transcript *t, uint8_t stream)
{
	return is_output(stream) ? t->kept.offset[stream] : 0;
}

uint64_t transcript_cursor(const struct transcript *t)
{
	return cursor_of(t->end.offset);
}

uint64_t transcript_earliest(const struct transcript *t)
{
	return cursor_of(t->segments.n > 0 ? t->segments.items[0].offset : t->kept.offset);
}

uint64_t transcript_earliest_of(const struct transcript *t, uint8_t stream)
{
	if (!is_output(stream))
		return 0;
	return (t->segments.n > 0 ? t->segments.items[0].offset : t->kept.offset)[stream];
}

/* Removing */

static void on_removed(struct transcript_op *o)
{
	o->answer(o->r, o->answer_userdata);
}

static int remove_files(
	struct writer *w, struct transcript_op *o, transcript_done_fn done, void *userdata)
{
	if (!o)
		return -ENOMEM;
	o->answer = done;
	o->answer_userdata = userdata;
	transcript_op_queue(w, o, o, done ? on_removed : NULL);
	return 0;
}

int transcript_remove(
	struct writer *w, const char *dir, const char *id, transcript_done_fn done, void *userdata)
{
	if (!id_is_valid(id))
		return -EINVAL;
	return remove_files(w, transcript_op_new(dir, id, transcript_run_remove), done, userdata);
}

int transcript_remove_dir(
	struct writer *w, const char *dir, transcript_done_fn done, void *userdata)
{
	return remove_files(
		w, transcript_op_new(dir, "", transcript_run_remove_dir), done, userdata);
}
