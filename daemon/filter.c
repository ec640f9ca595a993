/* SPDX-License-Identifier: MIT */
/*
 * Builds the BPF program of a seccomp filter. Called by vmm/confine-filter.c and
 * import/sandbox-filter.c, which have the lists. What must stay true: a call of another
 * architecture never reaches a rule, since the numbers are those of x86-64.
 */
#include "daemon/filter.h"

#include <linux/audit.h>
#include <stddef.h>
#include <sys/prctl.h>

#ifndef __x86_64__
#error "the numbers of system calls are those of x86-64"
#endif

#define X32_BIT 0x40000000u

static void add(struct filter *f, struct sock_filter code)
{
	if (f->n == FILTER_MAX)
		f->overflow = true;
	else
		f->code[f->n++] = code;
}

static void load(struct filter *f, size_t offset)
{
	add(f, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void load_argument(struct filter *f, unsigned arg)
{
	load(f, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
}

static void answer(struct filter *f, uint32_t action)
{
	add(f, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* Skips the next `skip` instructions unless the comparison of the loaded word with k is true. */
static void unless(struct filter *f, unsigned short compare, uint32_t k, size_t skip)
{
	f->overflow = f->overflow || skip > UINT8_MAX;
	add(f, (struct sock_filter)BPF_JUMP(BPF_JMP | compare | BPF_K, k, 0, (uint8_t)skip));
}

void filter_begin(struct filter *f)
{
	f->n = 0;
	f->overflow = false;
	load(f, offsetof(struct seccomp_data, arch));
	add(f, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
	answer(f, FILTER_KILL);
	load(f, offsetof(struct seccomp_data, nr));
	unless(f, BPF_JGE, X32_BIT, 1);
	answer(f, FILTER_KILL);
}

void filter_calls(struct filter *f, const int *calls, size_t n, uint32_t action)
{
	for (size_t i = 0; i < n; i++) {
		unless(f, BPF_JEQ, (uint32_t)calls[i], 1);
		answer(f, action);
	}
}

void filter_values(struct filter *f, int call, unsigned arg, const uint32_t *values, size_t n,
	uint32_t match, uint32_t other)
{
	unless(f, BPF_JEQ, (uint32_t)call, 2 + 2 * n);
	load_argument(f, arg);
	for (size_t i = 0; i < n; i++) {
		unless(f, BPF_JEQ, values[i], 1);
		answer(f, match);
	}
	answer(f, other);
}

void filter_bits(struct filter *f, int call, unsigned arg, uint32_t mask, uint32_t value,
	uint32_t match, uint32_t other)
{
	unless(f, BPF_JEQ, (uint32_t)call, 5);
	load_argument(f, arg);
	add(f, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
	unless(f, BPF_JEQ, value, 1);
	answer(f, match);
	answer(f, other);
}

int filter_install(struct filter *f, uint32_t rest)
{
	answer(f, rest);
	if (f->overflow)
		return -E2BIG;
	const struct sock_fprog prog = { .len = f->n, .filter = f->code };
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0 ? -errno : 0;
}
