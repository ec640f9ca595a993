/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A growable byte buffer with a hard limit, and checked little-endian readers and writers for wire
 * messages. A reader keeps its error, so a parser reads all fields and tests once. Wire bytes are
 * never cast to a struct.
 */

#include "base.h"

struct buf {
	uint8_t *data; /* owned */
	size_t start;  /* first unread byte */
	size_t end;    /* one past the last byte */
	size_t cap;
	size_t max; /* limit of unread bytes */
};

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);  /* frees the contents; usable again after buf_init */
void buf_clear(struct buf *b); /* drops the contents; keeps the limit */

static inline size_t buf_len(const struct buf *b)
{
	return b->end - b->start;
}
static inline const uint8_t *buf_head(const struct buf *b)
{
	return b->data + b->start;
}

/* Reserves n bytes at the tail: returns a pointer to write to (then call buf_commit), or NULL with
 * errno ENOBUFS (limit) or ENOMEM. */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_commit(struct buf *b, size_t n);
int buf_append(struct buf *b, const void *p, size_t n); /* -ENOBUFS, -ENOMEM */
void buf_consume(struct buf *b, size_t n);              /* n <= buf_len */

/* Does one write or read between the buffer and fd. Never blocks on a socket (MSG_DONTWAIT); any
 * other fd must be non-blocking. Returns the number of bytes, 0 at EOF (read) or with nothing to
 * write, -EAGAIN, -ENOBUFS (read into a full buffer), -errno. */
ssize_t buf_write_fd(struct buf *b, int fd);
ssize_t buf_read_fd(struct buf *b, int fd, size_t max);

/* Writers: append to a buf. *r is 0 at the start and keeps the first failure. */
void put_u8(struct buf *b, uint8_t v, int *r);
void put_u16(struct buf *b, uint16_t v, int *r);
void put_u32(struct buf *b, uint32_t v, int *r);
void put_u64(struct buf *b, uint64_t v, int *r);
void put_bytes(struct buf *b, const void *p, size_t n, int *r);
void put_str(struct buf *b, const char *s, int *r); /* u32 length + bytes; NULL is length 2^32-1 */

/* Readers over a borrowed span. */
struct rd {
	const uint8_t *p;
	size_t n;
	bool failed;
};
uint8_t get_u8(struct rd *rd);
uint16_t get_u16(struct rd *rd);
uint32_t get_u32(struct rd *rd);
uint64_t get_u64(struct rd *rd);
void get_bytes(struct rd *rd, void *ret, size_t n);
/* A string of at most max bytes without NUL; *ret is owned by the caller, NULL when absent. */
int get_str(struct rd *rd, size_t max, char **ret);
/* Returns 0 if no read failed and no byte is left, else -EBADMSG. */
int rd_done(const struct rd *rd);
