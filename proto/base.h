/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Basic helpers for every file of the project: cleanup attributes for owning locals, TAKE_* to hand
 * a value over, and a few macros. libc only. An owning local is initialised where it is declared;
 * an empty descriptor is -EBADF, so using it fails.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN_OF(a, b)  ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b)  ((a) > (b) ? (a) : (b))

#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_       __attribute__((unused))
#define _noreturn_     __attribute__((noreturn))
#define _must_check_   __attribute__((warn_unused_result))

#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_PER_MSEC UINT64_C(1000)
#define NSEC_PER_USEC UINT64_C(1000)
#define MIB           (UINT64_C(1) << 20)

/* Moves the value out of an owning variable and leaves it empty. */
#define TAKE_PTR(p) \
	({ \
		__typeof__(p) *_pp = &(p); \
		__typeof__(p) _taken = *_pp; \
		*_pp = NULL; \
		_taken; \
	})

#define TAKE_FD(fd) \
	({ \
		int *_pfd = &(fd); \
		int _taken = *_pfd; \
		*_pfd = -EBADF; \
		_taken; \
	})

/* Defines a cleanup function named <func>p for pointers of the given type. */
#define DEFINE_CLEANUP(type, func) \
	static inline void func##p(type *p) /* NOLINT(bugprone-macro-parentheses): a type */ \
	{ \
		if (*p) \
			func(*p); \
	}

static inline void freep(void *p)
{
	free(*(void **)p);
}

/* Closes fd unless it is empty; returns -EBADF, so that `fd = fd_close(fd)` leaves it empty. Keeps
 * errno. */
static inline int fd_close(int fd)
{
	if (fd >= 0) {
		int saved = errno;
		(void)close(fd);
		errno = saved;
	}
	return -EBADF;
}

static inline void fd_closep(int *fd)
{
	*fd = fd_close(*fd);
}

static inline void fclosep(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define _cleanup_free_   _cleanup_(freep)
#define _cleanup_close_  _cleanup_(fd_closep)
#define _cleanup_fclose_ _cleanup_(fclosep)

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

static inline bool startswith(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* CLOCK_MONOTONIC / CLOCK_REALTIME in microseconds (base.c). */
uint64_t now_usec(void);
uint64_t wall_usec(void);

/* Fills the buffer from getrandom(2); aborts on failure. (base.c) */
void random_bytes(void *ret, size_t n);

/* Allocating printf; NULL when out of memory. (base.c) */
char *str_printf(const char *fmt, ...) _printf_(1, 2);

/* Quotes word for a POSIX shell, unchanged if it needs no quotes; NULL when out of memory.
 * (base.c) */
char *shell_quote(const char *word);

/* Writes all n bytes, blocking if the descriptor is blocking; -errno. (base.c) */
int write_all(int fd, const void *p, size_t n);

/* Reads a whole small file (at most max bytes) NUL-terminated into *ret; -EFBIG beyond max.
 * (base.c) */
int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_n);

/* Parses a decimal number in [min, max], the whole string; -EINVAL, -ERANGE. (base.c) */
int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret);
