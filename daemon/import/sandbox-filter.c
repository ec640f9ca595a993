/* SPDX-License-Identifier: MIT */
/*
 * The filter of system calls of a confined process, as lists. Called by sandbox.c. Must stay true:
 * a call that is on no list fails with EPERM, so that a newer libc still works; a call that only an
 * attacker would make kills the process; no allowed call takes a path, another process or an
 * address as its object.
 */
#include "daemon/import/sandbox.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "daemon/filter.h"

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

int sandbox_filter(void)
{
	const uint32_t commands[] = { F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL },
		       own_path[] = { AT_EMPTY_PATH }, self[] = { (uint32_t)getpid() },
		       refused = FILTER_FAIL(EPERM);
	struct filter f;

	filter_begin(&f);
	filter_calls(&f, allowed, ARRAY_SIZE(allowed), FILTER_ALLOW);
	filter_calls(&f, fatal, ARRAY_SIZE(fatal), FILTER_KILL);
	/* Denies executable memory. */
	filter_bits(&f, SYS_mmap, 2, PROT_EXEC, 0, FILTER_ALLOW, refused);
	filter_bits(&f, SYS_mprotect, 2, PROT_EXEC, 0, FILTER_ALLOW, refused);
	filter_values(&f, SYS_fcntl, 1, commands, ARRAY_SIZE(commands), FILTER_ALLOW, refused);
	/* Allows libc's fstat and abort. */
	filter_values(&f, SYS_newfstatat, 3, own_path, 1, FILTER_ALLOW, refused);
	filter_values(&f, SYS_tgkill, 0, self, 1, FILTER_ALLOW, refused);
	return filter_install(&f, refused);
}
