/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The files of transcripts. The segments of command ID are DIR/ID.0000, DIR/ID.0001, ...; nothing
 * else of it lies anywhere, so removing DIR removes all transcripts of a machine. Numbers are
 * little endian. A segment is
 *
 *     head    "pyrotran", u32 version, u64 offset of its first byte in stdout, stderr and pty,
 *             u32 checksum of the bytes before it
 *     records u8 stream, u32 length, u64 usec (CLOCK_REALTIME), bytes
 *
 * and at most SEGMENT_BYTES long. The cursor of a byte is the number of bytes of all streams before
 * it, so that of a segment's first byte is the sum of its head's offsets. Where a segment begins
 * beyond the end of the one before, the bytes in between are a gap. The size of the last file is
 * the truth: what follows its last whole record was never reported as kept.
 */

#include "proto/frame.h"

enum {
	SEGMENT_BYTES = 1024 * 1024,
	SEGMENT_HEAD_SIZE = 8 + 4 + 3 * 8 + 4,
	SEGMENT_READ_MAX = 64 * 1024,
	RECORD_HEAD_SIZE = 1 + 4 + 8,
	RECORD_BYTES_MAX = FRAME_PAYLOAD_MAX,
};

#define OFFSET_MAX (UINT64_C(1) << 60) /* of a stream */

struct record {
	uint8_t stream;
	uint32_t length; /* of its bytes, never 0 */
	uint64_t usec;   /* CLOCK_REALTIME, of its first byte */
};

/* -ENOBUFS, -ENOMEM; on failure nothing was appended. */
int record_put(struct buf *out, const struct record *rec, const void *bytes);
/* Parses the head of a record at p; -EBADMSG if it is none, or fewer than all its bytes follow. */
int record_get(const uint8_t *p, size_t n, struct record *ret);
static inline size_t record_size(const struct record *rec)
{
	return RECORD_HEAD_SIZE + (size_t)rec->length;
}

struct segment {
	uint32_t number;
	uint64_t offset[STREAM_MAX]; /* of its first byte in each stream */
	uint64_t end;                /* cursor after its last byte */
	uint64_t size;               /* of the file */
	uint64_t bad;                /* cursor from which on it cannot be read; UINT64_MAX: none */
};

static inline uint64_t cursor_of(const uint64_t offset[STREAM_MAX])
{
	return offset[STREAM_STDOUT] + offset[STREAM_STDERR] + offset[STREAM_PTY];
}

struct segments {
	struct segment *items; /* owned; by number, and so by cursor */
	size_t n, cap;
	uint64_t offset[STREAM_MAX]; /* segments_list: of the end of each stream */
	uint32_t next_number;
};

void segments_done(struct segments *l);
int segments_reserve(struct segments *l); /* room for one more */
void segments_drop_first(struct segments *l);
int segments_copy(struct segments *dst, const struct segments *src);

int segment_put_head(struct buf *out, const uint64_t offset[STREAM_MAX]);

/* All that follow are called on the writer thread. No symbolic link is followed beneath the parent
 * of dir. */

/*
 * Finds the segments of id and cuts a torn record at the end of the last one. One with a torn head
 * is removed if it is the last, else ignored. No directory: no segments. -EPROTONOSUPPORT: a newer
 * pyro has written them, and nothing was changed.
 */
int segments_list(const char *dir, const char *id, struct segments *ret);
/* Writes at offset `at`, the file's size (0: creates it, and dir). On failure the file is as it
 * was. -ESTALE: it is shorter. */
int segment_append(
	const char *dir, const char *id, uint32_t number, uint64_t at, const void *p, size_t n);

struct segment_place {
	uint64_t at;     /* offset of a record in the file */
	uint64_t cursor; /* of its first byte */
};

/*
 * Reads whole records, the first of which contains the byte at cursor `want`, from the first `size`
 * bytes of the file, looking from place on. *ret: what was read, at most SEGMENT_READ_MAX; NULL if
 * the records end before. *ret_cursor: of its first byte, or where they end. place is moved to what
 * follows.
 */
int segment_read(const char *dir, const char *id, uint32_t number, uint64_t size,
	struct segment_place *place, uint64_t want, uint8_t **ret, size_t *ret_n,
	uint64_t *ret_cursor);
/* Returns 1 and the cursor of the first record at or after usec, 0 if there is none. */
int segments_find_time(
	const char *dir, const char *id, const struct segments *l, uint64_t usec, uint64_t *ret);
/* fdatasync of the listed segments from number `first` on that exist, and fsync of their
 * directories. */
int segments_sync(const char *dir, const char *id, const struct segments *l, uint32_t first);
int segment_unlink(const char *dir, const char *id, uint32_t number);
/* Removes all files of id, also those of a newer version. */
int segments_remove(const char *dir, const char *id);
/* Removes the directory, which must be empty. 0: it does not exist. */
int segments_remove_dir(const char *dir);
