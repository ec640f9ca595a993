/* SPDX-License-Identifier: MIT */
/*
 * Tests the confinement of a VMM: pyrod starts this program as one. It tries what an attacker would
 * after breaking out of a guest, and writes the results to the machine's own disk, one per line,
 * "end" last. Then it waits to be killed, so that a test can inspect it from outside. Read by
 * tests/confined.py.
 *
 *   pyro-probe-vmm --version
 *   pyro-probe-vmm QEMU'S ARGUMENTS
 *
 * With a machine's memory of X32_MIB or I386_MIB it first uses that table of system calls.
 */
#include <fcntl.h>
#include <linux/random.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "proto/base.h"

enum { FD_FIRST = 3, FD_END = 20, REPORT_BYTES = 32 * 1024, X32_MIB = 301, I386_MIB = 302 };

static struct {
	int disk;
	off_t disk_bytes;
	char report[REPORT_BYTES];
	size_t n;
} self;

static void tell(const char *fmt, ...) _printf_(1, 2);
static void tell(const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(self.report + self.n, sizeof(self.report) - self.n, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(self.report) - self.n)
		abort();
	self.n += (size_t)n;
}

/* Writes "got" or the name of the error, which the test compares. */
static void tell_result(const char *what, long r)
{
	tell("%s=%s\n", what, r >= 0 ? "got" : strerrorname_np(errno));
}

static void tell_open(const char *what, const char *path, int flags)
{
	_cleanup_close_ int fd = open(path, flags | O_CLOEXEC, 0600);

	tell_result(what, fd);
}

/* System calls, with arguments for which the kernel and a seccomp filter give different errors. */

static long fork_once(void)
{
	long pid = syscall(SYS_fork);

	if (pid == 0)
		_exit(0);
	return pid > 0 ? waitpid((pid_t)pid, NULL, 0) : pid;
}

static long clone_with(unsigned long flags)
{
	long pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, 0);

	if (pid == 0)
		_exit(0);
	return pid > 0 ? waitpid((pid_t)pid, NULL, 0) : pid;
}

static void *nothing(void *arg)
{
	return arg;
}

static long thread(void)
{
	pthread_t t;
	int r = pthread_create(&t, NULL, nothing, NULL);

	if (r == 0)
		r = pthread_join(t, NULL);
	errno = r;
	return r == 0 ? 0 : -1;
}

static long read_other(void)
{
	char c = 0, d;
	struct iovec from = { &c, 1 }, to = { &d, 1 };

	return syscall(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0);
}

static long connect_nowhere(void)
{
	const struct sockaddr_un nowhere = { .sun_family = AF_UNIX, .sun_path = "\0nowhere" };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 ? -1 : connect(fd, (const struct sockaddr *)&nowhere, sizeof(nowhere));
}

/* As /dev/kvm is used. */
static long ioctl_of_device(void)
{
	_cleanup_close_ int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	int entropy;

	return fd < 0 ? -1 : ioctl(fd, RNDGETENTCNT, &entropy);
}

