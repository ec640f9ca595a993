/* SPDX-License-Identifier: MIT */
/*
 * The sandbox of the image writer. Called once by import-write.c and by the test program,
 * single-threaded, with only the writer's descriptors open.
 *
 * Nothing is parsed unless four layers are in force: the uid is not 0, the limits are set,
 * no_new_privs is set, and the filter of system calls is installed. The filter alone denies access
 * to paths, sockets and processes. Namespaces, the empty root and Landlock are further layers in
 * case the filter has a hole; each one that is not possible is reported.
 *
 * As root the uid is UID_BASE + pid, as in pyro-vmm: no two running processes share it. As a plain
 * user the namespaces belong to a user namespace of its own.
 */
#include "daemon/import/sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/landlock.h"
#include "daemon/namespaces.h"
#include "daemon/rlimits.h"

#define UID_BASE   0x70000000u
#define UID_NOBODY 65534u /* in a container whose user namespace does not map UID_BASE */

/* The directory that the empty root is mounted on; any that exists everywhere. */
#define VIEW "/tmp"

static void note(const struct sandbox_spec *spec, const char *what, int r)
{
	spec->note(what, r, spec->userdata);
}

/* Waits, in the parent of the confined process, and exits with the same status or signal. */
static _noreturn_ void wait_and_exit(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			_exit(126);
	if (WIFSIGNALED(status)) {
		const struct rlimit none = { 0, 0 };

		(void)setrlimit(RLIMIT_CORE, &none);
		(void)signal(WTERMSIG(status), SIG_DFL);
		(void)raise(WTERMSIG(status));
	}
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 126);
}

/*
 * Forks the first process of the new PID namespace, which continues. *ret_above is a pipe that
 * reaches end-of-file when its parent has exited.
 */
static int enter_pid_namespace(pid_t parent, int *ret_above)
{
	int alive[2];
	pid_t pid;

	/*
	 * Repeats this, since a new user namespace may clear it; the parent may have exited
	 * meanwhile.
	 */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	if (getppid() != parent)
		return -ESRCH;
	if (pipe2(alive, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int r = -errno;

		(void)close(alive[0]);
		(void)close(alive[1]);
		return r;
	}
	if (pid > 0) {
		/* Keeps only its end of the pipe. */
		if (dup2(alive[1], 0) < 0 || close_range(1, ~0U, 0) < 0)
			_exit(126);
		wait_and_exit(pid);
	}
	(void)close(alive[1]);
	*ret_above = alive[0];
	return 0;
}

/* Changes the root to an empty read-only file system; see pivot_root(2), "pivot_root(".", ".")". */
static int enter_empty_root(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	if (mount("tmpfs", VIEW, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "mode=0555,size=4k,nr_inodes=1") < 0)
		return -errno;
	if (chdir(VIEW) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
		umount2(".", MNT_DETACH) < 0 || chdir("/") < 0) {
		int r = -errno;

		(void)umount2(VIEW, MNT_DETACH);
		return r;
	}
	return 0;
}

/* Changes the root to a directory in /proc, which has only this process's descriptors. */
static int change_root(void)
{
	if (chdir("/proc/self/fdinfo") < 0 || chroot(".") < 0)
		return -errno;
	return 0;
}

static void lose_files(const struct sandbox_spec *spec, int had)
{
	int r = had & CLONE_NEWNS ? enter_empty_root() : -EPERM;

	if (r >= 0)
		return;
	if (had & CLONE_NEWNS)
		note(spec, "empty mount view", r);
	r = change_root();
	if (r < 0)
		note(spec, "root directory of its own", r);
}

static int limit(const struct sandbox_spec *spec)
{
	const struct rlimit_max limits[] = {
		{ RLIMIT_CORE, 0 },
#ifndef __SANITIZE_ADDRESS__ /* it reserves terabytes */
		{ RLIMIT_AS, spec->memory_bytes },
#endif
		{ RLIMIT_FSIZE, spec->file_bytes },
		{ RLIMIT_CPU, spec->cpu_seconds },
		{ RLIMIT_NOFILE, spec->open_files },
		{ RLIMIT_NPROC, 0 },
		{ RLIMIT_MEMLOCK, 0 },
		{ RLIMIT_MSGQUEUE, 0 },
	};

	int r = rlimits_lower(limits, ARRAY_SIZE(limits));

	if (r < 0)
		return r;
	/* Writing beyond file_bytes fails with EFBIG instead of killing the process. */
	return signal(SIGXFSZ, SIG_IGN) == SIG_ERR ? -errno : 0;
}

static int become(uid_t uid)
{
	if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return 0;
}

/* Drops uid 0 and all capabilities. */
static int leave_root(uid_t uid)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
	int r = 0;

	if (geteuid() == 0 || getuid() == 0) {
		r = become(uid);
		if (r == -EINVAL)
			r = become(UID_NOBODY);
	}
	if (r < 0)
		return r;
	if (syscall(SYS_capset, &header, none) < 0)
		return -errno;
	return getuid() == 0 || geteuid() == 0 ? -EPERM : 0;
}

/* Denies access to paths, ports and abstract sockets, as far as this kernel's Landlock can. */
static int restrict_paths(void)
{
	_cleanup_(landlock_done) struct landlock l = { .fd = -EBADF };
	int r = landlock_begin(&l);

	return r < 0 ? r : landlock_enforce(&l);
}

/* True when the parent has exited, perhaps before PR_SET_PDEATHSIG took effect. */
static bool is_orphan(pid_t parent, int above)
{
	struct pollfd p = { .fd = above };

	if (above < 0)
		return getppid() != parent;
	return poll(&p, 1, 0) != 0;
}

int sandbox_enter(const struct sandbox_spec *spec, const char **ret_what)
{
	const pid_t parent = getppid();
	const uid_t uid = UID_BASE + (uid_t)getpid();
	_cleanup_close_ int above = -EBADF;
	int had, r;

	had = namespaces_enter(
		CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWPID, spec->note,
		spec->userdata);
	*ret_what = "enter a PID namespace";
	r = had & CLONE_NEWPID ? enter_pid_namespace(parent, &above) : 0;
	if (r < 0)
		return r;
	lose_files(spec, had);
	*ret_what = "set its limits";
	r = limit(spec);
	if (r < 0)
		return r;
	*ret_what = "drop root rights";
	r = leave_root(uid);
	if (r < 0)
		return r;
	/* Comes after the change of user, which clears PR_SET_PDEATHSIG. */
	*ret_what = "set no_new_privs";
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0 ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	*ret_what = "follow its parent, which has exited";
	if (is_orphan(parent, above))
		return -ESRCH;
	r = restrict_paths();
	if (r < 0)
		note(spec, "Landlock", r);
	*ret_what = "filter system calls";
	return sandbox_filter();
}
