/* SPDX-License-Identifier: MIT */
/*
 * Removes pyro's own directories: work directories of pyro-import, staging directories,
 * environments and machines. Called in jobs (the loop never unlinks) and by pyro-import.
 *
 * Reads directories with getdents64 into a buffer on the stack, since opendir allocates. Opens
 * every directory with O_NOFOLLOW below its parent's descriptor; the depth is bounded.
 */

#include "daemon/remove.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int remove_at(int dir_fd, const char *name, unsigned depth);

/* Removes all entries that one pass over the directory finds; *ret_n is their number. */
static int remove_pass(int fd, unsigned depth, unsigned *ret_n)
{
	_Alignas(struct dirent64) char block[8192];
	int first = 0;
	ssize_t n;

	*ret_n = 0;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	while ((n = syscall(SYS_getdents64, fd, block, sizeof(block))) > 0) {
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *de = (struct dirent64 *)(void *)(block + at);
			int r = 0;

			at += de->d_reclen;
			if (streq(de->d_name, ".") || streq(de->d_name, ".."))
				continue;
			r = remove_at(fd, de->d_name, depth + 1);
			if (r < 0 && first == 0)
				first = r;
			if (r == 0)
				(*ret_n)++;
		}
	}
	if (n < 0)
		return -errno;

	return first;
}

static int remove_at(int dir_fd, const char *name, unsigned depth)
{
	_cleanup_close_ int fd = -EBADF;
	unsigned n;
	int r;

	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth >= REMOVE_DEPTH_MAX)
		return -ELOOP;
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* A directory that changes while it is read may show an entry only in the next pass. */
	do {
		r = remove_pass(fd, depth, &n);
		if (r < 0)
			return r;
	} while (n > 0);

	return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int remove_tree_at(int dir_fd, const char *name)
{
	return remove_at(dir_fd, name, 0);
}
