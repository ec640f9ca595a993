/* SPDX-License-Identifier: MIT */
/*
 * PID 1 of the machine of floor.py. It does only what a guest has to do before and for one command,
 * so its times are those of the kernel and QEMU. Static, libc only. floor.py packs it, test_cold.py
 * and test_exec.py compare with it, and tests/unit/test-vmm-boot.c boots it with pyro's own driver.
 *
 * It loads the modules of /modules/order, mounts the disk "env" read-only, opens the port
 * org.pyro.agent and sends "r". Then it takes requests of one byte:
 *   e   answers "e"
 *   s   mounts an overlayfs root, its upper part on the disk "own", enters it and answers "k"
 *   c   runs `bash -c true` there and answers one line: milliseconds from fork to exit, -1: failed
 * With floor=boot on the kernel's command line it resets at once. A failure is printed to the
 * console with FLOOR-FAIL and resets the machine. What must stay true: it waits for events, or
 * polls every two milliseconds where there is none.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "proto/base.h"

#define PORT_NAME "org.pyro.agent"
#define WAIT_USEC (10 * USEC_PER_SEC) /* for a device to appear */
#define NEW_ROOT  "/new"

enum { LOOK_MSEC = 2, NAME_MAX_ = 64, PATH_SIZE = 320 };

static _noreturn_ _printf_(1, 2) void give_up(const char *format, ...)
{
	int saved = errno;
	va_list ap;

	va_start(ap, format);
	(void)dprintf(STDOUT_FILENO, "FLOOR-FAIL ");
	(void)vdprintf(STDOUT_FILENO, format, ap);
	(void)dprintf(STDOUT_FILENO, ": %s\n", strerror(saved));
	va_end(ap);
	(void)reboot(RB_AUTOBOOT);
	_exit(1);
}

static uint64_t clock_usec(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / NSEC_PER_USEC;
}

static void mount_at(const char *source, const char *target, const char *type, unsigned long flags,
	const char *options)
{
	if ((mkdir(target, 0755) < 0 && errno != EEXIST) ||
		mount(source, target, type, flags, options) < 0)
		give_up("mount %s at %s", source, target);
}

/* Reads a small file without its last newline. False: it cannot be read. */
static bool read_text(const char *path, char *ret, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);

	if (n < 0)
		return false;
	ret[n] = 0;
	ret[strcspn(ret, "\n")] = 0;
	return true;
}

