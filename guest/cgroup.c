/* SPDX-License-Identifier: MIT */
/*
 * Control groups. Called by init.c (the common node), exec.c (one per command) and login.c.
 * Programs of the guest may make groups of their own below a command's; they are removed with it,
 * to a bounded depth, after the last process is gone.
 */

#include "guest/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

enum { CGROUP_DEPTH_MAX = 16, CGROUP_FILE_MAX = 4096, CGROUP_END_MSEC = 1000 };

static int open_dir(int at, const char *path, int *ret_fd)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

int cgroup_make(int root_fd, const char *name, int *ret_fd)
{
	if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	return open_dir(root_fd, name, ret_fd);
}

int cgroup_root(const char *parent, const char *name, int *ret_fd)
{
	_cleanup_close_ int parent_fd = -EBADF, fd = -EBADF;
	int r;

	parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0)
		return -errno;
	r = cgroup_make(parent_fd, name, &fd);
	if (r < 0)
		return r;
	if (faccessat(fd, "cgroup.kill", W_OK, 0) < 0) {
		(void)unlinkat(parent_fd, name, AT_REMOVEDIR);
		return -EOPNOTSUPP;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int cgroup_root_own(const char *name, int *ret_fd)
{
	static const char *const mounts[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
	_cleanup_free_ char *text = NULL;
	char *line, *end;
	int r;

	r = read_file_at(AT_FDCWD, "/proc/self/cgroup", CGROUP_FILE_MAX, &text, NULL);
	if (r < 0)
		return r;
	line = startswith(text, "0::/") ? text : strstr(text, "\n0::/");
	if (!line)
		return -EOPNOTSUPP;
	line = strchr(line, '/');
	end = strchr(line, '\n');
	if (end)
		*end = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		_cleanup_free_ char *parent = str_printf("%s%s", mounts[i], line);
		_cleanup_free_ char *procs = str_printf("%s/cgroup.procs", parent ? parent : "");
		if (!parent || !procs)
			return -ENOMEM;
		if (access(procs, W_OK) < 0)
			continue;
		r = cgroup_root(parent, name, ret_fd);
		if (r >= 0)
			return r;
	}
	return -EOPNOTSUPP;
}

int cgroup_events(int fd, int *ret_fd)
{
	int events = openat(fd, "cgroup.events", O_RDONLY | O_CLOEXEC);

	if (events < 0)
		return -errno;
	*ret_fd = events;
	return 0;
}

int cgroup_populated(int events_fd)
{
	char text[256];
	const char *field;
	ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	field = strstr(text, "populated ");
	return field ? field[strlen("populated ")] == '1' : -EBADMSG;
}

int cgroup_kill(int fd)
{
	_cleanup_close_ int kill_fd = openat(fd, "cgroup.kill", O_WRONLY | O_CLOEXEC);

	if (kill_fd < 0)
		return -errno;
	return write_all(kill_fd, "1", 1);
}

static int remove_at(int at, const char *name, int depth)
{
	_cleanup_close_ int fd = -EBADF;
	struct dirent *e;
	DIR *dir;
	int r;

	if (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != EBUSY || depth == 0)
		return -errno;
	r = open_dir(at, name, &fd);
	if (r < 0)
		return r;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	TAKE_FD(fd);
	while ((e = readdir(dir)))
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			(void)remove_at(dirfd(dir), e->d_name, depth - 1);
	(void)closedir(dir);
	return unlinkat(at, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int cgroup_remove(int root_fd, const char *name)
{
	return remove_at(root_fd, name, CGROUP_DEPTH_MAX);
}

void cgroup_root_end(int fd, const char *name)
{
	_cleanup_close_ int events = -EBADF,
			    parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t end = now_usec() + CGROUP_END_MSEC * USEC_PER_MSEC;

	(void)cgroup_kill(fd);
	if (cgroup_events(fd, &events) >= 0)
		while (cgroup_populated(events) > 0 && now_usec() < end) {
			struct pollfd p = { .fd = events, .events = POLLPRI };
			(void)poll(&p, 1, CGROUP_END_MSEC);
		}
	if (parent >= 0)
		(void)cgroup_remove(parent, name);
	fd_close(fd);
}
