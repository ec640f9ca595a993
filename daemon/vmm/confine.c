/* SPDX-License-Identifier: MIT */
/*
 * The launcher's own sandbox around a VMM. Called once by vmm-main.c, single-threaded, with only the
 * VMM's descriptors open. Three things must hold or nothing is executed: the uid is not 0,
 * no_new_privs is set, and the filter of system calls is in force. All else falls back step by step, and
 * each step that was not possible is noted.
 *
 * As root the uid is UID_BASE + pid, the pid that pyrod knows: the kernel gives no pid (nor thread id) to two living
 * processes, and the pid stays the same through exec, so no two running VMMs share a uid, and nothing has to be
 * kept or cleaned up. As a plain user the namespaces hang on a user namespace of the VMM's own. Its PID namespace
 * is there before it begins (daemon/child.c): it is that one's first process, whose end is the end of all in it.
 */
#include "daemon/vmm/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/landlock.h"
#include "daemon/userns.h"

#define UID_BASE 0x70000000u
/* Where the range above is not mapped (a container's user namespace): systemd's dynamic users. There
 * two VMMs may come to share a uid. */
#define UID_SMALL_BASE  61184u
#define UID_SMALL_COUNT 4336u

static void note(const struct confine_spec *spec, const char *what, int r)
{
	spec->note(what, r, spec->userdata);
}

static int set_limit(int resource, rlim_t value)
{
	const struct rlimit l = { value, value };

	return setrlimit((__rlimit_resource_t)resource, &l) < 0 ? -errno : 0;
}

/* The size of the largest file that it may write: no file of its grows, but its disk fills. */
static rlim_t largest_file(const struct confine_spec *spec)
{
	rlim_t largest = 0;

	for (int fd = spec->first_fd; fd < spec->first_fd + (int)spec->n_fds; fd++) {
		const int flags = fcntl(fd, F_GETFL);
		struct stat st;

		if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY || fstat(fd, &st) < 0)
			continue;
		if (S_ISREG(st.st_mode))
			largest = MAX_OF(largest, (rlim_t)st.st_size);
	}
	return largest;
}

static void limit(const struct confine_spec *spec)
{
	int r;

	r = set_limit(RLIMIT_CORE, 0);
	if (r < 0)
		note(spec, "core dumps off", r);
	r = set_limit(RLIMIT_NOFILE, 256);
	if (r < 0)
		note(spec, "limit of open files", r);
	/* Beyond it a write is an error of the call, not the end of the process. */
	r = signal(SIGXFSZ, SIG_IGN) == SIG_ERR ? -errno : 0;
	if (r >= 0)
		r = set_limit(RLIMIT_FSIZE, largest_file(spec));
	if (r < 0)
		note(spec, "limit of a file's size", r);
	/* Counted per uid: a plain user's other processes would count too. 32 vCPUs, 64 I/O workers. */
	if (geteuid() == 0) {
		r = set_limit(RLIMIT_NPROC, 256);
		if (r < 0)
			note(spec, "limit of threads", r);
	}
}

/* Returns whether there is a mount namespace of our own. Nobody but the first process of a PID namespace is 1. */
static bool enter_namespaces(const struct confine_spec *spec)
{
	static const struct {
		int flag;
		const char *name;
	} kinds[] = {
		{ CLONE_NEWNET, "network namespace" },
		{ CLONE_NEWIPC, "IPC namespace" },
		{ CLONE_NEWUTS, "UTS namespace" },
		{ CLONE_NEWNS, "mount namespace" },
	};
	bool mounts = false;

	if (getpid() != 1)
		note(spec, "PID namespace", -EPERM);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		bool ok = unshare(kinds[i].flag) == 0;

		if (!ok)
			note(spec, kinds[i].name, -errno);
		if (kinds[i].flag == CLONE_NEWNS)
			mounts = ok;
	}
	return mounts;
}

/* True if the user namespace we are in knows this id, as user and as group. */
static bool id_is_mapped(const char *path, uint32_t id)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	unsigned long inside, outside, count;

	if (!f)
		return false;
	/* NOLINTNEXTLINE(cert-err34-c): the kernel wrote it */
	while (fscanf(f, "%lu %lu %lu", &inside, &outside, &count) == 3)
		if (id >= inside && id - inside < count)
			return true;
	return false;
}

/* Our pid where /proc was mounted, which is pyrod's. */
static uid_t outer_pid(void)
{
	char text[16] = "";
	uint64_t pid;

	if (readlink("/proc/self", text, sizeof(text) - 1) > 0 &&
		parse_u64(text, 1, INT32_MAX, &pid) >= 0)
		return (uid_t)pid;
	return (uid_t)getpid();
}

