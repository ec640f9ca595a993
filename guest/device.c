/* SPDX-License-Identifier: MIT */
/*
 * Does udev's work in /dev, for machine.c (at SETUP) and main.c (afterwards): Debian's
 * 50-udev-default.rules and 80-debian-compat.rules, and the static nodes of
 * systemd-tmpfiles-setup-dev. docs/guest.md says which of udev's links are left out, and why.
 *
 * A group that the environment lacks is replaced by root. Only nodes are changed, never the target
 * of a link.
 */

#include "guest/device.h"

#include "guest/init.h"
#include "guest/module.h"
#include "guest/user.h"

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/netlink.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { EVENT_SIZE = 8192, STATIC_MODE = 0600 };

static const char *const group_names[] = {
	[GROUP_ROOT] = "root",
	[GROUP_AUDIO] = "audio",
	[GROUP_CDROM] = "cdrom",
	[GROUP_DIALOUT] = "dialout",
	[GROUP_DISK] = "disk",
	[GROUP_INPUT] = "input",
	[GROUP_KMEM] = "kmem",
	[GROUP_KVM] = "kvm",
	[GROUP_LP] = "lp",
	[GROUP_RENDER] = "render",
	[GROUP_TTY] = "tty",
	[GROUP_UTMP] = "utmp",
	[GROUP_VIDEO] = "video",
};
_Static_assert(ARRAY_SIZE(group_names) == GROUP_MAX, "a name per group");

/* The first match counts. The mode of a rule with a group and no mode is 0660, as in udev. */
static const struct {
	const char *pattern;
	enum device_group group;
	mode_t mode;
} rules[] = {
	{ "ptmx", GROUP_TTY, 0666 },
	{ "tty", GROUP_TTY, 0666 },
	{ "tty[0-9]*", GROUP_TTY, 0620 },
	{ "tty[A-Z]*[0-9]", GROUP_DIALOUT, 0660 },
	{ "vcs*", GROUP_TTY, 0660 },
	{ "mem", GROUP_KMEM, 0640 },
	{ "kmem", GROUP_KMEM, 0640 },
	{ "port", GROUP_KMEM, 0640 },
	{ "nvram", GROUP_KMEM, 0640 },
	{ "input/js[0-9]*", GROUP_INPUT, 0664 },
	{ "input/*", GROUP_INPUT, 0660 },
	{ "video[0-9]*", GROUP_VIDEO, 0660 },
	{ "fb[0-9]*", GROUP_VIDEO, 0660 },
	{ "dri/renderD*", GROUP_RENDER, 0660 },
	{ "dri/*", GROUP_VIDEO, 0660 },
	{ "snd/*", GROUP_AUDIO, 0660 },
	{ "lp[0-9]*", GROUP_LP, 0660 },
	{ "parport[0-9]*", GROUP_LP, 0660 },
	{ "loop-control", GROUP_DISK, 0660 },
	{ "btrfs-control", GROUP_DISK, 0660 },
	{ "rfkill", GROUP_ROOT, 0664 },
	{ "net/tun", GROUP_ROOT, 0666 },
	{ "fuse", GROUP_ROOT, 0666 },
	{ "kvm", GROUP_KVM, 0660 },
	{ "vfio/vfio", GROUP_ROOT, 0666 },
	{ "vsock", GROUP_ROOT, 0666 },
	{ "vhost-vsock", GROUP_KVM, 0660 },
	{ "vhost-net", GROUP_KVM, 0660 },
	{ "udmabuf", GROUP_KVM, 0660 },
};

bool device_rule(const char *name, bool block, enum device_group *ret_group, mode_t *ret_mode)
{
	if (block) {
		*ret_group = fnmatch("sr[0-9]*", name, 0) == 0 ? GROUP_CDROM : GROUP_DISK;
		*ret_mode = 0660;
		return true;
	}
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		/* All patterns start with a letter, so comparing the first byte avoids most calls
		 * of fnmatch. */
		if (rules[i].pattern[0] != name[0] || fnmatch(rules[i].pattern, name, 0) != 0)
			continue;
		*ret_group = rules[i].group;
		*ret_mode = rules[i].mode;
		return true;
	}
	return false;
}

