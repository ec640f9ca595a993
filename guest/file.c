/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes files in the environment's tree, for machine.c, system.c, conf.c and user.c. The
 * tree belongs to the guest and may be hostile or unusual (distroless, /lib a dangling link):
 * nothing blocks, sizes and depths are bounded, and a write never follows a link in the last
 * component.
 */

#include "guest/file.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

enum { FILE_MAX = 1024 * 1024, DEPTH_MAX = 16 };

int file_read(const char *path, char **ret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *text = NULL;
	struct stat st = { 0 };
	size_t n = 0;

	if (fd < 0 && errno != ENOENT)
		return -errno;
	if (fd >= 0 && fstat(fd, &st) < 0)
		return -errno;
	if (fd >= 0 && !S_ISREG(st.st_mode))
		return -EINVAL;
	text = malloc((size_t)MIN_OF(st.st_size, (off_t)FILE_MAX) + 1);
	if (!text)
		return -ENOMEM;
	while (fd >= 0 && n < (size_t)MIN_OF(st.st_size, (off_t)FILE_MAX)) {
		ssize_t got = read(fd, text + n, (size_t)MIN_OF(st.st_size, (off_t)FILE_MAX) - n);
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	text[n] = '\0';
	*ret = TAKE_PTR(text);
	return 0;
}

int file_replace(const char *path, const char *text)
{
	_cleanup_close_ int fd = -EBADF;

	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	return fd < 0 ? -errno : write_all(fd, text, strlen(text));
}

int file_set(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_all(fd, text, strlen(text));
}

static int make_dir(const char *path, unsigned depth);

/* Returns "/a/b" for "/a/b/c"; NULL when out of memory. */
static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash != path ? strndup(path, (size_t)(slash - path)) : strdup("/");
}

/* Creates the target of the link at path. */
static int make_link_target(const char *path, unsigned depth)
{
	_cleanup_free_ char *parent = parent_of(path), *full = NULL;
	char target[PATH_MAX];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	full = target[0] == '/' ? strdup(target)
				: str_printf("%s/%s", parent ? parent : "", target);
	if (!parent || !full)
		return -ENOMEM;
	return make_dir(full, depth + 1);
}

static int make_dir(const char *path, unsigned depth)
{
	_cleanup_free_ char *parent = NULL;
	struct stat st;
	int r;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	if (stat(path, &st) == 0)
		return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
	if (errno != ENOENT)
		return -errno;
	if (mkdir(path, 0755) == 0)
		return 0;
	if (errno == EEXIST)
		return make_link_target(path, depth);
	if (errno != ENOENT)
		return -errno;
	parent = parent_of(path);
	if (!parent)
		return -ENOMEM;
	r = make_dir(parent, depth + 1);
	if (r < 0)
		return r;
	return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

int file_dir(const char *path)
{
	int r = make_dir(path, 0);

	if (r != -ENOTDIR && r != -ELOOP)
		return r;
	/* Fails for a directory, which unlink does not remove. */
	if (unlink(path) < 0)
		return r;
	return make_dir(path, 0);
}
