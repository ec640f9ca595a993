/* SPDX-License-Identifier: MIT */
/*
 * A growable byte queue, and checked readers and writers for wire messages. All input from peers
 * passes through it, so: a buf never holds more unread bytes than its limit, moving bytes to the
 * front costs amortised constant time per byte, and a large buffer frees its memory when it becomes
 * empty. Readers never touch a byte beyond their span; after the first failure they return zeros.
 */

#include "proto/buf.h"
#include <sys/socket.h>

#define BUF_FIRST  ((size_t)256)
#define BUF_KEEP   ((size_t)256 * 1024) /* an empty buffer frees a larger allocation */
#define STR_ABSENT UINT32_MAX

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){ .max = max };
}

void buf_done(struct buf *b)
{
	free(b->data);
	*b = (struct buf){ 0 };
}

void buf_clear(struct buf *b)
{
	b->start = b->end = 0;
	if (b->cap > BUF_KEEP) {
		free(TAKE_PTR(b->data));
		b->cap = 0;
	}
}

static int buf_grow(struct buf *b, size_t cap)
{
	size_t n = buf_len(b);

	uint8_t *data = malloc(cap);
	if (!data)
		return -ENOMEM;
	if (n > 0)
		memcpy(data, buf_head(b), n);
	free(b->data);
	b->data = data;
	b->cap = cap;
	b->start = 0;
	b->end = n;
	return 0;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
	size_t len = buf_len(b);

	if (n > b->max || len > b->max - n) {
		errno = ENOBUFS;
		return NULL;
	}
	if (b->data && b->cap - b->end >= n)
		return b->data + b->end;
	/* At least len bytes were consumed since the last move, so the cost per byte is
	 * constant. */
	if (b->data && len + n <= b->cap && b->start >= len) {
		memmove(b->data, b->data + b->start, len);
		b->start = 0;
		b->end = len;
	} else if (buf_grow(b, MAX_OF(MAX_OF(len + n, b->cap * 2), BUF_FIRST)) < 0) {
		errno = ENOMEM;
		return NULL;
	}
	return b->data + b->end;
}

void buf_commit(struct buf *b, size_t n)
{
	b->end += n;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
	if (n == 0)
		return 0;
	uint8_t *at = buf_reserve(b, n);
	if (!at)
		return -errno;
	memcpy(at, p, n);
	buf_commit(b, n);
	return 0;
}

void buf_consume(struct buf *b, size_t n)
{
	b->start += n;
	if (b->start >= b->end)
		buf_clear(b);
}

ssize_t buf_write_fd(struct buf *b, int fd)
{
	ssize_t n;

	if (buf_len(b) == 0)
		return 0;
	do {
		n = send(fd, buf_head(b), buf_len(b), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == ENOTSOCK)
			n = write(fd, buf_head(b), buf_len(b));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	buf_consume(b, (size_t)n);
	return n;
}

ssize_t buf_read_fd(struct buf *b, int fd, size_t max)
{
	size_t want = MIN_OF(max, b->max - buf_len(b));
	ssize_t n;

	if (want == 0)
		return -ENOBUFS;
	uint8_t *at = buf_reserve(b, want);
	if (!at)
		return -errno;
	do {
		n = recv(fd, at, want, MSG_DONTWAIT);
		if (n < 0 && errno == ENOTSOCK)
			n = read(fd, at, want);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	buf_commit(b, (size_t)n);
	return n;
}

static void put_le(struct buf *b, uint64_t v, size_t n, int *r)
{
	uint8_t bytes[8];

	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)(v >> (8 * i));
	put_bytes(b, bytes, n, r);
}

void put_u8(struct buf *b, uint8_t v, int *r)
{
	put_le(b, v, sizeof(v), r);
}

void put_u16(struct buf *b, uint16_t v, int *r)
{
	put_le(b, v, sizeof(v), r);
}

void put_u32(struct buf *b, uint32_t v, int *r)
{
	put_le(b, v, sizeof(v), r);
}

void put_u64(struct buf *b, uint64_t v, int *r)
{
	put_le(b, v, sizeof(v), r);
}

void put_bytes(struct buf *b, const void *p, size_t n, int *r)
{
	if (*r < 0)
		return;
	int done = buf_append(b, p, n);
	if (done < 0)
		*r = done;
}

void put_str(struct buf *b, const char *s, int *r)
{
	size_t n = s ? strlen(s) : STR_ABSENT;

	if (s && n >= STR_ABSENT) {
		if (*r >= 0)
			*r = -EMSGSIZE;
		return;
	}
	put_u32(b, (uint32_t)n, r);
	if (s)
		put_bytes(b, s, n, r);
}

/* Returns the next n bytes of the span; NULL if there are fewer or an earlier read failed. */
static const uint8_t *rd_take(struct rd *rd, size_t n)
{
	if (rd->failed || n > rd->n) {
		rd->failed = true;
		return NULL;
	}
	const uint8_t *at = rd->p;
	rd->p += n;
	rd->n -= n;
	return at;
}

static uint64_t get_le(struct rd *rd, size_t n)
{
	const uint8_t *at = rd_take(rd, n);
	uint64_t v = 0;

	for (size_t i = 0; at && i < n; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

uint8_t get_u8(struct rd *rd)
{
	return (uint8_t)get_le(rd, 1);
}

uint16_t get_u16(struct rd *rd)
{
	return (uint16_t)get_le(rd, 2);
}

uint32_t get_u32(struct rd *rd)
{
	return (uint32_t)get_le(rd, 4);
}

uint64_t get_u64(struct rd *rd)
{
	return get_le(rd, 8);
}

void get_bytes(struct rd *rd, void *ret, size_t n)
{
	const uint8_t *at = rd_take(rd, n);

	if (at)
		memcpy(ret, at, n);
	else
		memset(ret, 0, n);
}

int get_str(struct rd *rd, size_t max, char **ret)
{
	*ret = NULL;
	uint32_t n = get_u32(rd);
	if (rd->failed)
		return -EBADMSG;
	if (n == STR_ABSENT)
		return 0;
	const uint8_t *at = n <= max ? rd_take(rd, n) : NULL;
	if (!at || memchr(at, '\0', n)) {
		rd->failed = true;
		return -EBADMSG;
	}
	char *s = malloc((size_t)n + 1);
	if (!s) {
		rd->failed = true;
		return -ENOMEM;
	}
	memcpy(s, at, n);
	s[n] = '\0';
	*ret = s;
	return 0;
}

int rd_done(const struct rd *rd)
{
	return rd->failed || rd->n > 0 ? -EBADMSG : 0;
}
