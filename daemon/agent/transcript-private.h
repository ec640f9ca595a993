/* SPDX-License-Identifier: MIT */
#pragma once

/* What transcript.c, transcript-reader.c and transcript-op.c share. */

#include "daemon/agent/segment.h"
#include "daemon/agent/transcript.h"
#include "daemon/writer.h"

/* One operation on the writer thread. */
struct transcript_op {
	struct writer_op op;
	/* The loop's: */
	void *owner; /* borrowed: the transcript or reader it is for; NULL: freed meanwhile */
	void (*done)(struct transcript_op *o); /* not called without an owner; may be NULL */
	transcript_done_fn answer;             /* remove: there the operation is its own owner */
	void *answer_userdata;                 /* borrowed: the caller */
	/* In: */
	char *dir, *id; /* owned */
	uint32_t number;
	uint64_t size; /* of the file, as far as it is known to be whole */
	uint64_t want; /* cursor, or time in microseconds */
	/* In and out: */
	struct segment_place place; /* append: offset in the file, and the cursor */
	struct segments segments;   /* owned */
	struct buf bytes;           /* owned; append */
	/* Out: */
	int r;
	uint64_t cursor;
	uint8_t *read; /* owned */
	size_t read_n;
	/* append, for the loop: the end of its bytes */
	uint64_t end_pos;
	uint64_t begin[STREAM_MAX], end[STREAM_MAX];
};

/* NULL when out of memory. */
struct transcript_op *transcript_op_new(
	const char *dir, const char *id, void (*run)(struct writer_op *op));
void transcript_op_free(struct transcript_op *o);
DEFINE_CLEANUP(struct transcript_op *, transcript_op_free)
/* Queues it; o->owner is notified by o->done. */
void transcript_op_queue(struct writer *w, struct transcript_op *o, void *owner,
	void (*done)(struct transcript_op *o));
/* Cancels it, or has its end ignored. Takes NULL. */
struct transcript_op *transcript_op_cancel(struct writer *w, struct transcript_op *o);
/* Has it done, but its end ignored. Takes NULL. */
struct transcript_op *transcript_op_disown(struct transcript_op *o);

void transcript_run_open(struct writer_op *op);   /* segments */
void transcript_run_append(struct writer_op *op); /* number, place.at, bytes */
/* number, size, place, want: read, read_n, cursor, place */
void transcript_run_read(struct writer_op *op);
void transcript_run_find(struct writer_op *op); /* segments, want: r 1 and cursor, or 0 */
void transcript_run_sync(struct writer_op *op); /* segments, number: the first */
void transcript_run_unlink(struct writer_op *op);
void transcript_run_remove(struct writer_op *op);
void transcript_run_remove_dir(struct writer_op *op);

/* A place in what was appended: pos counts the bytes of records in memory since the transcript was
 * made. */
struct mark {
	uint64_t pos;
	uint64_t offset[STREAM_MAX];
};

struct transcript_sync_request {
	STAILQ_ENTRY(transcript_sync_request) entry;
	uint64_t pos; /* what lies below must be on the disk */
	enum { SYNC_WAITS, SYNC_RUNS, SYNC_DONE } state;
	int r;
	transcript_done_fn done;
	void *userdata; /* borrowed: the caller */
};

TAILQ_HEAD(transcript_readers, transcript_reader);
STAILQ_HEAD(transcript_sync_requests, transcript_sync_request);

/*
 * kept ≤ submitted ≤ end. Memory holds the records from kept to end; those below submitted are
 * with the writer thread or done. Its bytes are dropped, and reported as kept, when they lie below
 * done_pos and the readers at the end have had their chance to get them.
 */
struct transcript {
	struct writer *w; /* borrowed: manager */
	char *dir, *id;   /* owned */
	uint64_t limit;
	struct transcript_callbacks cb;
	void *userdata;        /* borrowed: the caller */
	sd_event_source *step; /* owned; everything but appending happens in it */
	bool steps;            /* a step runs: it frees the struct, if `freed` is set meanwhile */
	bool freed;

	bool opened; /* the sizes are known */
	bool ended;
	int error;                    /* of the open */
	transcript_done_fn open_done; /* NULL: called, or there is none */
	void *open_userdata;          /* borrowed: the caller */

	struct buf memory; /* owned */
	struct mark kept, submitted, end;
	uint64_t done_pos;
	uint64_t last_pos; /* of the last record in memory */
	uint64_t reported[STREAM_MAX];

	struct segments segments; /* owned */
	bool begin_segment;       /* since a gap comes before the next bytes */
	uint32_t unsynced;        /* number of the first segment that is not on the disk */
	uint64_t lost_pos;        /* what lies below could not be written; 0: nothing */
	bool fails;               /* the last write did: logged once */

	struct transcript_op *open, *write, *sync; /* borrowed: under way; NULL: none is */
	struct transcript_sync_requests requests;  /* owned; in the order of pos */
	struct transcript_readers readers;         /* owned */
};

/* A record in memory: rec.stream has RECORD_GAP for bytes that never came. length: of both. */
#define RECORD_GAP 0x80
struct memory_record {
	uint8_t stream;
	bool gap;
	uint64_t length, usec;
	size_t size; /* in memory */
	const uint8_t *bytes;
};
void transcript_record_at(const struct transcript *t, uint64_t pos, struct memory_record *ret);
void transcript_schedule(struct transcript *t);

/* transcript-reader.c */
/* Gives readers what they may have. Returns true if there is more to do. A callback may
 * free the transcript. */
bool transcript_readers_serve(struct transcript *t);
uint64_t transcript_readers_held(const struct transcript *t); /* UINT64_MAX: nothing is */
