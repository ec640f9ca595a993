/* SPDX-License-Identifier: MIT */
/*
 * Manages the directories tmp and trash of the own disk, for machine.c. Their contents come from a
 * previous run and are hostile: links, a million entries, directories as deep as the disk allows,
 * immutable files, or another file in place of the two directories.
 *
 * What must stay true: nothing here follows a link or leaves the disk; SETUP waits for two renames,
 * not for a deletion, except that on a full disk it deletes until there is room; directories are
 * moved up before they are emptied, so neither depth nor number needs memory.
 */

#include "guest/tmp.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/fs.h>
#include <linux/ioprio.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define TMP       "tmp"
#define TRASH     "trash"
#define TMP_MODE  01777
#define UNTOUCHED (FS_IMMUTABLE_FL | FS_APPEND_FL)

#define ROOM_BYTES (256 * 1024)       /* for the two directories and the contents of a new tmp */
#define ROOM_USEC  (2 * USEC_PER_SEC) /* per directory; a boot waits at most twice as long */

enum { ROOM_INODES = 16, NAME_TRIES = 64, NAME_SIZE = 32, TRASH_FD = 3, PRIORITY = 19 };

/* From tmpfiles.d/x11.conf: root creates them, since any user could in /tmp. */
static const char *const x11_dirs[] = { ".X11-unix", ".ICE-unix", ".XIM-unix", ".font-unix" };

static int open_dir(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME);

	return fd < 0 ? -errno : fd;
}

/* Removes the attributes that prevent changes of a file or directory; other file types have
 * none. */
static void unlock(int at, const char *name)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int flags;

	if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		(!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return;
	fd = openat(at, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & UNTOUCHED))
		return;
	flags &= ~UNTOUCHED;
	(void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

/* Moves it to the trash under an unused name. */
static int move_aside(int at, const char *name, int trash)
{
	bool unlocked = false;

	for (int i = 0; i < NAME_TRIES; i++) {
		char to[NAME_SIZE];
		uint64_t random;
		random_bytes(&random, sizeof(random));
		(void)snprintf(to, sizeof(to), "%016llx", (unsigned long long)random);
		if (renameat(at, name, trash, to) == 0)
			return 0;
		if (errno == EPERM && !unlocked) {
			unlock(at, name);
			unlock(at, ".");
			unlock(trash, ".");
			unlocked = true;
		} else if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR &&
			   errno != EISDIR) {
			return -errno;
		}
	}
	return -EEXIST;
}

static int open_trash(int own_fd)
{
	int fd;

	unlock(own_fd, ".");
	if (mkdirat(own_fd, TRASH, 0700) < 0 && errno != EEXIST)
		return -errno;
	fd = open_dir(own_fd, TRASH);
	if (fd != -ENOTDIR && fd != -ELOOP)
		return fd;
	unlock(own_fd, TRASH); /* if it is a file */
	if (unlinkat(own_fd, TRASH, 0) < 0 || mkdirat(own_fd, TRASH, 0700) < 0)
		return -errno;
	return open_dir(own_fd, TRASH);
}

static int make_tmp(int own_fd)
{
	_cleanup_close_ int fd = -EBADF;

	if (mkdirat(own_fd, TMP, TMP_MODE) < 0)
		return -errno;
	fd = open_dir(own_fd, TMP);
	if (fd < 0)
		return fd;
	for (size_t i = 0; i < ARRAY_SIZE(x11_dirs); i++)
		if (mkdirat(fd, x11_dirs[i], TMP_MODE) < 0)
			return -errno;
	return 0;
}

