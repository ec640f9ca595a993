/* SPDX-License-Identifier: MIT */
/*
 * SETUP and its reverse, called by main.c at the host's request: the own disk, the overlay root,
 * and the steps of system.c and device.c. Each named step is done once; a repeated SETUP continues
 * where the last one stopped. A step that an unusual environment may prevent is logged to the
 * console and skipped.
 *
 * What must stay true: entropy is added first, since a clone shares that of its template; the
 * environment is untrusted, so its paths are resolved only inside the new root; the own disk and
 * the modules are reached by descriptors after that.
 */

#include "guest/machine.h"

#include "guest/cgroup.h"
#include "guest/conf.h"
#include "guest/file.h"
#include "guest/init.h"
#include "guest/module.h"
#include "guest/system.h"
#include "guest/tmp.h"

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
#define MODULES            "/modules-disk"

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
	int r = init_disk(&m->disks, DISK_SERIAL_OWN, OWN_DISK_WAIT_USEC, &disk);

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
	*ret_what = strdup("/meta/layout of the machine's disk is not " OWN_LAYOUT);
	return r < 0 ? r : -EMEDIUMTYPE;
}

static int step_tmp(struct machine *m, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	/* Every start writes to /etc, so a used disk has this directory. */
	m->fresh = faccessat(m->own_fd, "upper/etc", F_OK, AT_SYMLINK_NOFOLLOW) < 0;
	/* A blank disk has a /tmp, except one created by an older pyro. */
	if (m->fresh && faccessat(m->own_fd, "tmp", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (m->fresh && fchmodat(m->own_fd, "workspace", 01777, 0) < 0)
		return -errno;
	return tmp_renew(m->own_fd);
}

/* Mounts them outside the new root, where the guest cannot hide them; the agent, as modprobe, finds
 * them by descriptor number. */
static int step_modules(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	_cleanup_free_ char *disk = NULL;
	_cleanup_close_ int fd = -EBADF;
	int r = init_disk(&m->disks, DISK_SERIAL_MODULES, 0, &disk);

	if (r == -ENODEV)
		return 0; /* a kernel with everything built in */
	if (r >= 0)
		r = init_mount(disk, MODULES, "ext4", MS_RDONLY | MS_NOATIME, "noload", ret_what);
	if (r < 0)
		return r;
	fd = open(MODULES, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fcntl(fd, F_DUPFD_CLOEXEC, MODULES_FD) == MODULES_FD ? 0 : -EBADF;
}

static int step_overlay(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	return init_mount("overlay", NEW_ROOT, "overlay", MS_NOATIME,
		"lowerdir=/env,upperdir=/own/upper,workdir=/own/work,redirect_dir=on,index=on",
		ret_what);
}

/* Moves a mount to a directory of the environment, which may be missing or a link that must not be
 * resolved outside the new root. */
static int move_into(int root_fd, const char *from, const char *name)
{
	_cleanup_close_ int fd = -EBADF;

	if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(root_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) && unlinkat(root_fd, name, 0) == 0 &&
		mkdirat(root_fd, name, 0755) == 0)
		fd = openat(root_fd, name, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	return move_mount(AT_FDCWD, from, fd, "", MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

static int step_new_root(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	static const char *const moved[] = { "/dev", "/proc", "/sys" };
	_cleanup_close_ int root_fd = open(NEW_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root_fd < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(moved); i++) {
		int r = move_into(root_fd, moved[i], moved[i] + 1);
		if (r < 0) {
			*ret_what = str_printf("mount %s", moved[i]);
			return r;
		}
	}
	if (fchdir(root_fd) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
		chdir("/") < 0)
		return -errno;
	return 0;
}

static int step_devices(
	struct machine *m, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	_cleanup_close_ int dir = module_dir(MODULES_FD);

	return devices_setup(&m->devices, dir);
}

static int step_mounts(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what)
{
	return system_mounts(ret_what);
}

static int bind_own(struct machine *m, const char *from, const char *dst)
{
	_cleanup_close_ int tree = -EBADF;
	int r;

	if (mkdirat(m->own_fd, from, 0755) < 0 && errno != EEXIST)
		return -errno;
	r = file_dir(dst);
	if (r < 0)
		return r;
	tree = open_tree(
		m->own_fd, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return -errno;
	return move_mount(
		       tree, "", AT_FDCWD, dst, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0
		       ? -errno
		       : 0;
}

static int step_workspace(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	int r = bind_own(m, "workspace", "/workspace");

	if (r < 0)
		*ret_what = strdup("mount /workspace");
	return r;
}

/* If the disk has no /tmp, the root's own is used. */
static int step_bind_tmp(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	int r = bind_own(m, "tmp", "/tmp");

	if (r < 0) {
		*ret_what = strdup("mount /tmp");
		(void)file_dir("/tmp");
		(void)chmod("/tmp", 01777);
	}
	return r;
}

/* Container engines need a real file system: overlay on overlay does not work. */
static int step_engine_binds(struct machine *m, const struct msg_setup *s _unused_, char **ret_what)
{
	static const char *const names[] = { "docker", "containerd", "containers" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *from = str_printf("data/%s", names[i]);
		_cleanup_free_ char *dst = str_printf("/var/lib/%s", names[i]);
		int r = from && dst ? bind_own(m, from, dst) : -ENOMEM;
		if (r < 0) {
			*ret_what = str_printf("mount /var/lib/%s", names[i]);
			return r;
		}
	}
	return 0;
}

static int step_more_mounts(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	system_more_mounts();
	return 0;
}

/* From now on the kernel calls the agent instead of /sbin/modprobe. */
static int step_modprobe(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	_cleanup_close_ int tree = -EBADF;
	int r;

	if (fcntl(MODULES_FD, F_GETFD) < 0)
		return 0;
	r = file_set("/proc/sys/kernel/modprobe", "/proc/1/exe");
	if (r >= 0)
		r = file_dir("/lib/modules");
	if (r < 0)
		return r;
	tree = open_tree(MODULES_FD, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (tree < 0)
		return -errno;
	return move_mount(tree, "", AT_FDCWD, "/lib/modules",
		       MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0
		       ? -errno
		       : 0;
}

static int write_file(const char *path, const char *text, char **ret_what)
{
	int r = file_replace(path, text);

	if (r < 0)
		*ret_what = str_printf("write %s", path);
	return r;
}

/* Keeps the environment's own file. git reads a user's ~/.gitconfig after it, so that one overrides
 * it. */
static int write_gitconfig(char **ret_what)
{
	static const char path[] = "/etc/gitconfig";
	static const char text[] =
		"# By pyro: all users of a machine act for one owner, who trusts each repository.\n"
		"[safe]\n\tdirectory = *\n";
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r;

	if (fd < 0 && errno == EEXIST)
		return 0;
	r = fd < 0 ? -errno : write_all(fd, text, strlen(text));
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
	return write_file("/etc/machine-id", hex, ret_what);
}

/* Writes the files that identify the machine, once: a guest's changes of /etc/hosts survive a
 * restart. */
static int write_identity(const struct msg_setup *s, char **ret_what)
{
	_cleanup_free_ char *hosts = str_printf("127.0.0.1\tlocalhost\n"
						"127.0.1.1\t%s\n"
						"::1\tlocalhost ip6-localhost ip6-loopback\n",
		s->hostname);
	_cleanup_free_ char *name = str_printf("%s\n", s->hostname);
	int r;

	if (!hosts || !name)
		return -ENOMEM;
	r = write_machine_id(s, ret_what);
	if (r >= 0)
		r = write_file("/etc/hostname", name, ret_what);
	if (r >= 0)
		r = write_file("/etc/hosts", hosts, ret_what);
	return r < 0 ? r : write_gitconfig(ret_what);
}

static int step_files(struct machine *m, const struct msg_setup *s, char **ret_what)
{
	int r = file_dir("/etc");

	if (r >= 0 && m->fresh)
		r = write_identity(s, ret_what);
	/* Without a network: nothing listens at this address, so a look-up fails at once instead of
	 * timing out. */
	if (r >= 0)
		r = write_file("/etc/resolv.conf",
			"nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", ret_what);
	return r;
}

static int step_system_files(
	struct machine *m, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	return system_files(m->devices.gid[GROUP_UTMP]);
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

static int step_settings(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	return system_settings();
}

static void load_module(const char *name, void *userdata _unused_)
{
	(void)module_load(name);
}

static int step_asked_modules(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	return conf_each_module(load_module, NULL);
}

/* Makes all mounts shared, as systemd does; container engines need it to propagate mounts. */
static int step_share(
	struct machine *m _unused_, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	return mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0 ? -errno : 0;
}

static int step_old_tmp(
	struct machine *m, const struct msg_setup *s _unused_, char **ret_what _unused_)
{
	pid_t pid;

	return tmp_delete_old(m->own_fd, &pid); /* reaped like an orphan */
}

enum importance {
	NEEDED,
	OPTIONAL, /* the machine works without it */
	LATE,     /* optional, and run after SETUP was answered */
};

static const struct {
	const char *what;
	int (*run)(struct machine *m, const struct msg_setup *s, char **ret_what);
	enum importance importance;
} steps[] = {
	{ "set the host name", step_hostname, NEEDED },
	{ "mount the machine's disk", step_own_disk, NEEDED },
	{ "read /meta/layout", step_layout, NEEDED },
	{ "empty /tmp", step_tmp, OPTIONAL },
	{ "mount the modules", step_modules, NEEDED },
	{ "mount the overlay", step_overlay, NEEDED },
	{ "change the root", step_new_root, NEEDED },
	{ "mount the system's file systems", step_mounts, NEEDED },
	{ "mount /workspace", step_workspace, NEEDED },
	{ "mount /tmp", step_bind_tmp, OPTIONAL },
	{ "write /etc", step_files, OPTIONAL },
	{ "bring up lo", step_loopback, NEEDED },
	{ "create the commands' cgroup", step_cgroup, NEEDED },
	{ "create the devices", step_devices, LATE },
	{ "mount the system's other file systems", step_more_mounts, LATE },
	{ "mount the container engines' directories", step_engine_binds, LATE },
	{ "create the system's files", step_system_files, LATE },
	{ "set the kernel's module helper", step_modprobe, LATE },
	{ "set the kernel's settings", step_settings, LATE },
	{ "load the requested modules", step_asked_modules, LATE },
	{ "share the mounts", step_share, LATE },
	{ "delete the old /tmp", step_old_tmp, LATE },
};

/* Runs the next step; returns 1 if it failed and was skipped. */
static int run_step(struct machine *m, const struct msg_setup *s, char **ret_what)
{
	_cleanup_free_ char *what = NULL;
	int r = steps[m->done].run(m, s, &what);

	if (r >= 0)
		return 0;
	if (!what)
		what = strdup(steps[m->done].what);
	if (steps[m->done].importance == NEEDED) {
		*ret_what = TAKE_PTR(what);
		return r;
	}
	(void)dprintf(
		STDERR_FILENO, "pyro-agent: %s: %s\n", what ? what : "out of memory", strerror(-r));
	return 1;
}

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
	while (m->done < ARRAY_SIZE(steps) && steps[m->done].importance != LATE) {
		r = run_step(m, s, ret_what);
		if (r < 0)
			return r;
		m->done++;
	}
	return 0;
}

void machine_finish(struct machine *m)
{
	_cleanup_free_ char *what = NULL;

	for (; m->done < ARRAY_SIZE(steps); m->done++)
		(void)run_step(m, NULL, &what); /* it logs the failure */
}

int machine_quiesce(struct machine *m, char **ret_what)
{
	sync();
	if (m->own_fd < 0)
		return 0;
	/* The overlay first, since its upper layer is on the own disk. */
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL) < 0) {
		*ret_what = strdup("make / read-only");
		return -errno;
	}
	if (fchdir(m->own_fd) < 0 ||
		mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY | MS_NOATIME, NULL) < 0) {
		*ret_what = strdup("make the machine's disk read-only");
		return -errno;
	}
	return 0;
}
