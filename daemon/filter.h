/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Builds and installs a system call filter (seccomp(2)). Uses the kernel and libc only, for
 * programs that link nothing else.
 */

#include "proto/base.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

enum { FILTER_MAX = 384 }; /* instructions */

/* The action for a call, one of SECCOMP_RET_*. */
#define FILTER_ALLOW          ((uint32_t)SECCOMP_RET_ALLOW)
#define FILTER_KILL           ((uint32_t)SECCOMP_RET_KILL_PROCESS)
#define FILTER_FAIL(positive) ((uint32_t)SECCOMP_RET_ERRNO | (uint32_t)(positive))

struct filter {
	struct sock_filter code[FILTER_MAX];
	unsigned short n;
	bool overflow;
};

/* A call of another architecture (i386, x32) kills the process. The rules added afterwards apply in
 * order: the first that names the call decides. */
void filter_begin(struct filter *f);
void filter_calls(struct filter *f, const int *calls, size_t n, uint32_t action);
/* Compares the low 32 bits of argument `arg`: `match` if they equal one of the values, else
 * `other`. At most 100 values. */
void filter_values(struct filter *f, int call, unsigned arg, const uint32_t *values, size_t n,
	uint32_t match, uint32_t other);
/* The same for the bits of a mask: `match` if they equal `value`. */
void filter_bits(struct filter *f, int call, unsigned arg, uint32_t mask, uint32_t value,
	uint32_t match, uint32_t other);
/* Installs the filter, which cannot be removed, with `rest` for every other call. no_new_privs must
 * be set. */
int filter_install(struct filter *f, uint32_t rest);
