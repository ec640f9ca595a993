/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The kept output of one command (design.md section 7): append-only segments of records, written
 * and read by the writer thread, and read by cursor. A cursor counts the payload bytes of both
 * streams in their order of arrival. Past its limit a transcript drops its oldest segment. Nothing
 * of a machine's transcripts lies outside their directory (segment.h describes the files).
 */

#include "proto/frame.h"
#include <sys/types.h>

struct transcript;
struct transcript_reader;
struct writer;

struct transcript_callbacks {
	/* The bytes of the stream below upto are kept: in the file, or recorded as a gap because
	 * they cannot be written (a full file system) and every reader that holds has them. The
	 * agent may drop them. It may free the transcript. */
	void (*on_kept)(struct transcript *t, uint8_t stream, uint64_t upto, void *userdata);
};

#define TRANSCRIPT_BOTH (1u << STREAM_STDOUT | 1u << STREAM_STDERR)

/* Makes the transcript of a new command. dir: the directory of its machine's transcripts, created
 * when needed; its files are named after id. No file exists before the first byte. limit_bytes: of
 * its files, at least 2 MiB. */
int transcript_new(struct writer *w, const char *dir, const char *id, uint64_t limit_bytes,
	const struct transcript_callbacks *cb, void *userdata, struct transcript **ret);
/*
 * Opens the transcript of a previous daemon, or an empty one if no file exists. done is called
 * once, later: sizes are known from then on. A torn record at the end is cut. Until then nothing
 * may be appended; reads wait.
 */
typedef void (*transcript_done_fn)(int r, void *userdata);
int transcript_open(struct writer *w, const char *dir, const char *id, uint64_t limit_bytes,
	const struct transcript_callbacks *cb, void *userdata, transcript_done_fn done,
	struct transcript **ret);
/* Frees readers too. What was appended is still written; no callback follows. */
struct transcript *transcript_free(struct transcript *t);
DEFINE_CLEANUP(struct transcript *, transcript_free)

/* Appends bytes that begin at transcript_size(t, stream). -ENOBUFS when more than STREAM_WINDOW
 * bytes of the stream are not kept yet, -EAGAIN before it is opened, -EPIPE after its end. */
int transcript_append(struct transcript *t, uint8_t stream, const void *p, size_t n);
/* The bytes of the stream from transcript_size up to upto are lost: they become a gap. (An agent
 * goes on beyond the size: what a full file system did not take was acknowledged.) */
int transcript_skip(struct transcript *t, uint8_t stream, uint64_t upto);
/* No more bytes follow: readers at the end are told so. */
void transcript_end(struct transcript *t);
/* Calls done when everything appended before is on the disk (fdatasync), or is a gap. */
int transcript_sync(struct transcript *t, transcript_done_fn done, void *userdata);
/* Removes the files of a command, after what its transcript, which is freed, has still written. No
 * files: done gets 0. done may be NULL. Before a machine's directory is removed by other means, all
 * its transcripts must be freed and one such call answered. */
int transcript_remove(
	struct writer *w, const char *dir, const char *id, transcript_done_fn done, void *userdata);

/* Removes the directory after the files of its commands: done as above. */
int transcript_remove_dir(
	struct writer *w, const char *dir, transcript_done_fn done, void *userdata);

uint64_t transcript_size(const struct transcript *t, uint8_t stream); /* its bytes so far */
uint64_t transcript_kept(const struct transcript *t, uint8_t stream); /* below: on_kept */
uint64_t transcript_cursor(const struct transcript *t);               /* after the last byte */
uint64_t transcript_earliest(const struct transcript *t); /* cursor of the first byte left */
/* Offset of the first byte of the stream that is left. */
uint64_t transcript_earliest_of(const struct transcript *t, uint8_t stream);

struct transcript_reader_callbacks {
	/* The next bytes of the reader, in order; never more than its credit. -errno ends it. */
	int (*on_bytes)(struct transcript_reader *r, uint8_t stream, const void *p, size_t n,
		uint64_t usec, void *userdata);
	/* n bytes before the next ones are no longer there, or never were: of all streams, as the
	 * cursor counts; of its stream, for a reader of transcript_reader_new_at. May be NULL. */
	void (*on_gap)(struct transcript_reader *r, uint64_t n, void *userdata);
	/* Everything up to the present end has been passed; more may follow. May be NULL. */
	void (*on_caught_up)(struct transcript_reader *r, void *userdata);
	/* After transcript_end and the last byte. Or error < 0: the file cannot be read, or on_bytes
	 * has returned it. May be NULL. */
	void (*on_end)(struct transcript_reader *r, int error, void *userdata);
};

/*
 * A reader of the streams in the mask, from cursor on (negative: that many bytes before the end, or
 * from the first that is left; beyond the end: clamped). Callbacks are called from later events,
 * and may free their reader. A reader at the end gets appended bytes at once, before they are
 * written. It has no credit at first. Credit counts the bytes passed, the cursor those of all
 * streams.
 */
int transcript_reader_new(struct transcript *t, int64_t cursor, unsigned streams,
	const struct transcript_reader_callbacks *cb, void *userdata,
	struct transcript_reader **ret);
/* A reader of one stream, from that stream's own offset on (an exec.attach of a caller that has the
 * bytes below). An offset that is dropped begins with on_gap; one beyond the end is clamped. */
int transcript_reader_new_at(struct transcript *t, uint8_t stream, uint64_t offset,
	const struct transcript_reader_callbacks *cb, void *userdata,
	struct transcript_reader **ret);
struct transcript_reader *transcript_reader_free(struct transcript_reader *r);
DEFINE_CLEANUP(struct transcript_reader *, transcript_reader_free)
/* Called at once after transcript_reader_new (not _new_at): nothing that arrived before usec
 * (CLOCK_REALTIME) is passed. Bytes that arrive within 10 ms may share a time. */
void transcript_reader_since(struct transcript_reader *r, uint64_t usec);
void transcript_reader_credit(struct transcript_reader *r, uint64_t bytes); /* adds */
uint64_t transcript_reader_cursor(const struct transcript_reader *r);
/* A reader that holds: no segment that it has not had is dropped while it exists. The transcript
 * then grows beyond its limit by at most what has been allowed to the guest. */
void transcript_reader_hold(struct transcript_reader *r);