static void try_calls(void)
{
	int pair[2], flags = 0;

	tell_result("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
	tell_result("socketpair unix", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	tell_result("socket inet", socket(AF_INET, SOCK_STREAM, 0));
	tell_result("socket inet6", socket(AF_INET6, SOCK_DGRAM, 0));
	tell_result("socket netlink", socket(AF_NETLINK, SOCK_RAW, 0));
	tell_result("socket vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
	tell_result("socket alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
	tell_result("socketpair tipc", socketpair(AF_TIPC, SOCK_SEQPACKET, 0, pair));
	tell_result("connect", connect_nowhere());
	tell_result("userfaultfd", syscall(SYS_userfaultfd, 1)); /* UFFD_USER_MODE_ONLY */
	tell_result("bpf", syscall(SYS_bpf, 9999, NULL, 1 << 20));
	tell_result("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
	tell_result("io_uring_setup", syscall(SYS_io_uring_setup, 1, NULL));
	tell_result("keyctl", syscall(SYS_keyctl, 0, -3, 1)); /* its session keyring's number */
	tell_result("add_key", syscall(SYS_add_key, NULL, NULL, NULL, 0, -3));
	tell_result("request_key", syscall(SYS_request_key, NULL, NULL, NULL, -3));
	tell_result("unshare", unshare(0));
	tell_result("setns", setns(-1, 0));
	tell_result("mount", syscall(SYS_mount, NULL, 1, NULL, 0, NULL));
	tell_result("name_to_handle_at", syscall(SYS_name_to_handle_at, -1, "", NULL, NULL, 0));
	tell_result("ptrace", ptrace(PTRACE_SEIZE, 1 << 22, NULL, NULL));
	tell_result("process_vm_readv", read_other());
	tell_result("personality", syscall(SYS_personality, 0xffffffffUL));
	tell_result("clone3", syscall(SYS_clone3, NULL, 0));
	tell_result("clone user namespace", clone_with(CLONE_NEWUSER));
	tell_result("fork", fork_once());
	tell_result("thread", thread());
	tell_result("kill all", kill(-1, 0));
	tell_result("kill itself", kill(getpid(), 0));
	tell_result(
		"prlimit of another", syscall(SYS_prlimit64, 1 << 22, RLIMIT_NOFILE, NULL, NULL));
	tell_result("signals to another", fcntl(self.disk, F_SETOWN, 1));
	tell_result("memfd_secret", syscall(SYS_memfd_secret, ~0U));
	tell_result("ioctl of a device", ioctl_of_device());
	tell_result("mode of the disk", fchmod(self.disk, 0644));
	tell_result(
		"attributes of the disk", ioctl(self.disk, _IOC(_IOC_WRITE, 'f', 2, sizeof(long)),
						  &flags)); /* FS_IOC_SETFLAGS */
	tell_result("watch of a file", syscall(SYS_inotify_init1, 0));
	tell_result("lease", fcntl(self.disk, F_SETLEASE, F_UNLCK));
	tell_result("lock of a file", flock(self.disk, LOCK_SH | LOCK_NB));
}

static void try_files(void)
{
	static const char *const paths[] = { "/", "/bin/sh", "/boot", "/dev", "/dev/null",
		"/dev/urandom", "/dev/zero", "/etc", "/etc/hostname", "/etc/ld.so.cache",
		"/etc/passwd", "/home", "/opt", "/proc", "/proc/self/status", "/root", "/run",
		"/sys", "/tmp", "/usr", "/usr/bin", "/usr/bin/env", "/usr/bin/python3",
		"/usr/bin/qemu-system-x86_64", "/usr/lib", "/usr/lib/os-release",
		"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/share", "/usr/share/doc",
		"/usr/share/qemu", "/usr/share/seabios", "/var" };
	const int64_t beyond[] = { 0, self.disk_bytes, 1 << 20, 0, 0,
		0 }; /* from the start, in the kernel's words */
	char name[64], what[96];

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		(void)snprintf(what, sizeof(what), "read %s", paths[i]);
		tell_open(what, paths[i], O_RDONLY);
		(void)snprintf(what, sizeof(what), "write %s", paths[i]);
		tell_open(what, paths[i], O_WRONLY); /* of a directory it never is */
		(void)snprintf(what, sizeof(what), "make in %s", paths[i]);
		(void)snprintf(name, sizeof(name), "%s/pyro-probe", paths[i]);
		tell_open(what, name, O_WRONLY | O_CREAT);
	}
	tell_result("write the last byte", pwrite(self.disk, "x", 1, self.disk_bytes - 1));
	tell_result("write beyond the disk", pwrite(self.disk, "x", 1, self.disk_bytes));
	tell_result("lengthen the disk", ftruncate(self.disk, self.disk_bytes + 1));
	tell_result("space beyond the disk",
		fallocate(self.disk, FALLOC_FL_KEEP_SIZE, self.disk_bytes, 1 << 20));
	tell_result("zeroes beyond the disk",
		fallocate(self.disk, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, self.disk_bytes,
			1 << 20));
	tell_result("space within the disk", fallocate(self.disk, FALLOC_FL_INSERT_RANGE, 0, 4096));
	tell_result("space by ioctl", ioctl(self.disk, _IOC(_IOC_WRITE, 'X', 40, 48), beyond));
	tell_result("discard",
		fallocate(self.disk, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	for (int fd = FD_FIRST; fd < FD_END; fd++) {
		const int flags = fcntl(fd, F_GETFL);
		struct stat st;

		if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || fstat(fd, &st) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		(void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		(void)snprintf(what, sizeof(what), "again %d", fd);
		tell_open(what, name, O_RDONLY);
		(void)snprintf(what, sizeof(what), "again for writing %d", fd);
		tell_open(what, name, O_WRONLY);
		(void)snprintf(what, sizeof(what), "emptied %d", fd);
		tell_result(what, truncate(name, st.st_size));
		(void)snprintf(what, sizeof(what), "again and emptied %d", fd);
		tell_open(what, name, O_RDONLY | O_TRUNC);
	}
}

/* Reports properties that cannot be seen from outside. */
static void tell_state(void)
{
	static const struct {
		const char *name;
		__rlimit_resource_t what;
	} limits[] = { { "core", RLIMIT_CORE }, { "fsize", RLIMIT_FSIZE },
		{ "nofile", RLIMIT_NOFILE }, { "nproc", RLIMIT_NPROC } };
	struct rlimit l;

	tell("pid=%d\n", getpid());
	tell("disk=%lld\n", (long long)self.disk_bytes);
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		if (getrlimit(limits[i].what, &l) == 0)
			tell("rlimit %s=%lld\n", limits[i].name,
				l.rlim_max == RLIM_INFINITY ? -1LL : (long long)l.rlim_max);
}

/* The machine's own disk is the only file that it may write. */
static int find_disk(void)
{
	struct stat st;

	for (int fd = FD_FIRST; fd < FD_END; fd++) {
		const int flags = fcntl(fd, F_GETFL);

		if (flags < 0 || (flags & O_ACCMODE) != O_RDWR || fstat(fd, &st) < 0 ||
			!S_ISREG(st.st_mode))
			continue;
		self.disk = fd;
		self.disk_bytes = st.st_size;
		return 0;
	}
	return -ENOENT;
}

static void save(const char *last)
{
	tell("%s\n", last);
	if (pwrite(self.disk, self.report, self.n, 0) != (ssize_t)self.n)
		abort();
}

/* getpid of the x32 and of the i386 table. */
static void use_other_calls(int mib)
{
	long r = 20;

	if (mib == X32_MIB)
		r = syscall(0x40000000 | SYS_getpid);
	else if (mib == I386_MIB)
		__asm__ volatile("int $0x80" : "+a"(r) : : "memory");
	else
		return;
	tell("survived=%ld\n", r);
}

int main(int argc, char **argv)
{
	int mib = 0;

	if (argc == 2 && streq(argv[1], "--version")) {
		(void)puts("QEMU emulator version 0.0.0 (probe)");
		return EXIT_SUCCESS;
	}
	for (int i = 1; i + 1 < argc; i++)
		if (streq(argv[i], "-m"))
			mib = atoi(argv[i + 1]);
	if (find_disk() < 0)
		return EXIT_FAILURE;
	use_other_calls(mib);
	tell_state();
	try_calls();
	try_files();
	save("end");
	for (;;)
		(void)pause();
}
