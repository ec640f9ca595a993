/* SPDX-License-Identifier: MIT */
/*
 * UNIX sockets between pyrod, pyro-vmm and a VMM. Called by service, qemu and vmm-main. A socket
 * gets its mode before bind, so that others can never connect and the umask, shared by all threads,
 * need not change.
 */
#include "daemon/sock.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* Fills sa for path. A long path is reached through its directory, open as *dir_fd during the
 * call. */
static int address(const char *path, struct sockaddr_un *sa, int *dir_fd)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *dir = NULL;
	int n;

	*sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) < sizeof(sa->sun_path)) {
		memcpy(sa->sun_path, path, strlen(path) + 1);
		return 0;
	}
	if (!slash || slash == path)
		return -ENAMETOOLONG;
	dir = strndup(path, (size_t)(slash - path));
	if (!dir)
		return -ENOMEM;
	*dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dir_fd < 0)
		return -errno;
	n = snprintf(sa->sun_path, sizeof(sa->sun_path), "/proc/self/fd/%d%s", *dir_fd, slash);
	return n < (int)sizeof(sa->sun_path) ? 0 : -ENAMETOOLONG;
}

int sock_listen(const char *path, int type, int backlog)
{
	_cleanup_close_ int fd = -EBADF, dir_fd = -EBADF;
	struct sockaddr_un sa;
	int r;

	r = address(path, &sa, &dir_fd);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* unix(7): bind creates the file with the mode of the socket's inode, minus the umask. */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	if (unlink(sa.sun_path) < 0 && errno != ENOENT)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	if (listen(fd, backlog) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int sock_dial(const char *path, int type)
{
	_cleanup_close_ int fd = -EBADF, dir_fd = -EBADF;
	struct sockaddr_un sa;
	int r;

	r = address(path, &sa, &dir_fd);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return TAKE_FD(fd);
}
