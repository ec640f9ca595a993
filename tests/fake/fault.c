/* SPDX-License-Identifier: MIT */
/*
 * LD_PRELOAD of a daemon under test: makes one system call fail once. PYRO_FAULT_FILE is a file of
 * struct fault, mapped by the test and by the daemon with its children. The test chooses the class
 * of calls, which of them fails and with what error, and sees whether it did.
 *
 * What must stay true: only the chosen call behaves differently; a write fails only on a regular
 * file, where a disk can be full.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CLASS_DISK = 1, CLASS_FD = 2, CLASS_FORK = 4, CLASS_SYNC = 8 };

struct fault {
	_Atomic uint32_t armed, classes, error, at, passed, fired;
};

static struct fault *fault;

__attribute__((constructor)) static void map_file(void)
{
	const char *path = getenv("PYRO_FAULT_FILE");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p = fd >= 0 ? mmap(NULL, sizeof(*fault), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
			  : MAP_FAILED;

	if (fd >= 0)
		close(fd);
	if (p != MAP_FAILED)
		fault = p;
}

static int fails(uint32_t class)
{
	if (!fault || !fault->armed || !(fault->classes & class) ||
		atomic_fetch_add(&fault->passed, 1) + 1 != fault->at)
		return 0;
	fault->fired = 1;
	errno = (int)fault->error;
	return 1;
}

static int on_disk(int fd)
{
	struct stat st;
	int saved = errno, r = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);

	errno = saved;
	return r;
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
	real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define WRAP(type, name, class, condition, parameters, arguments) \
	type name parameters; \
	type name parameters \
	{ \
		REAL(name); \
		if ((condition) && fails(class)) \
			return (type)-1; \
		return real arguments; \
	}

WRAP(ssize_t, write, CLASS_DISK, on_disk(fd), (int fd, const void *p, size_t n), (fd, p, n))
WRAP(ssize_t, pwrite, CLASS_DISK, on_disk(fd), (int fd, const void *p, size_t n, off_t at),
	(fd, p, n, at))
WRAP(ssize_t, pwrite64, CLASS_DISK, on_disk(fd), (int fd, const void *p, size_t n, off64_t at),
	(fd, p, n, at))
WRAP(int, ftruncate, CLASS_DISK, 1, (int fd, off_t n), (fd, n))
WRAP(int, ftruncate64, CLASS_DISK, 1, (int fd, off64_t n), (fd, n))
WRAP(int, fsync, CLASS_SYNC, 1, (int fd), (fd))
WRAP(int, fdatasync, CLASS_SYNC, 1, (int fd), (fd))
WRAP(int, mkdir, CLASS_DISK, 1, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, CLASS_DISK, 1, (int dir, const char *path, mode_t mode), (dir, path, mode))
WRAP(int, rename, CLASS_DISK, 1, (const char *a, const char *b), (a, b))
WRAP(int, renameat, CLASS_DISK, 1, (int da, const char *a, int db, const char *b), (da, a, db, b))
WRAP(int, renameat2, CLASS_DISK, 1, (int da, const char *a, int db, const char *b, unsigned f),
	(da, a, db, b, f))
WRAP(int, socket, CLASS_FD, 1, (int domain, int type, int protocol), (domain, type, protocol))
WRAP(int, socketpair, CLASS_FD, 1, (int domain, int type, int protocol, int fds[2]),
	(domain, type, protocol, fds))
WRAP(int, pipe2, CLASS_FD, 1, (int fds[2], int flags), (fds, flags))
WRAP(int, accept4, CLASS_FD, 1,
	(int fd, struct sockaddr *restrict a, socklen_t *restrict n, int flags), (fd, a, n, flags))
WRAP(int, pidfd_open, CLASS_FD, 1, (pid_t pid, unsigned flags), (pid, flags))
WRAP(pid_t, fork, CLASS_FORK, 1, (void), ())

#define WRAP_OPEN(name, before, names) \
	int name(before const char *path, int flags, ...); \
	int name(before const char *path, int flags, ...) \
	{ \
		mode_t mode = 0; \
		va_list ap; \
		REAL(name); \
		va_start(ap, flags); \
		if (flags & (O_CREAT | __O_TMPFILE)) \
			mode = va_arg(ap, mode_t); \
		va_end(ap); \
		if (fails(CLASS_FD) || ((flags & O_CREAT) && fails(CLASS_DISK))) \
			return -1; \
		return real(names path, flags, mode); \
	}
#define DIR_FD      int dir,
#define DIR_FD_NAME dir,
WRAP_OPEN(open, , )
WRAP_OPEN(open64, , )
WRAP_OPEN(openat, DIR_FD, DIR_FD_NAME)
WRAP_OPEN(openat64, DIR_FD, DIR_FD_NAME)

/* The variants that _FORTIFY_SOURCE calls. */
WRAP(int, __open_2, CLASS_FD, 1, (const char *path, int flags), (path, flags))
WRAP(int, __open64_2, CLASS_FD, 1, (const char *path, int flags), (path, flags))
WRAP(int, __openat_2, CLASS_FD, 1, (int dir, const char *path, int flags), (dir, path, flags))
WRAP(int, __openat64_2, CLASS_FD, 1, (int dir, const char *path, int flags), (dir, path, flags))
