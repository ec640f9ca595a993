/* SPDX-License-Identifier: MIT */
/*
 * The seccomp filter a VMM starts with; QEMU adds its own. Called by confine.c as its last step. It
 * denies calls that no VMM needs and an attacker would use: socket families other than AF_UNIX,
 * other processes, large and new parts of the kernel, namespaces, mounts, keys. What must stay
 * true: everything else is allowed, so that future versions of QEMU and libc run; a denied call
 * fails with an errno as on a kernel without it, never by a signal.
 */
#include "daemon/vmm/confine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fsverity.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "daemon/filter.h"

/* struct space_resv of linux/falloc.h: the argument of XFS's old fallocate ioctls, which every file
 * system accepts. */
struct space {
	int16_t type, whence;
	int64_t start, length;
	int32_t system;
	uint32_t process;
	int32_t pad[4];
};
#define IOC_RESERVE   _IOW('X', 40, struct space)
#define IOC_RESERVE64 _IOW('X', 42, struct space)
#define IOC_ZERO      _IOW('X', 57, struct space)

/* Missing in the headers of Debian 12. */
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat    463
#define SYS_removexattrat 466
#endif
#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif
#ifndef SYS_file_setattr
#define SYS_file_setattr 469
#endif

/* libc and QEMU fall back to clone, threads and openat. */
static const int missing[] = { SYS_clone3, SYS_io_uring_setup, SYS_io_uring_enter,
	SYS_io_uring_register, SYS_openat2 };

static const int refused[] = {
	/* a VMM only accepts connections */
	SYS_connect,
	/* large and new parts of the kernel */
	SYS_userfaultfd, SYS_bpf, SYS_perf_event_open, SYS_fanotify_init, SYS_fanotify_mark,
	SYS_lookup_dcookie, SYS_memfd_secret, SYS_vmsplice,
	/* keys */
	SYS_add_key, SYS_request_key, SYS_keyctl,
	/* namespaces and mounts */
	SYS_unshare, SYS_setns, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree,
	SYS_open_tree_attr, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
	SYS_mount_setattr, SYS_open_by_handle_at, SYS_name_to_handle_at,
	/* other processes, new processes, priorities */
	SYS_fork, SYS_vfork, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev,
	SYS_process_madvise, SYS_process_mrelease, SYS_kcmp, SYS_pidfd_open, SYS_pidfd_getfd,
	SYS_pidfd_send_signal, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
	SYS_setpriority, SYS_ioprio_set, SYS_sched_setattr, SYS_sched_setparam,
	SYS_sched_setscheduler, SYS_sched_setaffinity, SYS_migrate_pages, SYS_move_pages,
	/* changes of read-only files that Landlock of Linux 6.1 does not deny */
	SYS_truncate, SYS_creat,
	/* watching the accesses of other machines to shared files */
	SYS_inotify_init, SYS_inotify_init1, SYS_inotify_add_watch,
	/* mode, owner and attributes of its user's files, in user mode all files of the daemon */
	SYS_chmod, SYS_fchmod, SYS_fchmodat, SYS_fchmodat2, SYS_chown, SYS_fchown, SYS_lchown,
	SYS_fchownat, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr,
	SYS_fremovexattr, SYS_setxattrat, SYS_removexattrat, SYS_utime, SYS_utimes, SYS_futimesat,
	SYS_utimensat, SYS_file_setattr, SYS_flock,
	/* the host */
	SYS_kexec_load, SYS_kexec_file_load, SYS_init_module, SYS_finit_module, SYS_delete_module,
	SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_quotactl, SYS_quotactl_fd, SYS_syslog,
	SYS_iopl, SYS_ioperm, SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime,
	SYS_sethostname, SYS_setdomainname, SYS_vhangup, SYS_nfsservctl, SYS_uselib,
	SYS_personality, SYS_modify_ldt
};

#define NAMESPACES \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
		CLONE_NEWPID | CLONE_NEWNET)

int confine_filter(void)
{
	const uint32_t local[] = { AF_UNIX }, self[] = { (uint32_t)getpid() },
		       itself[] = { 0, (uint32_t)getpid() },
		       command[] = { F_SETOWN, F_SETOWN_EX, F_SETSIG, F_SETLEASE, F_NOTIFY },
		       request[] = { FIOSETOWN, SIOCSPGRP, TIOCSTI, IOC_RESERVE, IOC_RESERVE64,
			       IOC_ZERO, FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR,
			       FS_IOC_SETVERSION, FS_IOC_ENABLE_VERITY },
		       discard[] = { FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE },
		       family = FILTER_FAIL(EAFNOSUPPORT), no = FILTER_FAIL(EPERM);
	struct filter f;

	filter_begin(&f);
	filter_values(&f, SYS_socket, 0, local, 1, FILTER_ALLOW, family);
	filter_values(&f, SYS_socketpair, 0, local, 1, FILTER_ALLOW, family);
	filter_bits(&f, SYS_clone, 0, CLONE_THREAD | NAMESPACES, CLONE_THREAD, FILTER_ALLOW, no);
	filter_values(&f, SYS_kill, 0, self, 1, FILTER_ALLOW, no);
	filter_values(&f, SYS_tgkill, 0, self, 1, FILTER_ALLOW, no);
	filter_values(&f, SYS_prlimit64, 0, itself, ARRAY_SIZE(itself), FILTER_ALLOW, no);
	filter_bits(&f, SYS_open, 1, O_TRUNC, 0, FILTER_ALLOW, no);
	filter_bits(&f, SYS_openat, 2, O_TRUNC, 0, FILTER_ALLOW, no);
	/* Fallocate reserves tens of GiB beyond a file's end at once, which RLIMIT_FSIZE does not
	 * limit. Without it QEMU writes zeroes. */
	filter_values(&f, SYS_fallocate, 1, discard, ARRAY_SIZE(discard), FILTER_ALLOW,
		FILTER_FAIL(EOPNOTSUPP));
	/* Older fallocate ioctls, file attributes, signals sent by the kernel in its name, and
	 * leases, which block others that open the file. */
	filter_values(&f, SYS_fcntl, 1, command, ARRAY_SIZE(command), no, FILTER_ALLOW);
	filter_values(&f, SYS_ioctl, 1, request, ARRAY_SIZE(request), no, FILTER_ALLOW);
	filter_calls(&f, missing, ARRAY_SIZE(missing), FILTER_FAIL(ENOSYS));
	filter_calls(&f, refused, ARRAY_SIZE(refused), no);
	return filter_install(&f, FILTER_ALLOW);
}
