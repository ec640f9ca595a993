/* SPDX-License-Identifier: MIT */
/*
 * The operations of transcripts on the writer thread. Made and queued by transcript.c and
 * transcript-reader.c. What must stay true: a run function uses its operation alone, the loop alone
 * uses owner; an owner disowns or cancels its operations before it is freed.
 */

#include "daemon/agent/transcript-private.h"

enum {
	OP_BYTES_MAX = SEGMENT_BYTES,
};

static struct transcript_op *of(struct writer_op *op)
{
	return (void *)((char *)op - offsetof(struct transcript_op, op));
}

static void on_done(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	if (o->owner && o->done)
		o->done(o);
}

static void on_free(struct writer_op *op)
{
	transcript_op_free(of(op));
}

void transcript_op_free(struct transcript_op *o)
{
	segments_done(&o->segments);
	buf_done(&o->bytes);
	free(o->read);
	free(o->dir);
	free(o->id);
	free(o);
}

struct transcript_op *transcript_op_new(
	const char *dir, const char *id, void (*run)(struct writer_op *op))
{
	struct transcript_op *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->op.run = run;
	o->op.done = on_done;
	o->op.free = on_free;
	buf_init(&o->bytes, OP_BYTES_MAX);
	o->dir = strdup(dir);
	o->id = strdup(id);
	if (!o->dir || !o->id) {
		transcript_op_free(o);
		return NULL;
	}
	return o;
}

void transcript_op_queue(struct writer *w, struct transcript_op *o, void *owner,
	void (*done)(struct transcript_op *o))
{
	o->owner = owner;
	o->done = done;
	writer_queue(w, &o->op);
}

struct transcript_op *transcript_op_cancel(struct writer *w, struct transcript_op *o)
{
	if (o && !writer_cancel(w, &o->op))
		o->owner = NULL;
	return NULL;
}

struct transcript_op *transcript_op_disown(struct transcript_op *o)
{
	if (o)
		o->owner = NULL;
	return NULL;
}

/* On the writer thread */

void transcript_run_open(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segments_list(o->dir, o->id, &o->segments);
}

void transcript_run_append(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segment_append(
		o->dir, o->id, o->number, o->place.at, buf_head(&o->bytes), buf_len(&o->bytes));
}

void transcript_run_read(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segment_read(o->dir, o->id, o->number, o->size, &o->place, o->want, &o->read,
		&o->read_n, &o->cursor);
}

void transcript_run_find(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segments_find_time(o->dir, o->id, &o->segments, o->want, &o->cursor);
}

void transcript_run_sync(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segments_sync(o->dir, o->id, &o->segments, o->number);
}

void transcript_run_unlink(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segment_unlink(o->dir, o->id, o->number);
}

void transcript_run_remove_dir(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segments_remove_dir(o->dir);
}

void transcript_run_remove(struct writer_op *op)
{
	struct transcript_op *o = of(op);

	o->r = segments_remove(o->dir, o->id);
}