static int renew(int own_fd)
{
	_cleanup_close_ int trash = -EBADF;
	struct stat st;
	int r;

	if (fstatat(own_fd, TMP, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? make_tmp(own_fd) : -errno;
	trash = open_trash(own_fd);
	if (trash < 0)
		return trash;
	r = move_aside(own_fd, TMP, trash);
	return r < 0 ? r : make_tmp(own_fd);
}

/* Parameters of a deletion. */
struct sweep {
	int trash;           /* destination of directories that are not empty */
	uint64_t until_usec; /* ends then or when ROOM_BYTES are free; 0: when all is deleted */
};

static bool is_finished(const struct sweep *s)
{
	struct statvfs st;

	if (s->until_usec == 0)
		return false;
	return now_usec() >= s->until_usec ||
	       (fstatvfs(s->trash, &st) == 0 && st.f_bavail * st.f_frsize >= ROOM_BYTES &&
		       (st.f_files == 0 || st.f_ffree >= ROOM_INODES));
}

/* Removes a file, link, device, or empty directory. */
static bool remove_simple(int at, const char *name)
{
	return unlinkat(at, name, 0) == 0 || errno == ENOENT ||
	       (errno == EISDIR && unlinkat(at, name, AT_REMOVEDIR) == 0);
}

/* Deletes an entry of the directory fd in the trash, or moves it up beside fd. */
static bool clear_entry(int fd, const char *name, const struct sweep *s)
{
	if (remove_simple(fd, name))
		return true;
	if (errno == EPERM) {
		unlock(fd, ".");
		unlock(fd, name);
		if (remove_simple(fd, name))
			return true;
	}
	return (errno == ENOTEMPTY || errno == EEXIST) && move_aside(fd, name, s->trash) >= 0;
}

/* Calls fn for each entry, and again while one is removed, since a pass over a changing directory
 * may miss some. Returns true if any was removed. */
static bool each_entry(
	int fd, const struct sweep *s, bool (*fn)(int fd, const char *name, const struct sweep *s))
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	bool any = false, again = dir != NULL;

	if (!dir)
		fd_close(copy);
	while (again) {
		struct dirent *e;
		again = false;
		rewinddir(dir);
		while (!is_finished(s) && (e = readdir(dir)))
			if (!streq(e->d_name, ".") && !streq(e->d_name, "..") &&
				fn(fd, e->d_name, s))
				again = any = true;
		again = again && !is_finished(s);
	}
	if (dir)
		(void)closedir(dir);
	return any;
}

/* Deletes an entry of the trash itself. */
static bool clear_top(int trash, const char *name, const struct sweep *s)
{
	_cleanup_close_ int fd = -EBADF;

	if (remove_simple(trash, name))
		return true;
	unlock(trash, name);
	fd = open_dir(trash, name);
	if (fd >= 0)
		(void)each_entry(fd, s, clear_entry);
	return remove_simple(trash, name);
}

void tmp_empty(int fd)
{
	const struct sweep all = { .trash = fd };

	unlock(fd, ".");
	(void)each_entry(fd, &all, clear_top);
}

/* Deletes some entries at once: on a full disk no directory can be created. */
static void make_room(int own_fd, const char *name)
{
	_cleanup_close_ int fd = open_dir(own_fd, name);
	const struct sweep some = { .trash = fd, .until_usec = now_usec() + ROOM_USEC };

	if (fd < 0)
		return;
	unlock(fd, ".");
	(void)each_entry(fd, &some, clear_top);
}

int tmp_renew(int own_fd)
{
	int r = renew(own_fd);

	if (r != -ENOSPC)
		return r;
	make_room(own_fd, TRASH);
	make_room(own_fd, TMP);
	return renew(own_fd);
}

/* Runs in the deleting process, at the lowest priority. */
static _noreturn_ void delete_main(int trash)
{
	sigset_t no_signals;

	sigemptyset(&no_signals);
	(void)signal(SIGTERM, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &no_signals, NULL);
	(void)prctl(PR_SET_NAME, "pyro-tmp");
	(void)setsid();
	(void)setpriority(PRIO_PROCESS, 0, PRIORITY);
	(void)syscall(
		SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
	if (dup2(trash, TRASH_FD) == TRASH_FD)
		(void)close_range(TRASH_FD + 1, ~0U, 0);
	tmp_empty(TRASH_FD);
	_exit(EXIT_SUCCESS);
}

int tmp_delete_old(int own_fd, pid_t *ret_pid)
{
	_cleanup_close_ int trash = open_dir(own_fd, TRASH);
	pid_t pid;

	if (trash < 0)
		return trash == -ENOENT ? 0 : trash;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		delete_main(trash);
	*ret_pid = pid;
	return 1;
}
