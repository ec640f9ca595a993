/* SPDX-License-Identifier: MIT */
/*
 * pyro-subid SOURCE UID: asks libsubid who owns a subordinate uid, by the source that nsswitch.conf
 * names, and prints one line: "OWNER START COUNT" with the owner's range that has the uid, "own" if
 * nobody else owns it, "unknown" if the source cannot say. Run by subid.c, which bounds its time.
 *
 * libsubid, its module for the source and libc's modules for users and groups run here and may
 * block, crash or lie. What must stay true: they run without privileges, without a network other
 * than AF_UNIX, and can start no program and write no file. A source whose module cannot be loaded
 * is a failure: libsubid would silently answer from /etc/subuid.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "daemon/filter.h"
#include "daemon/landlock.h"
#include "daemon/rlimits.h"

#define GROUP_USERS "pyro" /* who may use the system's daemon */
#define NAME_CHARS  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

enum {
	NAME_MAX_BYTES = 50, /* as libsubid */
	OWNERS_MAX = 64,
	RANGES_MAX = 4096,
	MEMBERS_MAX = 4096,
	OPEN_FILES_MAX = 64,
	MEMORY_MIB_MAX = 1024,
};

/* subid.h of libsubid, whose package pyro does not need for building. The functions are the same in
 * versions 4 and 5 of its ABI. */
struct subid_range {
	unsigned long start, count;
};

struct libsubid {
	bool (*init)(const char *progname, FILE *logfd);
	int (*get_uid_owners)(uid_t uid, uid_t **owners);
	int (*get_uid_ranges)(const char *owner, struct subid_range **ranges);
};

struct answer {
	enum { ANSWER_UNKNOWN, ANSWER_OWN, ANSWER_OWNER } kind;
	uid_t owner;
	uint64_t start, count;
};

/* Confinement */

static int limit(void)
{
	static const struct rlimit_max limits[] = {
		{ RLIMIT_CORE, 0 },
		{ RLIMIT_FSIZE, 0 },
		{ RLIMIT_NOFILE, OPEN_FILES_MAX },
#ifndef __SANITIZE_ADDRESS__ /* it reserves terabytes */
		{ RLIMIT_AS, MEMORY_MIB_MAX * MIB },
#endif
	};

	return rlimits_lower(limits, ARRAY_SIZE(limits));
}

/* Allows reading where modules, their configuration and their sockets are. Where Landlock cannot be
 * used, only the permissions of files count. */
static int restrict_paths(void)
{
	static const char *const read_only[] = { "/usr", "/lib", "/lib64", "/etc", "/run", "/proc",
		"/var/lib/sss", "/var/lib/samba", "/var/cache/nscd", "/dev/urandom" };
	_cleanup_(landlock_done) struct landlock l = { .fd = -EBADF };
	int r = landlock_begin(&l);

	if (r < 0)
		return 0;
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(read_only); i++) {
		r = landlock_allow_path(
			&l, read_only[i], LANDLOCK_EXECUTE | LANDLOCK_READ | LANDLOCK_LIST);
		r = r == -ENOENT || r == -EACCES ? 0 : r;
	}
	if (r >= 0)
		r = landlock_allow_path(&l, "/dev/null", LANDLOCK_READ | LANDLOCK_WRITE);
	return r < 0 ? r : landlock_enforce(&l);
}

static int restrict_calls(void)
{
	static const int missing[] = { SYS_clone3, SYS_io_uring_setup, SYS_io_uring_enter,
		SYS_io_uring_register };
	static const int refused[] = { /* other programs and processes */
		SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv,
		SYS_process_vm_writev, SYS_process_madvise, SYS_process_mrelease, SYS_kcmp,
		SYS_pidfd_open, SYS_pidfd_getfd, SYS_pidfd_send_signal, SYS_setsid, SYS_setpgid,
		/* keys, namespaces, mounts */
		SYS_add_key, SYS_request_key, SYS_keyctl, SYS_unshare, SYS_setns, SYS_mount,
		SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount, SYS_fsopen,
		SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_open_by_handle_at,
		/* large parts of the kernel */
		SYS_userfaultfd, SYS_bpf, SYS_perf_event_open, SYS_fanotify_init, SYS_memfd_secret,
		/* files of its user */
		SYS_truncate, SYS_chmod, SYS_fchmod, SYS_fchmodat, SYS_chown, SYS_fchown,
		SYS_lchown, SYS_fchownat, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
		SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_utime, SYS_utimes,
		SYS_futimesat, SYS_utimensat
	};
	const uint32_t local[] = { AF_UNIX }, self[] = { (uint32_t)getpid() },
		       family = FILTER_FAIL(EAFNOSUPPORT), no = FILTER_FAIL(EPERM);
	struct filter f;

	filter_begin(&f);
	filter_values(&f, SYS_socket, 0, local, 1, FILTER_ALLOW, family);
	filter_values(&f, SYS_socketpair, 0, local, 1, FILTER_ALLOW, family);
	filter_bits(&f, SYS_clone, 0, CLONE_THREAD, CLONE_THREAD, FILTER_ALLOW, no);
	filter_values(&f, SYS_kill, 0, self, 1, FILTER_ALLOW, no);
	filter_values(&f, SYS_tgkill, 0, self, 1, FILTER_ALLOW, no);
	filter_calls(&f, missing, ARRAY_SIZE(missing), FILTER_FAIL(ENOSYS));
	filter_calls(&f, refused, ARRAY_SIZE(refused), no);
	return filter_install(&f, FILTER_ALLOW);
}