static uid_t choose_uid(const struct confine_spec *spec)
{
	uid_t pid = outer_pid(), uid = UID_BASE + pid;

	if (id_is_mapped("/proc/self/uid_map", uid) && id_is_mapped("/proc/self/gid_map", uid))
		return uid;
	note(spec, "uid of its own", -ERANGE);
	return UID_SMALL_BASE + pid % UID_SMALL_COUNT;
}

/* The group of /dev/kvm, when it opens that to its group. */
static size_t kvm_group(const struct confine_spec *spec, gid_t *ret)
{
	struct stat st;

	if (!spec->kvm || stat("/dev/kvm", &st) < 0 || (st.st_mode & 0060) != 0060 ||
		st.st_gid == 0)
		return 0;
	*ret = st.st_gid;
	return 1;
}

static int leave_root(uid_t uid, const gid_t *groups, size_t n_groups)
{
	if (setgroups(n_groups, groups) < 0)
		return -errno;
	if (setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return 0;
}

static uint64_t access_of(enum confine_kind kind)
{
	switch (kind) {
	case CONFINE_PROGRAM: return LANDLOCK_EXECUTE | LANDLOCK_READ;
	case CONFINE_LIBRARIES:
		return LANDLOCK_EXECUTE | LANDLOCK_READ | LANDLOCK_LIST; /* the loader */
	case CONFINE_DATA: return LANDLOCK_READ | LANDLOCK_LIST;
	case CONFINE_FILE: return LANDLOCK_READ;
	case CONFINE_DEVICE: return LANDLOCK_READ | LANDLOCK_WRITE | LANDLOCK_IOCTL;
	}
	return 0;
}

/*
 * What it was handed read-only it may open so again by /proc/self/fd, as it does the kernel, and not for writing, whosever the
 * file is. What it may write it never opens again.
 */
static int allow_files(const struct confine_spec *spec, struct landlock *l)
{
	for (int fd = spec->first_fd; fd < spec->first_fd + (int)spec->n_fds; fd++) {
		const int flags = fcntl(fd, F_GETFL);
		struct stat st;
		int r;

		if (flags < 0 || fstat(fd, &st) < 0)
			return -errno;
		if ((flags & O_ACCMODE) != O_RDONLY || !S_ISREG(st.st_mode))
			continue;
		r = landlock_allow(l, fd, LANDLOCK_READ);
		if (r < 0 && r != -EBADFD) /* in no file system, where nothing is denied */
			return r;
	}
	return 0;
}

static int restrict_paths(const struct confine_spec *spec, const struct confine_paths *paths)
{
	_cleanup_(landlock_done) struct landlock l = { .fd = -EBADF };
	int r = landlock_begin(&l);

	for (size_t i = 0; r >= 0 && i < paths->n; i++) {
		r = landlock_allow_path(&l, paths->list[i].path, access_of(paths->list[i].kind));
		if (r == -ENOENT ||
			r == -EACCES) /* it does without, or cannot be executed and says so */
			r = 0;
	}
	if (r >= 0)
		r = allow_files(spec, &l);
	return r < 0 ? r : landlock_enforce(&l);
}

/* Namespaces, as far as they can be had, and the identity, which must be had. */
static int separate(const struct confine_spec *spec, const struct confine_paths *paths)
{
	const bool root = geteuid() == 0;
	size_t n_groups = 0;
	gid_t group = 0;
	uid_t uid = 0;
	int r = 0;

	if (root) {
		uid = choose_uid(spec); /* reads /proc: before the view */
		n_groups = kvm_group(spec, &group);
	} else if (!spec->unit) {
		r = userns_enter();
		if (r < 0)
			note(spec, "user namespace, and with it all others", r);
	}
	if (r >= 0 && !spec->unit && enter_namespaces(spec)) {
		r = confine_view(paths);
		if (r < 0)
			note(spec, "empty mount view", r);
	}
	r = root ? leave_root(uid, &group, n_groups) : 0;
	if (r < 0)
		return r;
	return getuid() == 0 || geteuid() == 0 ? -EPERM : 0;
}

int confine(const struct confine_spec *spec, const char **ret_what)
{
	struct confine_paths paths;
	int r;

	*ret_what = "list what the VMM opens";
	r = confine_paths_fill(&paths, spec);
	if (r < 0)
		return r;
	(void)setsid(); /* fails only for one that leads a group already, and so has left the terminal's */
	limit(spec);
	*ret_what = "take a uid of the VMM's own";
	r = separate(spec, &paths);
	if (r < 0)
		return r;
	*ret_what = "set no_new_privs";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	r = restrict_paths(spec, &paths);
	if (r < 0)
		note(spec, "Landlock", r);
	*ret_what = "filter system calls";
	return confine_filter();
}
