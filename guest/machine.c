/* SPDX-License-Identifier: MIT */
/*
 * SETUP and its opposite, called by main.c on the host's word: own disk, overlay root, the mounts
 * and files a Linux system expects. Named steps, each done once; a repeated SETUP goes on where the
 * last one stopped.
 *
 * What must stay true: entropy comes before anything else, since a clone shares its template's; the
 * environment is the guest's own data, so its paths are resolved only inside the new root; the own
 * disk is reached by a descriptor from then on.
 */

#include "guest/machine.h"

#include "guest/cgroup.h"
#include "guest/init.h"

#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define OWN_DISK_WAIT_USEC (5 * USEC_PER_SEC)
#define OWN_LAYOUT         "1"
#define NEW_ROOT           "/sysroot"

static int add_entropy(const struct msg_setup *s)
{
	struct {
		struct rand_pool_info head;
		uint8_t bytes[sizeof(s->entropy)];
	} pool = { .head = { .entropy_count = 8 * sizeof(s->entropy),
			   .buf_size = sizeof(s->entropy) } };
	_cleanup_close_ int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	int r = 0;

	if (fd < 0)
		return -errno;
	memcpy(pool.bytes, s->entropy, sizeof(pool.bytes));
	if (ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		r = -errno;
	explicit_bzero(&pool, sizeof(pool));
	return r;
}

static int set_clock(uint64_t usec)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(usec / USEC_PER_SEC),
		.tv_nsec = (long)(usec % USEC_PER_SEC * NSEC_PER_USEC),
	};

	return clock_settime(CLOCK_REALTIME, &ts) < 0 ? -errno : 0;
}

static int step_hostname(
	struct machine *m _unused_, const struct msg_setup *s, char **ret_what _unused_)
{
	return sethostname(s->hostname, strlen(s->hostname)) < 0 ? -errno : 0;
}

