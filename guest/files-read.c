/* SPDX-License-Identifier: MIT */
/*
 * Reads a part of a file, called by files-op.c in a process of its own.
 *
 * What must stay true: only a regular file is opened for reading, since opening a device may have
 * effects and opening a FIFO waits; at most max_bytes are kept, and at most SCAN_MAX beside them are
 * read to find and count lines.
 */

#include "guest/files-internal.h"

#include <fcntl.h>
#include <sys/stat.h>

enum { CHUNK = 64 * 1024, SCAN_MAX = 16 * 1024 * 1024 };

struct reader {
	const struct msg_file *m;     /* borrowed */
	struct msg_file_result *done; /* borrowed */
	uint64_t line;                /* of the next byte, from 1 */
	uint64_t scanned;             /* bytes */
	bool partial;                 /* the line of the next byte has begun */
	bool full;                    /* max_bytes have been taken, and more was requested */
};

/* Opens what O_PATH has found to be a regular file. */
static int open_regular(
	const char *path, int *ret_fd, struct stat *ret_st, struct msg_file_result *done)
{
	_cleanup_close_ int at = open(path, O_PATH | O_CLOEXEC);
	char self[64];

	if (at < 0)
		return files_fail(done, -errno, "open");
	if (fstat(at, ret_st) < 0)
		return files_fail(done, -errno, "stat");
	if (S_ISDIR(ret_st->st_mode))
		return files_fail(done, -EISDIR, "read");
	if (!S_ISREG(ret_st->st_mode))
		return files_fail(done, -EOPNOTSUPP, files_kind(ret_st->st_mode));
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", at);
	*ret_fd = open(self, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return *ret_fd < 0 ? files_fail(done, -errno, "open") : 0;
}

static uint64_t first_line(const struct reader *rd)
{
	return MAX_OF(rd->m->start_line, UINT64_C(1));
}

/* True if the line of the next byte was requested and fits. */
static bool takes(const struct reader *rd)
{
	return !rd->full && rd->line >= first_line(rd) &&
	       (rd->m->max_lines == 0 || rd->line - first_line(rd) < rd->m->max_lines);
}

/* Handles the n bytes of one line, or of a part of one. */
static void take_line(struct reader *rd, const uint8_t *p, size_t n)
{
	struct msg_blob *c = &rd->done->content;

	if (takes(rd)) {
		size_t k = MIN_OF(n, (size_t)(rd->m->max_bytes - c->n));
		memcpy(c->data + c->n, p, k);
		c->n += (uint32_t)k;
		rd->full = k < n;
	}
	rd->partial = p[n - 1] != '\n';
	rd->line += !rd->partial;
}

static void take_chunk(struct reader *rd, const uint8_t *p, size_t n)
{
	rd->scanned += n;
	while (n > 0) {
		const uint8_t *nl = memchr(p, '\n', n);
		size_t len = nl ? (size_t)(nl - p) + 1 : n;

		take_line(rd, p, len);
		p += len;
		n -= len;
	}
}

/* Reads until all that was requested is known. Returns 1 at the end of the file, else 0. */
static int scan(struct reader *rd, int fd)
{
	_cleanup_free_ uint8_t *chunk = malloc(CHUNK);

	if (!chunk)
		return -ENOMEM;
	while (rd->scanned < SCAN_MAX || takes(rd)) {
		ssize_t n = read(fd, chunk, CHUNK);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 1;
		take_chunk(rd, chunk, (size_t)n);
	}
	return 0;
}

/* Drops the first bytes of a character at the end: its last bytes were cut off. */
static void drop_partial_character(struct msg_blob *c)
{
	for (uint32_t k = 1; k <= 3 && k < c->n; k++) {
		uint8_t b = c->data[c->n - k];
		uint32_t length = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : b >= 0xc2 ? 2 : 1;

		if ((b & 0xc0) == 0x80)
			continue;
		if (length > k)
			c->n -= k;
		return;
	}
}

int files_read(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret)
{
	struct reader rd = { .m = m, .done = ret, .line = 1 };
	_cleanup_free_ char *path = files_path(op, m->path);
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r;

	ret->content.data = malloc(m->max_bytes);
	if (!path || !ret->content.data)
		return -ENOMEM;
	r = open_regular(path, &fd, &st, ret);
	if (r < 0)
		return r;
	r = scan(&rd, fd);
	if (r < 0)
		return files_fail(ret, r, "read");
	if (r == 0 && rd.line < first_line(&rd))
		return files_fail(ret, -EFBIG, "find the first line within 16 MiB");
	ret->size = MIN_OF(MAX_OF((uint64_t)st.st_size, rd.scanned), MSG_SIZE_MAX);
	if (r > 0) {
		ret->flags |= FILE_LINES;
		ret->total_lines = rd.line - 1 + rd.partial;
	}
	if (rd.full) {
		ret->flags |= FILE_TRUNCATED;
		drop_partial_character(&ret->content);
	}
	return 0;
}
