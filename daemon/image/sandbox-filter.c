/* SPDX-License-Identifier: MIT */
/*
 * The filter of system calls of a confined process, as a list and the BPF made from it. Called by
 * sandbox.c. Must stay true: what is not on a list fails with EPERM, so that a libc that tries something
 * new goes on; what only an attacker would try ends the process; no call on the lists takes a path,
 * another process or an address as an object.
 */
#include "daemon/image/sandbox.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "the numbers of system calls are those of x86-64"
#endif

#define X32_BIT     0x40000000u
#define PROGRAM_MAX 256

static const int allowed[] = { SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64,
	SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_lseek, SYS_close, SYS_fstat, SYS_ftruncate,
	SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_copy_file_range, SYS_dup, SYS_poll, SYS_munmap,
	SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_sched_yield, SYS_getrandom, SYS_uname,
	SYS_getpid, SYS_gettid, SYS_getppid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid,
	SYS_time, SYS_gettimeofday, SYS_clock_gettime, SYS_clock_getres, SYS_sigaltstack,
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_restart_syscall, SYS_exit,
	SYS_exit_group };

static const int fatal[] = { SYS_execve, SYS_execveat, SYS_fork, SYS_vfork, SYS_clone, SYS_clone3,
	SYS_socket, SYS_socketpair, SYS_connect, SYS_ptrace, SYS_process_vm_readv,
	SYS_process_vm_writev, SYS_mount, SYS_unshare, SYS_setns, SYS_chroot, SYS_pivot_root,
	SYS_bpf, SYS_io_uring_setup, SYS_userfaultfd, SYS_perf_event_open, SYS_add_key,
	SYS_request_key, SYS_keyctl, SYS_init_module, SYS_finit_module, SYS_kexec_load };

struct program {
	struct sock_filter code[PROGRAM_MAX];
	unsigned short n;
	bool overflow;
};

static void add(struct program *p, struct sock_filter f)
{
	if (p->n == PROGRAM_MAX)
		p->overflow = true;
	else
		p->code[p->n++] = f;
}

static void load(struct program *p, size_t offset)
{
	add(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void answer(struct program *p, uint32_t action)
{
	add(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

/* Goes on after the next `skip` instructions unless the loaded word compares so with k. */
static void unless(struct program *p, unsigned short compare, uint32_t k, uint8_t skip)
{
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | compare | BPF_K, k, 0, skip));
}

static void add_list(struct program *p, const int *list, size_t n, uint32_t action)
{
	for (size_t i = 0; i < n; i++) {
		unless(p, BPF_JEQ, (uint32_t)list[i], 1);
		answer(p, action);
	}
}

/* The call is allowed when one of its arguments has one of these values, else it fails. */
static void add_checked(struct program *p, int call, unsigned arg, const uint32_t *values, size_t n)
{
	unless(p, BPF_JEQ, (uint32_t)call, (uint8_t)(2 + 2 * n));
	load(p, offsetof(struct seccomp_data, args) + arg * sizeof(uint64_t));
	for (size_t i = 0; i < n; i++) {
		unless(p, BPF_JEQ, values[i], 1);
		answer(p, SECCOMP_RET_ALLOW);
	}
	answer(p, SECCOMP_RET_ERRNO | EPERM);
}

/* Memory never becomes code. */
static void add_memory(struct program *p, int call)
{
	unless(p, BPF_JEQ, (uint32_t)call, 4);
	load(p, offsetof(struct seccomp_data, args) + 2 * sizeof(uint64_t));
	unless(p, BPF_JSET, PROT_EXEC, 1);
	answer(p, SECCOMP_RET_ERRNO | EPERM);
	answer(p, SECCOMP_RET_ALLOW);
}

static void fill(struct program *p)
{
	const uint32_t commands[] = { F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL },
		       own_path[] = { AT_EMPTY_PATH }, self[] = { (uint32_t)getpid() };

	load(p, offsetof(struct seccomp_data, arch));
	add(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
	answer(p, SECCOMP_RET_KILL_PROCESS);
	load(p, offsetof(struct seccomp_data, nr));
	unless(p, BPF_JGE, X32_BIT, 1);
	answer(p, SECCOMP_RET_KILL_PROCESS);
	add_list(p, allowed, ARRAY_SIZE(allowed), SECCOMP_RET_ALLOW);
	add_list(p, fatal, ARRAY_SIZE(fatal), SECCOMP_RET_KILL_PROCESS);
	add_memory(p, SYS_mmap);
	add_memory(p, SYS_mprotect);
	add_checked(p, SYS_fcntl, 1, commands, ARRAY_SIZE(commands));
	add_checked(p, SYS_newfstatat, 3, own_path, ARRAY_SIZE(own_path)); /* libc's fstat */
	add_checked(p, SYS_tgkill, 0, self, ARRAY_SIZE(self));             /* libc's abort */
	answer(p, SECCOMP_RET_ERRNO | EPERM);
}

int sandbox_filter(void)
{
	struct program p = { .n = 0 };

	fill(&p);
	if (p.overflow)
		return -E2BIG;
	const struct sock_fprog prog = { .len = p.n, .filter = p.code };
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) < 0 ? -errno : 0;
}