static int confine(void)
{
	int r = limit();

	if (r < 0)
		return r;
	if (geteuid() == 0 || prctl(PR_SET_DUMPABLE, 0) < 0 ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -EPERM;
	/* A module's writes to a file fail instead of ending the process. */
	if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
		return -errno;
	r = restrict_paths();
	return r < 0 ? r : restrict_calls();
}

/* libsubid */

static void *open_first(const char *const *names, size_t n)
{
	void *handle = NULL;

	for (size_t i = 0; !handle && i < n; i++)
		handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
	return handle;
}

static bool module_opens(const char *source)
{
	char name[sizeof("libsubid_.so") + NAME_MAX_BYTES];
	size_t n = strlen(source);

	if (n == 0 || n > NAME_MAX_BYTES || strspn(source, NAME_CHARS) != n) {
		fprintf(stderr, "nsswitch.conf names no usable source\n");
		return false;
	}
	(void)snprintf(name, sizeof(name), "libsubid_%s.so", source);
	if (!dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
		fprintf(stderr, "cannot load %s: is its package installed?\n", name);
		return false;
	}
	return true;
}

static bool library_opens(struct libsubid *ret)
{
	static const char *const names[] = { "libsubid.so.5", "libsubid.so.4" };
	void *handle = open_first(names, ARRAY_SIZE(names));

	if (!handle) {
		fprintf(stderr, "cannot load %s or %s: install package uidmap\n", names[0],
			names[1]);
		return false;
	}
	/* dlsym(3): the way to assign it to a pointer to a function. */
	*(void **)&ret->init = dlsym(handle, "subid_init");
	*(void **)&ret->get_uid_owners = dlsym(handle, "subid_get_uid_owners");
	*(void **)&ret->get_uid_ranges = dlsym(handle, "subid_get_uid_ranges");
	if (ret->init && ret->get_uid_owners && ret->get_uid_ranges)
		return ret->init("pyro-subid", stderr);
	fprintf(stderr, "libsubid lacks a function\n");
	return false;
}

/* Finds the range of this user that has the uid. */
static bool range_of(const struct libsubid *lib, const char *user, uid_t uid, struct answer *ret)
{
	struct subid_range *ranges = NULL;
	int n = lib->get_uid_ranges(user, &ranges);

	if (!ranges || n > RANGES_MAX)
		return false;
	for (int i = 0; i < n; i++) {
		const unsigned long start = ranges[i].start, count = ranges[i].count;

		if (uid < start || uid - start >= count)
			continue;
		ret->start = start;
		ret->count = MIN_OF(count, UINT32_MAX - start);
		return true;
	}
	return false;
}

/* Looks through the ranges of the members of group pyro, for a source that cannot find an owner, as
 * that of SSSD cannot. */
static bool owner_among_members(const struct libsubid *lib, uid_t uid, struct answer *ret)
{
	const struct group *gr = getgrnam(GROUP_USERS);

	for (size_t i = 0; gr && i < MEMBERS_MAX && gr->gr_mem[i]; i++) {
		const struct passwd *pw;

		if (!range_of(lib, gr->gr_mem[i], uid, ret))
			continue;
		pw = getpwnam(gr->gr_mem[i]);
		if (!pw)
			return false;
		ret->owner = pw->pw_uid;
		return true;
	}
	return false;
}

static bool find(const struct libsubid *lib, uid_t uid, struct answer *ret)
{
	const struct passwd *pw;
	uid_t *owners = NULL;
	int n = lib->get_uid_owners(uid, &owners);

	*ret = (struct answer){ .kind = ANSWER_OWN, .start = uid, .count = 1 };
	if (n > OWNERS_MAX || (n > 0 && !owners)) {
		fprintf(stderr, "libsubid lists %d owners\n", n);
		return false;
	}
	if (n > 0) {
		ret->kind = ANSWER_OWNER;
		ret->owner = owners[0];
		for (int i = 1; i < n; i++)
			ret->owner = MIN_OF(ret->owner, owners[i]);
		pw = getpwuid(ret->owner);
		if (pw)
			(void)range_of(lib, pw->pw_name, uid, ret); /* else this uid alone */
	} else if (n < 0 && !getpwuid(uid)) {
		ret->kind = owner_among_members(lib, uid, ret) ? ANSWER_OWNER : ANSWER_UNKNOWN;
	}
	return true;
}

static int print(int fd, const struct answer *a)
{
	char line[64] = "unknown\n";

	if (a->kind == ANSWER_OWN)
		(void)snprintf(line, sizeof(line), "own\n");
	else if (a->kind == ANSWER_OWNER)
		(void)snprintf(line, sizeof(line), "%u %llu %llu\n", a->owner,
			(unsigned long long)a->start, (unsigned long long)a->count);
	return write_all(fd, line, strlen(line));
}

int main(int argc, char **argv)
{
	struct libsubid lib;
	struct answer answer;
	uint64_t uid;
	int out, r;

	if (argc != 3 || parse_u64(argv[2], 0, UINT32_MAX - 1, &uid) < 0) {
		fprintf(stderr, "Usage: pyro-subid SOURCE UID\nStarted by pyrod.\n");
		return 2;
	}
	/* What a module prints must not be taken for the answer. */
	out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return EXIT_FAILURE;
	r = confine();
	if (r < 0) {
		fprintf(stderr, "cannot confine itself: %s\n", strerror(-r));
		return EXIT_FAILURE;
	}
	if (!module_opens(argv[1]) || !library_opens(&lib) || !find(&lib, (uid_t)uid, &answer))
		_exit(EXIT_FAILURE);
	/* Without destructors of modules, which may block. */
	_exit(print(out, &answer) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
