/* SPDX-License-Identifier: MIT */
/*
 * Implements base.h: clocks, random bytes, complete writes, small files and numbers. Every program
 * of the project links this, including the static guest agent, so it uses libc only, keeps no state
 * and never logs.
 */

#include "proto/base.h"
#include <fcntl.h>
#include <stdarg.h>
#include <sys/random.h>
#include <time.h>

static uint64_t clock_usec(clockid_t clock)
{
	struct timespec ts;

	/* Both clocks always exist: a failure is a programming error. */
	if (clock_gettime(clock, &ts) < 0)
		abort();
	return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / NSEC_PER_USEC;
}

uint64_t now_usec(void)
{
	return clock_usec(CLOCK_MONOTONIC);
}

uint64_t wall_usec(void)
{
	return clock_usec(CLOCK_REALTIME);
}

void random_bytes(void *ret, size_t n)
{
	uint8_t *p = ret;

	while (n > 0) {
		ssize_t got = getrandom(p, n, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			abort();
		p += got;
		n -= (size_t)got;
	}
}

char *str_printf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return n < 0 ? NULL : s;
}

/* A single quote within the word becomes '\'': end of quotes, escaped quote, start of quotes. */
char *shell_quote(const char *word)
{
	static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				   "_@%+:,./-";
	size_t n = strlen(word), k = 0;

	if (n > 0 && word[strspn(word, safe)] == '\0')
		return strdup(word);
	char *quoted = malloc(4 * n + 3);
	if (!quoted)
		return NULL;
	quoted[k++] = '\'';
	for (; *word; word++) {
		if (*word == '\'') {
			memcpy(quoted + k, "'\\''", 4);
			k += 4;
		} else {
			quoted[k++] = *word;
		}
	}
	quoted[k++] = '\'';
	quoted[k] = '\0';
	return quoted;
}

int write_all(int fd, const void *p, size_t n)
{
	const uint8_t *at = p;

	while (n > 0) {
		ssize_t done = write(fd, at, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		at += done;
		n -= (size_t)done;
	}
	return 0;
}

/* Reads until EOF; the buffer has room for one byte beyond max to detect a file that is too
 * long. */
static int read_to_end(int fd, size_t max, char **ret, size_t *ret_n)
{
	_cleanup_free_ char *data = NULL;
	size_t n = 0, cap = 0;

	for (;;) {
		if (n == cap) {
			size_t want = MIN_OF(MAX_OF(cap * 2, (size_t)4096), max + 1);
			char *bigger = realloc(data, want + 1);
			if (!bigger)
				return -ENOMEM;
			data = bigger;
			cap = want;
		}
		ssize_t got = read(fd, data + n, cap - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
		if (n > max)
			return -EFBIG;
	}
	data[n] = '\0';
	*ret = TAKE_PTR(data);
	if (ret_n)
		*ret_n = n;
	return 0;
}

int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_n)
{
	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	_cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (max > SIZE_MAX / 4)
		return -EINVAL;
	return read_to_end(fd, max, ret, ret_n);
}

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (!*s)
		return -EINVAL;
	for (const char *p = s; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
	}
	for (; *s; s++) {
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
			__builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	}
	if (v < min || v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}
