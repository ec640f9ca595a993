/* SPDX-License-Identifier: MIT */
/*
 * The first steps of PID 1, called by main.c in this order: system, environment, port. Every step
 * is checked; the caller reports a failed one on the console and to the host.
 *
 * Devices appear when the kernel finds them: uevents announce them, with a deadline. The first open
 * of a port may fail with ENXIO although its name exists (vmm-reference 2.5), and no event follows;
 * only this open is repeated by a timer.
 */

#include "guest/init.h"

#include "guest/file.h"
#include "guest/system.h"
#include "proto/agent.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define DEVICE_WAIT_USEC (10 * USEC_PER_SEC)
#define READ_AHEAD_KIB   "512"
enum { ENXIO_RETRY_MSEC = 2, NOFILE = 16384, ORDER_MAX = 64 * 1024, MODULES_MAX = 256 };

int init_mount(const char *src, const char *dst, const char *type, unsigned long flags,
	const char *data, char **ret_what)
{
	int r = file_dir(dst);

	if (r >= 0 && mount(src, dst, type, flags, data) < 0)
		r = -errno;
	if (r < 0)
		*ret_what = str_printf("mount %s", dst);
	return r;
}

static int open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	if (fd < 0)
		return -errno;
	for (int i = 0; i <= STDERR_FILENO; i++)
		if (fd != i && dup2(fd, i) < 0)
			return -errno;
	if (fd > STDERR_FILENO)
		(void)close(fd);
	return 0;
}

static int set_own_limits(void)
{
	const struct rlimit files = { .rlim_cur = NOFILE, .rlim_max = NOFILE };
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, "-1000", 5);
	if (r < 0)
		return r;
	if (prctl(PR_SET_NAME, "pyro-agent") < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0 ||
		reboot(RB_DISABLE_CAD) < 0)
		return -errno;
	return system_limits();
}