static int step_own_disk(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	_cleanup_free_ char *disk = NULL;
	int r = init_disk(DISK_SERIAL_OWN, OWN_DISK_WAIT_USEC, &disk);

	if (r < 0) {
		*ret_what = strdup("find disk " DISK_SERIAL_OWN);
		return r;
	}
	r = init_mount(disk, "/own", "ext4", MS_NOATIME, "discard", ret_what);
	if (r < 0)
		return r;
	m->own_fd = open("/own", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return m->own_fd < 0 ? -errno : 0;
}

static int step_layout(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	_cleanup_free_ char *layout = NULL;
	int r = read_file_at(m->own_fd, "meta/layout", 16, &layout, NULL);

	if (r >= 0 && streq(strtok(layout, "\n") ? layout : "", OWN_LAYOUT))
		return 0;
	*ret_what = strdup("the own disk's /meta/layout is not " OWN_LAYOUT);
	return r < 0 ? r : -EMEDIUMTYPE;
}

static int step_overlay(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	return init_mount("overlay", NEW_ROOT, "overlay", MS_NOATIME,
		"lowerdir=/env,upperdir=/own/upper,workdir=/own/work,redirect_dir=on,index=on",
		ret_what);
}

static int step_new_root(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys" };

	for (size_t i = 0; i < ARRAY_SIZE(moved); i++) {
		_cleanup_free_ char *to = str_printf("%s%s", NEW_ROOT, moved[i]);
		int r = to ? init_mount(moved[i], to, NULL, MS_MOVE, NULL, ret_what) : -ENOMEM;
		if (r < 0)
			return r;
	}
	if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		return -errno;
	return 0;
}

static int step_mounts(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	static const struct {
		const char *type, *dst;
		unsigned long flags;
		const char *data;
	} mounts[] = {
		{ "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666" },
		{ "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777,size=50%" },
		{ "tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=755,size=20%" },
		{ "tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777,size=50%" },
		{ "cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		int r = init_mount(mounts[i].type, mounts[i].dst, mounts[i].type, mounts[i].flags,
			mounts[i].data, ret_what);
		if (r < 0)
			return r;
	}
	return 0;
}

static int step_links(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
			return -errno;
	if (mkdir("/run/lock", 01777) < 0 && errno != EEXIST)
		return -errno;
	return chmod("/run/lock", 01777) < 0 ? -errno : 0;
}

static int make_dirs(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return -ENOMEM;
	for (char *p = copy + 1;; p++) {
		char c = *p;
		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = c;
		if (c == '\0')
			return 0;
	}
}

/* A folder of the own disk, made if need be, seen at dst as well. */
static int bind_own(struct machine *m, const char *from, const char *dst)
{
	_cleanup_close_ int tree = -EBADF;
	int r;

	if (mkdirat(m->own_fd, from, 0755) < 0 && errno != EEXIST)
		return -errno;
	r = make_dirs(dst);
	if (r < 0)
		return r;
	tree = open_tree(
		m->own_fd, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return -errno;
	return move_mount(tree, "", AT_FDCWD, dst, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Container engines need a real file system below them: overlay on overlay does not work. */
static int step_binds(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	static const char *const binds[][2] = {
		{ "workspace", "/workspace" },
		{ "data/docker", "/var/lib/docker" },
		{ "data/containerd", "/var/lib/containerd" },
		{ "data/containers", "/var/lib/containers" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(binds); i++) {
		int r = bind_own(m, binds[i][0], binds[i][1]);
		if (r < 0) {
			*ret_what = str_printf("mount %s", binds[i][1]);
			return r;
		}
	}
	return 0;
}

static int step_modules(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	_cleanup_free_ char *disk = NULL;
	int r = init_disk(DISK_SERIAL_MODULES, 0, &disk);

	if (r == -ENODEV)
		return 0;
	if (r >= 0)
		r = make_dirs("/lib/modules");
	if (r < 0) {
		*ret_what = strdup("find disk " DISK_SERIAL_MODULES);
		return r;
	}
	return init_mount(disk, "/lib/modules", "ext4", MS_RDONLY | MS_NOATIME, "noload", ret_what);
}

/* Replaces whatever is there, a link included. */
static int write_new(const char *path, const char *text, char **ret_what)
{
	_cleanup_close_ int fd = -EBADF;
	int r = 0;

	if (unlink(path) < 0 && errno != ENOENT)
		r = -errno;
	if (r >= 0) {
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
	}
	if (r < 0)
		*ret_what = str_printf("write %s", path);
	return r;
}

static int write_machine_id(const struct msg_setup *s, char **ret_what)
{
	char hex[2 * sizeof(s->machine_id) + 2];

	for (size_t i = 0; i < sizeof(s->machine_id); i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", s->machine_id[i]);
	hex[sizeof(hex) - 2] = '\n';
	hex[sizeof(hex) - 1] = '\0';
	return write_new("/etc/machine-id", hex, ret_what);
}

static int step_files(struct machine *m _unused_, const struct msg_setup *s, char **ret_what)
{
	_cleanup_free_ char *hosts = str_printf("127.0.0.1\tlocalhost\n"
						"127.0.1.1\t%s\n"
						"::1\tlocalhost ip6-localhost ip6-loopback\n",
		s->hostname);
	_cleanup_free_ char *name = str_printf("%s\n", s->hostname);
	int r;

	if (!hosts || !name)
		return -ENOMEM;
	r = make_dirs("/etc");
	if (r >= 0)
		r = write_machine_id(s, ret_what);
	if (r >= 0)
		r = write_new("/etc/hostname", name, ret_what);
	if (r >= 0)
		r = write_new("/etc/hosts", hosts, ret_what);
	/* No network yet: nobody listens there, so a look-up is refused at once instead of timing
	 * out. */
	if (r >= 0)
		r = write_new("/etc/resolv.conf",
			"nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", ret_what);
	return r;
}

static int step_loopback(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_name = "lo" };

	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
		return -errno;
	ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP);
	return ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int step_cgroup(
	struct machine *m, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	return cgroup_root("/sys/fs/cgroup", "pyro", &m->cgroup_fd);
}

static const struct {
	const char *what;
	int (*run)(struct machine *m, const struct msg_setup *s, char **ret_what);
} steps[] = {
	{ "set the host name", step_hostname },
	{ "mount the own disk", step_own_disk },
	{ "read /meta/layout", step_layout },
	{ "mount the overlay", step_overlay },
	{ "change the root", step_new_root },
	{ "mount the system's file systems", step_mounts },
	{ "link /dev/fd", step_links },
	{ "bind the own disk", step_binds },
	{ "mount /lib/modules", step_modules },
	{ "write /etc", step_files },
	{ "bring up lo", step_loopback },
	{ "make the commands' cgroup", step_cgroup },
};

int machine_setup(struct machine *m, const struct msg_setup *s, char **ret_what)
{
	int r = add_entropy(s);

	if (r < 0) {
		*ret_what = strdup("add entropy");
		return r;
	}
	r = set_clock(s->realtime_usec);
	if (r < 0) {
		*ret_what = strdup("set the clock");
		return r;
	}
	while (m->done < ARRAY_SIZE(steps)) {
		r = steps[m->done].run(m, s, ret_what);
		if (r < 0 && !*ret_what)
			*ret_what = strdup(steps[m->done].what);
		if (r < 0)
			return r;
		m->done++;
	}
	return 0;
}

int machine_quiesce(struct machine *m, char **ret_what)
{
	sync();
	if (m->own_fd < 0)
		return 0;
	/* The overlay first: its upper layer is on the own disk. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL) < 0) {
		*ret_what = strdup("make / read-only");
		return -errno;
	}
	if (fchdir(m->own_fd) < 0 ||
		mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL) < 0) {
		*ret_what = strdup("make the own disk read-only");
		return -errno;
	}
	return 0;
}
