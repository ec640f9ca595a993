/* SPDX-License-Identifier: MIT */
/*
 * The launcher's own sandbox around a VMM. Called once by vmm-main.c, single-threaded, with only the
 * VMM's descriptors open. Two things must hold or nothing is executed: the uid is not 0, and
 * no_new_privs is set. All else falls back step by step, and each step that was not possible is noted.
 *
 * As root the uid is UID_BASE + pid: the kernel gives no pid (nor thread id) to two living processes,
 * and the pid stays the same through exec, so no two running VMMs share a uid, and nothing has to be
 * kept or cleaned up. As a plain user the namespaces hang on a user namespace of the VMM's own.
 *
 * The mount view is a read-only tmpfs with /usr, the loader's cache, three devices and this process's
 * own /proc/self/fd, through which the kernel, initramfs and memory are opened.
 */
#include "daemon/vmm/confine.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define UID_BASE 0x70000000u
/* Where the range above is not mapped (a container's user namespace): systemd's dynamic users. There
 * two VMMs may come to share a uid. */
#define UID_SMALL_BASE  61184u
#define UID_SMALL_COUNT 4336u

/* The directory the view is built on; it only has to exist, everywhere. */
#define VIEW "/tmp"

static void note(const struct confine_spec *spec, const char *what, int r)
{
	spec->note(what, r, spec->userdata);
}

static int set_limit(int resource, rlim_t value)
{
	const struct rlimit l = { value, value };

	return setrlimit((__rlimit_resource_t)resource, &l) < 0 ? -errno : 0;
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
	/* Counted per uid: a plain user's other processes would count too. 32 vCPUs, 64 I/O workers. */
	if (geteuid() == 0) {
		r = set_limit(RLIMIT_NPROC, 256);
		if (r < 0)
			note(spec, "limit of threads", r);
	}
}

static int write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write_all(fd, text, strlen(text));
}

/* A user namespace in which we stay who we are, and may make the other namespaces. */
static int enter_user_namespace(void)
{
	char uid_map[64], gid_map[64];
	int r;

	(void)snprintf(uid_map, sizeof(uid_map), "%u %u 1", geteuid(), geteuid());
	(void)snprintf(gid_map, sizeof(gid_map), "%u %u 1", getegid(), getegid());
	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	r = write_file("/proc/self/setgroups", "deny");
	if (r < 0)
		return r;
	r = write_file("/proc/self/uid_map", uid_map);
	if (r < 0)
		return r;
	return write_file("/proc/self/gid_map", gid_map);
}

/* Returns whether there is a mount namespace of our own. */
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

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		bool ok = unshare(kinds[i].flag) == 0;

		if (!ok)
			note(spec, kinds[i].name, -errno);
		if (kinds[i].flag == CLONE_NEWNS)
			mounts = ok;
	}
	return mounts;
}

static int restrict_mount(const char *path, uint64_t attributes)
{
	struct mount_attr a = { .attr_set = attributes };

	return mount_setattr(AT_FDCWD, path, AT_RECURSIVE, &a, sizeof(a)) < 0 ? -errno : 0;
}

