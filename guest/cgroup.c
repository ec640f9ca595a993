/* SPDX-License-Identifier: MIT */
/*
 * Control groups. Called by machine.c (the common node), exec.c (one per command) and login.c.
 * Programs of the guest may create groups below a command's; they are removed with it, to a bounded
 * depth, after the last process has exited.
 */

#include "guest/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

enum { CGROUP_DEPTH_MAX = 16, CGROUP_FILE_MAX = 4096, CGROUP_END_MSEC = 1000 };
/* Share of the tasks that the kernel allows: a third, as logind gives a user, so that a fork bomb
 * of shells does not use up the memory. */
enum { PIDS_SHARE = 3, PIDS_CAP = 16384 };

static int open_dir(int at, const char *path, int *ret_fd)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

static int write_file(int fd, const char *name, const char *text)
{
	_cleanup_close_ int file = openat(fd, name, O_WRONLY | O_CLOEXEC);

	return file < 0 ? -errno : write_all(file, text, strlen(text));
}

/* If a controller is missing, or the node itself contains processes, the groups have no limits and
 * no counters. */
static void enable_controllers(int fd)
{
	(void)write_file(fd, "cgroup.subtree_control", "+memory");
	(void)write_file(fd, "cgroup.subtree_control", "+pids");
}

static uint64_t kernel_limit(const char *path)
{
	_cleanup_free_ char *text = NULL;
	uint64_t n;

	if (read_file_at(AT_FDCWD, path, CGROUP_FILE_MAX, &text, NULL) < 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	return parse_u64(text, 1, UINT32_MAX, &n) < 0 ? 0 : n;
}

uint32_t cgroup_pids_max(void)
{
	uint64_t threads = kernel_limit("/proc/sys/kernel/threads-max");
	uint64_t pids = kernel_limit("/proc/sys/kernel/pid_max");

	return (uint32_t)MIN_OF(MIN_OF(threads, pids) / PIDS_SHARE, (uint64_t)PIDS_CAP);
}

int cgroup_make(int root_fd, const char *name, uint32_t pids_max, int *ret_fd)
{
	_cleanup_close_ int fd = -EBADF;
	char text[16];
	int r;

	if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	r = open_dir(root_fd, name, &fd);
	if (r < 0)
		return r;
	if (pids_max > 0) {
		(void)snprintf(text, sizeof(text), "%u", pids_max);
		r = write_file(fd, "pids.max", text);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int make_root(const char *parent, const char *name, bool whole, int *ret_fd)
{
	_cleanup_close_ int parent_fd = -EBADF, fd = -EBADF;
	int r;

	parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent_fd < 0)
		return -errno;
	if (whole)
		enable_controllers(parent_fd);
	r = cgroup_make(parent_fd, name, 0, &fd);
	if (r < 0)
		return r;
	enable_controllers(fd);
	if (faccessat(fd, "cgroup.kill", W_OK, 0) < 0) {
		(void)unlinkat(parent_fd, name, AT_REMOVEDIR);
		return -EOPNOTSUPP;
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int cgroup_root(const char *parent, const char *name, int *ret_fd)
{
	return make_root(parent, name, true, ret_fd);
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
		r = make_root(parent, name, false, ret_fd);
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

/* Returns the number after key at the start of a line; 0 on failure. */
static uint64_t count(int fd, const char *file, const char *key)
{
	_cleanup_free_ char *text = NULL;
	char *rest, *line;
	size_t n = strlen(key);
	uint64_t v;

	if (read_file_at(fd, file, CGROUP_FILE_MAX, &text, NULL) < 0)
		return 0;
	rest = text;
	while ((line = strsep(&rest, "\n")))
		if (startswith(line, key) && line[n] == ' ' &&
			parse_u64(line + n + 1, 0, UINT64_MAX, &v) >= 0)
			return v;
	return 0;
}

bool cgroup_oom_killed(int fd)
{
	/* A kill by a subgroup's own limit counts as oom too; the other kills are the machine's. */
	return count(fd, "memory.events", "oom_kill") > count(fd, "memory.events", "oom");
}

bool cgroup_pids_refused(int fd)
{
	return count(fd, "pids.events", "max") > 0;
}

int cgroup_kill(int fd)
{
	return write_file(fd, "cgroup.kill", "1");
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
