/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A filter of system calls (seccomp(2)) as it is built and put in force. Of no more than the kernel and libc: also for
 * programs that link nothing else.
 */

#include "proto/base.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

enum { FILTER_MAX = 384 }; /* instructions */

/* What a call meets: one of SECCOMP_RET_*. */
#define FILTER_ALLOW          ((uint32_t)SECCOMP_RET_ALLOW)
#define FILTER_KILL           ((uint32_t)SECCOMP_RET_KILL_PROCESS)
#define FILTER_FAIL(positive) ((uint32_t)SECCOMP_RET_ERRNO | (uint32_t)(positive))

struct filter {
	struct sock_filter code[FILTER_MAX];
	unsigned short n;
	bool overflow;
};

/* Every call of another architecture, i386 and x32, ends the process. The rules that follow are looked at in their order:
 * the first that knows the call decides. */
void filter_begin(struct filter *f);
void filter_calls(struct filter *f, const int *calls, size_t n, uint32_t action);
/* The low 32 bits of argument `arg`: `match` when they are one of the values, else `other`. At most 100 values. */
void filter_values(struct filter *f, int call, unsigned arg, const uint32_t *values, size_t n,
	uint32_t match, uint32_t other);
/* The same for the bits of a mask: `match` when exactly `value` is set of them. */
void filter_bits(struct filter *f, int call, unsigned arg, uint32_t mask, uint32_t value,
	uint32_t match, uint32_t other);
/* In force for good, `rest` for every other call. The caller has no_new_privs. */
int filter_install(struct filter *f, uint32_t rest);