/* Binds from at VIEW/from. */
static int bind_in(const char *from, const char *to, uint64_t attributes)
{
	struct stat st;

	if (stat(from, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(to, 0755) < 0 && errno != EEXIST)
			return -errno;
	} else {
		_cleanup_close_ int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

		if (fd < 0)
			return -errno;
	}
	if (mount(from, to, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -errno;
	return restrict_mount(to, attributes);
}

/* /lib and its kin: links into /usr where /usr is merged, directories elsewhere. */
static int bind_or_link(const char *from, const char *to)
{
	char target[256];
	ssize_t n = readlink(from, target, sizeof(target) - 1);

	if (n >= 0) {
		target[n] = 0;
		return symlink(target, to) < 0 ? -errno : 0;
	}
	if (errno == ENOENT)
		return 0;
	return bind_in(from, to, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

static int fill_libraries(const struct confine_spec *spec)
{
	static const char *const dirs[][2] = {
		{ "/usr", VIEW "/usr" },
		{ "/lib", VIEW "/lib" },
		{ "/lib32", VIEW "/lib32" },
		{ "/lib64", VIEW "/lib64" },
		{ "/bin", VIEW "/bin" },
		{ "/opt", VIEW "/opt" },
		{ "/nix", VIEW "/nix" },
	};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		/* /opt and /nix only for a VMM that lives there. */
		if (i >= 5 && !startswith(spec->program, dirs[i][0]))
			continue;
		r = bind_or_link(dirs[i][0], dirs[i][1]);
		if (r < 0)
			return r;
	}
	if (mkdir(VIEW "/etc", 0755) < 0)
		return -errno;
	r = bind_in("/etc/ld.so.cache", VIEW "/etc/ld.so.cache",
		MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
	return r == -ENOENT ? 0 : r;
}

static int fill_devices(const struct confine_spec *spec)
{
	static const char *const devices[][2] = {
		{ "/dev/null", VIEW "/dev/null" },
		{ "/dev/urandom", VIEW "/dev/urandom" },
		{ "/dev/kvm", VIEW "/dev/kvm" },
	};
	int r;

	if (mkdir(VIEW "/dev", 0755) < 0)
		return -errno;
	for (size_t i = 0; i < (spec->kvm ? 3 : 2); i++) {
		r = bind_in(devices[i][0], devices[i][1], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
		if (r < 0)
			return r;
	}
	/* This process's own descriptors and nothing else of /proc. */
	if (mkdir(VIEW "/proc", 0755) < 0 || mkdir(VIEW "/proc/self", 0755) < 0)
		return -errno;
	return bind_in("/proc/self/fd", VIEW "/proc/self/fd", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

/* Makes VIEW the root. pivot_root(2), "pivot_root(".", ".")". */
static int enter_view(void)
{
	int r;

	r = restrict_mount(VIEW, 0);
	if (r < 0)
		return r;
	if (chdir(VIEW) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return -errno;
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) <
		0)
		return -errno;
	return 0;
}

static int make_view(const struct confine_spec *spec)
{
	int r;

	if (!startswith(spec->program, "/usr/") && !startswith(spec->program, "/opt/") &&
		!startswith(spec->program, "/nix/"))
		return -EXDEV;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	if (mount("tmpfs", VIEW, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k") < 0)
		return -errno;
	r = fill_libraries(spec);
	if (r >= 0)
		r = fill_devices(spec);
	if (r >= 0)
		r = enter_view();
	if (r < 0)
		(void)umount2(VIEW, MNT_DETACH);
	return r;
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

static uid_t choose_uid(const struct confine_spec *spec)
{
	uid_t uid = UID_BASE + (uid_t)getpid();

	if (id_is_mapped("/proc/self/uid_map", uid) && id_is_mapped("/proc/self/gid_map", uid))
		return uid;
	note(spec, "uid of its own", -ERANGE);
	return UID_SMALL_BASE + (uid_t)getpid() % UID_SMALL_COUNT;
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

int confine(const struct confine_spec *spec, const char **ret_what)
{
	const bool root = geteuid() == 0;
	size_t n_groups = 0;
	gid_t group = 0;
	uid_t uid = 0;
	int r = 0;

	(void)setsid(); /* fails only for one that leads a group already, and so has left the terminal's */
	limit(spec);
	if (root) {
		uid = choose_uid(spec); /* reads /proc: before the view */
		n_groups = kvm_group(spec, &group);
	} else if (!spec->unit) {
		r = enter_user_namespace();
		if (r < 0)
			note(spec, "user namespace, and with it all others", r);
	}
	if (r >= 0 && !spec->unit && enter_namespaces(spec)) {
		r = make_view(spec);
		if (r < 0)
			note(spec, "empty mount view", r);
	}
	*ret_what = "take a uid of the VMM's own";
	r = root ? leave_root(uid, &group, n_groups) : 0;
	if (r < 0)
		return r;
	if (getuid() == 0 || geteuid() == 0)
		return -EPERM;
	*ret_what = "set no_new_privs";
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}