/* Sets owner and mode of the node name, which must not be a link. mode: used if no rule matches. */
static int apply(const struct devices *d, int dev_fd, const char *name, bool block, mode_t mode)
{
	enum device_group group = GROUP_ROOT;

	if (!device_rule(name, block, &group, &mode) && mode == 0)
		return 0;
	if (d->gid[group] != 0 && fchownat(dev_fd, name, 0, d->gid[group], AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return fchmodat(dev_fd, name, mode, 0) < 0 ? -errno : 0;
}

static bool is_node(int dev_fd, const char *name)
{
	struct stat st;

	return fstatat(dev_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode));
}

/* Applies the rules to the nodes of a directory of /dev; prefix ends with a slash or is empty. */
static int apply_dir(const struct devices *d, int dev_fd, const char *prefix)
{
	int fd = openat(
		dev_fd, *prefix ? prefix : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct dirent *e;
	DIR *dir;
	int r = 0;

	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		r = -errno;
		fd_close(fd);
		return r;
	}
	while (r >= 0 && (e = readdir(dir))) {
		char name[PATH_MAX];
		(void)snprintf(name, sizeof(name), "%s%s", prefix, e->d_name);
		if (e->d_type == DT_CHR || e->d_type == DT_BLK) {
			r = apply(d, dev_fd, name, e->d_type == DT_BLK, 0);
		} else if (e->d_type == DT_DIR && e->d_name[0] != '.' && !*prefix) {
			(void)strncat(name, "/", sizeof(name) - strlen(name) - 1);
			r = apply_dir(d, dev_fd, name);
		}
		if (r == -ENOENT)
			r = 0; /* the device was removed meanwhile */
	}
	(void)closedir(dir);
	return r;
}

static int make_node(const struct module_node *n, void *userdata)
{
	int dev_fd = *(int *)userdata;
	const char *slash = strrchr(n->name, '/');

	if (slash) {
		_cleanup_free_ char *dir = strndup(n->name, (size_t)(slash - n->name));
		if (!dir)
			return -ENOMEM;
		if (mkdirat(dev_fd, dir, 0755) < 0 && errno != EEXIST)
			return -errno;
	}
	if (mknodat(dev_fd, n->name, n->type | STATIC_MODE, makedev(n->major, n->minor)) < 0 &&
		errno != EEXIST)
		return -errno;
	return 0;
}

static int make_links(int dev_fd)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "fd" },
		{ "/proc/self/fd/0", "stdin" },
		{ "/proc/self/fd/1", "stdout" },
		{ "/proc/self/fd/2", "stderr" },
		{ "/proc/kcore", "core" },
		{ "rtc0", "rtc" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlinkat(links[i][0], dev_fd, links[i][1]) < 0 && errno != EEXIST)
			return -errno;
	return 0;
}

int devices_setup(struct devices *d, int modules_fd)
{
	_cleanup_close_ int dev_fd = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (dev_fd < 0)
		return -errno;
	if (d->uevents < 0) {
		r = init_uevents();
		if (r < 0)
			return r;
		d->uevents = r;
	}
	r = make_links(dev_fd);
	if (r < 0)
		return r;
	/* Without a readable /etc/group all nodes belong to group root. */
	(void)user_group_ids(group_names, GROUP_MAX, d->gid);
	if (modules_fd >= 0) {
		r = module_nodes(modules_fd, make_node, &dev_fd);
		if (r < 0)
			return r;
	}
	return apply_dir(d, dev_fd, "");
}

bool device_parse(const char *event, size_t n, struct device_event *ret)
{
	struct device_event e = { 0 };
	bool added = false;

	if (n == 0 || event[n - 1] != '\0')
		return false;
	for (const char *p = event; p < event + n; p += strlen(p) + 1) {
		if (streq(p, "ACTION=add"))
			added = true;
		else if (streq(p, "SUBSYSTEM=block"))
			e.block = true;
		else if (startswith(p, "DEVNAME="))
			e.name = p + strlen("DEVNAME=");
		else if (startswith(p, "DEVMODE="))
			e.mode = (mode_t)strtoul(p + strlen("DEVMODE="), NULL, 8) & 0777;
	}
	if (!added || !e.name || !*e.name || *e.name == '/' || strstr(e.name, ".."))
		return false;
	*ret = e;
	return true;
}

static void on_uevents(struct source *s, uint32_t events _unused_)
{
	struct devices *d = s->userdata;
	_cleanup_close_ int dev_fd = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char event[EVENT_SIZE];

	for (;;) {
		struct sockaddr_nl from = { 0 };
		socklen_t from_n = sizeof(from);
		struct device_event e;
		ssize_t n = recvfrom(s->fd, event, sizeof(event), MSG_DONTWAIT | MSG_TRUNC,
			(struct sockaddr *)&from, &from_n);
		/* ENOBUFS: some events were lost, as udev may lose some; go on with the next. */
		if (n < 0 && errno == ENOBUFS)
			continue;
		if (n < 0)
			return;
		if (from.nl_pid == 0 && (size_t)n <= sizeof(event) && dev_fd >= 0 &&
			device_parse(event, (size_t)n, &e) && is_node(dev_fd, e.name))
			(void)apply(d, dev_fd, e.name, e.block, e.mode);
	}
}

int devices_watch(struct devices *d, struct loop *l)
{
	if (d->uevents < 0 || d->source.watched)
		return 0;
	d->source = (struct source){ .on_event = on_uevents, .userdata = d };
	return loop_watch(l, &d->source, d->uevents, EPOLLIN);
}
