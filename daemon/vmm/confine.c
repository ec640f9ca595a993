/* SPDX-License-Identifier: MIT */
/*
 * The sandbox that pyro-vmm enters before it executes a VMM. Called once by vmm-main.c,
 * single-threaded, with only the VMM's descriptors open. What must stay true: nothing is executed
 * unless the uid is not 0, no_new_privs is set and the seccomp filter is installed. Every other
 * step may fail, and each failure is reported by spec->note.
 *
 * As root the uid is CONFINE_UID(pid), the pid that pyrod sees: the kernel never gives one pid (or
 * thread id) to two living processes and exec keeps it, so two running VMMs never share a uid and
 * nothing has to be recorded or cleaned up. As a plain user the VMM has a user namespace that owns
 * its other namespaces. daemon/child.c has already put it into a new PID namespace as pid 1, so its
 * end kills all processes in it.
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
#include "daemon/namespaces.h"

static void note(const struct confine_spec *spec, const char *what, int r)
{
	spec->note(what, r, spec->userdata);
}

static int set_limit(int resource, rlim_t value)
{
	const struct rlimit l = { value, value };

	return setrlimit((__rlimit_resource_t)resource, &l) < 0 ? -errno : 0;
}

/* Returns the size of the largest file open for writing: no file may grow beyond it, but a sparse
 * disk fills. */
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
	/* A write beyond it fails with EFBIG instead of killing the process. */
	r = signal(SIGXFSZ, SIG_IGN) == SIG_ERR ? -errno : 0;
	if (r >= 0)
		r = set_limit(RLIMIT_FSIZE, largest_file(spec));
	if (r < 0)
		note(spec, "limit of a file's size", r);
	/* The kernel counts per uid, so a plain user's other processes would count too. 32 vCPUs,
	 * 64 I/O workers. */
	if (geteuid() == 0) {
		r = set_limit(RLIMIT_NPROC, 256);
		if (r < 0)
			note(spec, "limit of threads", r);
	}
}

/* Returns true if this process has its own mount namespace. It has pid 1 only in a PID namespace of
 * its own. */
static bool enter_namespaces(const struct confine_spec *spec)
{
	const int had = namespaces_enter(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS,
		spec->note, spec->userdata);

	if (getpid() != 1)
		note(spec, "PID namespace", -EPERM);
	return had & CLONE_NEWNS;
}

/* True if the current user namespace maps this id; path is its uid_map or gid_map. */
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

/* Returns this process's pid in the PID namespace of /proc, which is pyrod's. */
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
	uid_t pid = outer_pid(), uid = CONFINE_UID(pid);

	if (id_is_mapped("/proc/self/uid_map", uid) && id_is_mapped("/proc/self/gid_map", uid))
		return uid;
	note(spec, "uid of its own", -ERANGE);
	return CONFINE_UID_SMALL(pid);
}

/* Returns the group of /dev/kvm if its mode gives the group access. */
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
 * Lets the VMM open read-only descriptors again through /proc/self/fd (QEMU does this with the
 * kernel), only for reading whoever owns the file. It never opens the writable ones again.
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
		if (r < 0 && r != -EBADFD) /* a memfd or pipe: Landlock does not restrict it */
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
			r == -EACCES) /* optional, or the exec will fail and report it */
			r = 0;
	}
	if (r >= 0)
		r = allow_files(spec, &l);
	return r < 0 ? r : landlock_enforce(&l);
}

/* Enters the namespaces, as far as possible, and takes the uid, which must succeed. */
static int separate(const struct confine_spec *spec, const struct confine_paths *paths)
{
	const bool root = geteuid() == 0;
	size_t n_groups = 0;
	gid_t group = 0;
	uid_t uid = 0;
	int r = 0;

	if (root) {
		uid = choose_uid(spec); /* reads /proc, which the view lacks */
		n_groups = kvm_group(spec, &group);
	}
	if (!spec->unit && enter_namespaces(spec)) {
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
	(void)setsid(); /* fails only for a group leader, which has left the terminal's group */
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