static void load_modules(void)
{
	FILE *order = fopen("/modules/order", "re");
	char name[NAME_MAX_], path[PATH_SIZE];

	if (!order)
		give_up("/modules/order");
	while (fgets(name, sizeof(name), order)) {
		_cleanup_close_ int fd = -EBADF;

		name[strcspn(name, "\n")] = 0;
		(void)snprintf(path, sizeof(path), "/modules/%s", name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			give_up("module %s", name);
	}
	(void)fclose(order);
}

/*
 * Waits until an entry of the /sys folder has this text in its file `attribute`; its name in /dev
 * is the same. The serials are those of pyro's disks: test-vmm-boot boots this guest with pyro's
 * driver.
 */
static void find_device(
	const char *folder, const char *attribute, const char *text, char *ret_dev, size_t size)
{
	const uint64_t end = clock_usec() + WAIT_USEC;

	do {
		DIR *dir = opendir(folder);
		struct dirent *e;

		while (dir && (e = readdir(dir))) {
			char path[PATH_SIZE], have[NAME_MAX_];

			(void)snprintf(
				path, sizeof(path), "%s/%s/%s", folder, e->d_name, attribute);
			if (e->d_name[0] == '.' || !read_text(path, have, sizeof(have)) ||
				!startswith(have, text))
				continue;
			(void)snprintf(ret_dev, size, "/dev/%s", e->d_name);
			(void)closedir(dir);
			return;
		}
		if (dir)
			(void)closedir(dir);
		(void)poll(NULL, 0, LOOK_MSEC);
	} while (clock_usec() < end);
	errno = ENODEV;
	give_up("%s", text);
}

static void say(int port, const char *text)
{
	for (size_t n = strlen(text); n > 0;) {
		ssize_t sent = write(port, text, n);

		if (sent < 0 && errno != EINTR && errno != EAGAIN)
			give_up("write to the port");
		if (sent > 0) {
			text += sent;
			n -= (size_t)sent;
		}
	}
}

/* Sets up the root of commands, the minimum of what pyro's agent does. */
static void enter_root(void)
{
	static const char *const folders[] = { "/own/upper", "/own/work", "/own/workspace" };
	char dev[PATH_SIZE];

	find_device("/sys/block", "serial", "pyro-own", dev, sizeof(dev));
	mount_at(dev, "/own", "ext4", MS_NOATIME, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		if (mkdir(folders[i], 0755) < 0 && errno != EEXIST)
			give_up("%s", folders[i]);
	mount_at("overlay", NEW_ROOT, "overlay", 0,
		"lowerdir=/env,upperdir=/own/upper,workdir=/own/work");
	mount_at("proc", NEW_ROOT "/proc", "proc", 0, NULL);
	mount_at("sysfs", NEW_ROOT "/sys", "sysfs", 0, NULL);
	mount_at("devtmpfs", NEW_ROOT "/dev", "devtmpfs", 0, NULL);
	mount_at("/own/workspace", NEW_ROOT "/workspace", NULL, MS_BIND, NULL);
	if (chroot(NEW_ROOT) < 0 || chdir("/") < 0)
		give_up("chroot");
}

static void run_command(int port)
{
	const uint64_t begin = clock_usec();
	int status = -1;
	char line[32];
	pid_t pid = fork();

	if (pid == 0) {
		(void)execl("/bin/bash", "bash", "-c", "true", NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		give_up("bash");
	(void)snprintf(line, sizeof(line), "%.3f\n",
		status == 0 ? (double)(clock_usec() - begin) / 1e3 : -1.0);
	say(port, line);
}

/* Reads one byte from the host. The port returns nothing while no host is connected. */
static char take_request(int port)
{
	struct pollfd p = { .fd = port, .events = POLLIN };
	char c;

	while (read(port, &c, 1) != 1) {
		(void)poll(&p, 1, LOOK_MSEC);
		if (p.revents & POLLHUP)
			(void)poll(NULL, 0, LOOK_MSEC);
	}
	return c;
}

int main(void)
{
	char cmdline[4096] = "", dev[PATH_SIZE];
	int console, port;

	mount_at("proc", "/proc", "proc", 0, NULL);
	mount_at("sysfs", "/sys", "sysfs", 0, NULL);
	mount_at("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	console = open("/dev/ttyS0", O_RDWR);
	if (console >= 0) {
		(void)dup2(console, STDOUT_FILENO);
		(void)dup2(console, STDERR_FILENO);
	}
	if (read_text("/proc/cmdline", cmdline, sizeof(cmdline)) && strstr(cmdline, "floor=boot")) {
		(void)dprintf(STDOUT_FILENO, "FLOOR-BOOT\n");
		(void)reboot(RB_AUTOBOOT);
	}
	(void)setenv("HOME", "/root", 1);
	(void)setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	load_modules();
	find_device("/sys/block", "serial", "pyro-env", dev, sizeof(dev));
	mount_at(dev, "/env", "ext4", MS_RDONLY, "noload");
	find_device("/sys/class/virtio-ports", "name", PORT_NAME, dev, sizeof(dev));
	port = open(dev, O_RDWR | O_CLOEXEC);
	if (port < 0)
		give_up("%s", dev);
	(void)dprintf(STDOUT_FILENO, "FLOOR-READY\n");
	say(port, "r");
	for (;;)
		switch (take_request(port)) {
		case 'e': say(port, "e"); break;
		case 's':
			enter_root();
			say(port, "k");
			break;
		case 'c': run_command(port); break;
		default: break;
		}
}