int init_system(char **ret_what)
{
	int r;

	umask(0);
	r = init_mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755", ret_what);
	if (r == -EBUSY) /* CONFIG_DEVTMPFS_MOUNT */
		r = 0;
	if (r >= 0)
		r = open_console();
	if (r >= 0)
		r = init_mount(
			"proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, ret_what);
	if (r >= 0)
		r = init_mount(
			"sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, ret_what);
	if (r < 0)
		return r;
	r = set_own_limits();
	if (r < 0)
		*ret_what = strdup("set the agent's own limits");
	return r;
}

static int load_module(const char *name)
{
	_cleanup_free_ char *path = str_printf("/modules/%s", name);
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
		return -errno;
	return 0;
}

static int load_modules(char **ret_what)
{
	_cleanup_free_ char *order = NULL;
	char *rest, *name;
	int r, n = 0;

	r = read_file_at(AT_FDCWD, "/modules/order", ORDER_MAX, &order, NULL);
	if (r == -ENOENT)
		return 0; /* a kernel with everything built in */
	rest = order;
	while (r >= 0 && n < MODULES_MAX && (name = strsep(&rest, "\n"))) {
		if (!*name)
			continue;
		n++;
		r = load_module(name);
		if (r < 0)
			*ret_what = str_printf("load module %s", name);
	}
	if (r < 0 && !*ret_what)
		*ret_what = strdup("read /modules/order");
	return r < 0 ? r : 0;
}

int init_uevents(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	_cleanup_close_ int fd =
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Calls find until it returns something other than -ENODEV or -ENXIO, or the deadline passes. */
static int await(
	int (*find)(const char *name, void *ret), const char *name, uint64_t wait_usec, void *ret)
{
	_cleanup_close_ int fd = -EBADF;
	uint64_t end = now_usec() + wait_usec;
	char drop[8192];
	int first = find(name, ret); /* usually present */

	if (first != -ENODEV && first != -ENXIO)
		return first;
	fd = init_uevents();
	if (fd < 0)
		return fd;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int r = find(name, ret);
		uint64_t now = now_usec();
		int msec;

		if ((r != -ENODEV && r != -ENXIO) || now >= end)
			return r;
		msec = (int)((end - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
		if (poll(&p, 1, r == -ENXIO ? ENXIO_RETRY_MSEC : msec) < 0 && errno != EINTR)
			return -errno;
		while (recv(fd, drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
	}
}

/* Finds the entry of a sysfs directory whose file contains `want`; -ENODEV if there is none. */
static int find_in_sysfs(const char *dir, const char *file, const char *want, char **ret_name)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int r = -ENODEV;

	if (!d)
		return errno == ENOENT ? -ENODEV : -errno;
	while (r == -ENODEV && (e = readdir(d))) {
		_cleanup_free_ char *path = str_printf("%s/%s", e->d_name, file);
		_cleanup_free_ char *text = NULL;
		if (!path) {
			r = -ENOMEM;
			break;
		}
		if (e->d_name[0] == '.' || read_file_at(dirfd(d), path, 4096, &text, NULL) < 0)
			continue;
		text[strcspn(text, "\n")] = '\0';
		if (streq(text, want)) {
			*ret_name = strdup(e->d_name);
			r = *ret_name ? 0 : -ENOMEM;
		}
	}
	(void)closedir(d);
	return r;
}

static bool is_known(const struct disks *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (streq(d->v[i].name, name))
			return true;
	return false;
}

/* Adds the disks that have appeared since the last scan. */
static int scan_disks(struct disks *d)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *e;

	if (!dir)
		return errno == ENOENT ? -ENODEV : -errno;
	while ((e = readdir(dir)) && d->n < ARRAY_SIZE(d->v)) {
		_cleanup_free_ char *path = str_printf("%s/serial", e->d_name), *text = NULL;
		if (!path) {
			(void)closedir(dir);
			return -ENOMEM;
		}
		if (e->d_name[0] == '.' || strlen(e->d_name) >= sizeof(d->v[0].name) ||
			is_known(d, e->d_name) ||
			read_file_at(dirfd(dir), path, sizeof(d->v[0].serial) - 1, &text, NULL) < 0)
			continue;
		text[strcspn(text, "\n")] = '\0';
		memcpy(d->v[d->n].name, e->d_name, strlen(e->d_name) + 1);
		memcpy(d->v[d->n].serial, text, strlen(text) + 1);
		d->n++;
	}
	(void)closedir(dir);
	return 0;
}

struct disk_search {
	struct disks *disks; /* borrowed */
	char **ret_path;
};

static int find_known_disk(const char *serial, const struct disk_search *s)
{
	for (size_t i = 0; i < s->disks->n; i++) {
		if (!streq(s->disks->v[i].serial, serial))
			continue;
		*s->ret_path = str_printf("/dev/%s", s->disks->v[i].name);
		return *s->ret_path ? 0 : -ENOMEM;
	}
	return -ENODEV;
}

static int find_disk(const char *serial, void *ret)
{
	const struct disk_search *s = ret;
	int r = find_known_disk(serial, s);

	if (r != -ENODEV)
		return r;
	r = scan_disks(s->disks);
	return r < 0 ? r : find_known_disk(serial, s);
}

int init_disk(struct disks *d, const char *serial, uint64_t wait_usec, char **ret)
{
	struct disk_search s = { .disks = d, .ret_path = ret };

	return wait_usec == 0 ? find_disk(serial, &s) : await(find_disk, serial, wait_usec, &s);
}

/* Sets a large read-ahead: the first commands read programs from the host's page cache, where a
 * request (three context switches on the host) costs more than its bytes. */
static int read_far_ahead(const char *disk)
{
	_cleanup_free_ char *path =
		str_printf("/sys/block/%s/queue/read_ahead_kb", disk + strlen("/dev/"));
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return -ENOMEM;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : write_all(fd, READ_AHEAD_KIB, strlen(READ_AHEAD_KIB));
}

int init_environment(struct disks *d, char **ret_what)
{
	_cleanup_free_ char *disk = NULL;
	int r = load_modules(ret_what);

	if (r < 0)
		return r;
	r = init_disk(d, DISK_SERIAL_ENV, DEVICE_WAIT_USEC, &disk);
	if (r < 0) {
		*ret_what = strdup("find disk " DISK_SERIAL_ENV);
		return r;
	}
	r = read_far_ahead(disk);
	if (r < 0) {
		*ret_what = str_printf("set the read-ahead of %s", disk);
		return r;
	}
	return init_mount(disk, "/env", "ext4", MS_RDONLY | MS_NOATIME, "noload", ret_what);
}

static int find_port(const char *port, void *ret)
{
	_cleanup_free_ char *name = NULL, *path = NULL;
	int *ret_fd = ret, fd;
	int r = find_in_sysfs("/sys/class/virtio-ports", "name", port, &name);

	if (r < 0)
		return r;
	path = str_printf("/dev/%s", name);
	if (!path)
		return -ENOMEM;
	fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? -ENXIO : -errno; /* devtmpfs lags behind sysfs */
	*ret_fd = fd;
	return 0;
}

int init_port(int *ret_fd, char **ret_what)
{
	int r = await(find_port, AGENT_PORT_NAME, DEVICE_WAIT_USEC, ret_fd);

	if (r < 0)
		*ret_what = strdup("open port " AGENT_PORT_NAME);
	return r;
}
