/* SPDX-License-Identifier: MIT */
/*
 * The file system that a VMM sees: a read-only tmpfs with the paths of confine-paths.c and this
 * process's /proc/self/fd, through which QEMU opens the kernel and the initramfs. Called by
 * confine.c, in a mount namespace of its own.
 */
#include "daemon/vmm/confine.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The mount point of the view: any directory that exists on every host. */
#define VIEW "/tmp"

enum { LINKS_MAX = 8 };

static int restrict_mount(const char *path, uint64_t attributes)
{
	struct mount_attr a = { .attr_set = attributes };

	return mount_setattr(AT_FDCWD, path, AT_RECURSIVE, &a, sizeof(a)) < 0 ? -errno : 0;
}

/* Creates the parents of VIEW/path. */
static int make_parents(const char *path)
{
	char at[sizeof(VIEW) + CONFINE_PATH_BYTES];

	for (const char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		(void)snprintf(at, sizeof(at), VIEW "%.*s", (int)(p - path), path);
		if (mkdir(at, 0755) < 0 && errno != EEXIST)
			return -errno;
	}
	return 0;
}

/* Creates the mount point. */
static int make_place(const char *to, bool directory)
{
	_cleanup_close_ int fd = -EBADF;

	if (directory)
		return mkdir(to, 0755) < 0 && errno != EEXIST ? -errno : 0;
	if (access(to, F_OK) == 0)
		return 0;
	fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : 0;
}

/* Binds path, which contains no link, at VIEW/path, unless it is there already. */
static int bind_in(const char *path, uint64_t attributes)
{
	char to[sizeof(VIEW) + CONFINE_PATH_BYTES];
	struct stat st, there;
	int r;

	if (stat(path, &st) < 0)
		return -errno;
	(void)snprintf(to, sizeof(to), VIEW "%s", path);
	if (stat(to, &there) == 0 && there.st_dev == st.st_dev && there.st_ino == st.st_ino)
		return 0;
	r = make_parents(path);
	if (r >= 0)
		r = make_place(to, S_ISDIR(st.st_mode));
	if (r < 0)
		return r;
	if (mount(path, to, NULL, MS_BIND | MS_REC, NULL) < 0)
		return -errno;
	return restrict_mount(to, attributes);
}

/* Creates the same symbolic link in the view and replaces it in path by its target. The first n
 * bytes of path are the link. */
static int follow(char path[CONFINE_PATH_BYTES], size_t n, const char *target)
{
	char link[CONFINE_PATH_BYTES], to[sizeof(VIEW) + CONFINE_PATH_BYTES],
		next[CONFINE_PATH_BYTES];
	int length, r;

	(void)snprintf(link, sizeof(link), "%.*s", (int)n, path);
	(void)snprintf(to, sizeof(to), VIEW "%s", link);
	r = make_parents(link);
	if (r < 0)
		return r;
	if (symlink(target, to) < 0 && errno != EEXIST)
		return -errno;
	*(strrchr(link, '/') + 1) = 0; /* a relative target starts at the link's directory */
	length = snprintf(
		next, sizeof(next), "%s%s%s", target[0] == '/' ? "" : link, target, path + n);
	if (length < 0 || (size_t)length >= sizeof(next))
		return -ENAMETOOLONG;
	memcpy(path, next, (size_t)length + 1);
	return 1;
}

/* Follows the first link in path and returns 1; returns 0 if there is none. */
static int follow_first(char path[CONFINE_PATH_BYTES])
{
	char at[CONFINE_PATH_BYTES], target[CONFINE_PATH_BYTES];

	for (size_t n = 1;; n++) {
		ssize_t bytes;

		if (path[n] && path[n] != '/')
			continue;
		(void)snprintf(at, sizeof(at), "%.*s", (int)n, path);
		bytes = readlink(at, target, sizeof(target) - 1);
		if (bytes >= 0) {
			target[bytes] = 0;
			return follow(path, n, target);
		}
		if (errno != EINVAL)
			return -errno;
		if (!path[n])
			return 0;
	}
}

/* Adds path to the view, with every link on the way to it. */
static int show(const char *path, uint64_t attributes)
{
	char at[CONFINE_PATH_BYTES];
	int r = 1;

	(void)snprintf(at, sizeof(at), "%s", path);
	for (unsigned i = 0; r > 0 && i < LINKS_MAX; i++)
		r = follow_first(at);
	if (r != 0)
		return r < 0 ? r : -ELOOP;
	return bind_in(at, attributes);
}

static uint64_t attributes_of(enum confine_kind kind)
{
	switch (kind) {
	case CONFINE_DEVICE: return MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
	case CONFINE_DATA:
	case CONFINE_FILE:
		return MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	case CONFINE_PROGRAM:
	case CONFINE_LIBRARIES: break;
	}
	return MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
}

static int fill(const struct confine_paths *paths)
{
	for (size_t i = 0; i < paths->n; i++) {
		int r = show(paths->list[i].path, attributes_of(paths->list[i].kind));

		if (r < 0 && (r != -ENOENT || paths->list[i].kind == CONFINE_PROGRAM))
			return r;
	}
	/* Only this process's descriptors: the view has no /proc. */
	if (mkdir(VIEW "/proc", 0755) < 0 || mkdir(VIEW "/proc/self", 0755) < 0)
		return -errno;
	return bind_in("/proc/self/fd", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

/* Makes VIEW the root directory, by pivot_root(".", ".") of pivot_root(2). */
static int enter(void)
{
	if (chdir(VIEW) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return -errno;
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) <
		0)
		return -errno;
	return 0;
}

int confine_view(const struct confine_paths *paths)
{
	int r;

	if (!paths->known)
		return -EXDEV;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	if (mount("tmpfs", VIEW, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64k") < 0)
		return -errno;
	r = fill(paths);
	if (r >= 0)
		r = enter();
	if (r < 0)
		(void)umount2(VIEW, MNT_DETACH);
	return r;
}
