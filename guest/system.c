/* SPDX-License-Identifier: MIT */
/*
 * Does what systemd and Debian's configuration do at the boot of a Debian, for machine.c at SETUP;
 * the limits for init.c. docs/guest.md lists the values and their sources;
 * tests/vm/test_whole_guest.py checks them.
 *
 * File systems in memory are sized by free memory, not by total memory: their pages cannot be
 * swapped or dropped, so when full they must leave enough for the guest to run and for the OOM
 * killer to help.
 */

#include "guest/system.h"

#include "guest/conf.h"
#include "guest/file.h"
#include "guest/init.h"
#include "guest/module.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

/* Free memory per inode, in bytes; an inode takes about 1 KiB of kernel memory. */
#define INODE_BYTES (16 * UINT64_C(1024))
#define MEMLOCK_MIN (64 * MIB)
#define NO_PROGRAMS (MS_NOSUID | MS_NODEV | MS_NOEXEC)

enum { LOCK_MAX = 5 * MIB, DEV_MAX = 4 * MIB, MEMLOCK_PART = 8, DATA_SIZE = 128 };

int system_limits(void)
{
	struct sysinfo si;
	struct rlimit lock;

	if (sysinfo(&si) < 0)
		return -errno;
	lock.rlim_cur = MAX_OF(MEMLOCK_MIN, (uint64_t)si.totalram * si.mem_unit / MEMLOCK_PART);
	lock.rlim_max = lock.rlim_cur;
	return setrlimit(RLIMIT_MEMLOCK, &lock) < 0 ? -errno : 0;
}

void system_sizes(uint64_t free_bytes, struct system_sizes *ret)
{
	*ret = (struct system_sizes){
		.shm = free_bytes / 10 * 4,
		.run = free_bytes / 100 * 8,
		.lock = MIN_OF(free_bytes / 100, (uint64_t)LOCK_MAX),
		.dev = MIN_OF(free_bytes / 100, (uint64_t)DEV_MAX),
		.shm_inodes = free_bytes / INODE_BYTES,
		.run_inodes = free_bytes / INODE_BYTES / 4,
	};
}

static int mount_memory(uint64_t free_bytes, char **ret_what)
{
	struct system_sizes s;
	char shm[DATA_SIZE], run[DATA_SIZE], lock[DATA_SIZE], dev[DATA_SIZE];
	const struct {
		const char *type, *dst;
		unsigned long flags;
		const char *data;
	} mounts[] = {
		{ "devtmpfs", "/dev", MS_REMOUNT | MS_NOSUID, dev },
		{ "tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, shm },
		{ "tmpfs", "/run", MS_NOSUID | MS_NODEV, run },
		{ "tmpfs", "/run/lock", NO_PROGRAMS, lock },
	};

	system_sizes(free_bytes, &s);
	(void)snprintf(shm, sizeof(shm), "mode=1777,size=%llu,nr_inodes=%llu",
		(unsigned long long)s.shm, (unsigned long long)s.shm_inodes);
	(void)snprintf(run, sizeof(run), "mode=755,size=%llu,nr_inodes=%llu",
		(unsigned long long)s.run, (unsigned long long)s.run_inodes);
	(void)snprintf(lock, sizeof(lock), "mode=1777,size=%llu,nr_inodes=%llu",
		(unsigned long long)s.lock, (unsigned long long)s.run_inodes);
	(void)snprintf(dev, sizeof(dev), "mode=755,size=%llu,nr_inodes=%llu",
		(unsigned long long)s.dev, (unsigned long long)s.run_inodes);
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		int r = init_mount(mounts[i].type, mounts[i].dst, mounts[i].type, mounts[i].flags,
			mounts[i].data, ret_what);
		if (r < 0)
			return r;
	}
	return 0;
}

int system_mounts(char **ret_what)
{
	struct sysinfo si;
	int r;

	if (sysinfo(&si) < 0)
		return -errno;
	r = mount_memory((uint64_t)si.freeram * si.mem_unit, ret_what);
	if (r >= 0)
		r = init_mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			"gid=5,mode=620,ptmxmode=666", ret_what);
	if (r >= 0)
		r = init_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", NO_PROGRAMS,
			"nsdelegate,memory_recursiveprot", ret_what);
	return r;
}

void system_more_mounts(void)
{
	static const struct {
		const char *type, *dst;
		unsigned long flags;
		const char *data;
	} mounts[] = {
		{ "mqueue", "/dev/mqueue", NO_PROGRAMS, NULL },
		{ "hugetlbfs", "/dev/hugepages", 0, NULL },
		{ "securityfs", "/sys/kernel/security", NO_PROGRAMS, NULL },
		{ "debugfs", "/sys/kernel/debug", NO_PROGRAMS, NULL },
		{ "tracefs", "/sys/kernel/tracing", NO_PROGRAMS, NULL },
		{ "bpf", "/sys/fs/bpf", NO_PROGRAMS, "mode=700" },
	};

	/* Mounting bpf requests a module that no kernel has, which would cost 20 ms. */
	(void)file_set("/proc/sys/kernel/modprobe", "\n");
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		_cleanup_free_ char *what = NULL;
		(void)init_mount(mounts[i].type, mounts[i].dst, mounts[i].type, mounts[i].flags,
			mounts[i].data, &what);
	}
	module_mount_built_in();
}

int system_settings(void)
{
	static const char *const settings[][2] = {
		{ "fs/file-max", "9223372036854775807" },
		{ "fs/protected_fifos", "1" },
		{ "fs/protected_hardlinks", "1" },
		{ "fs/protected_regular", "2" },
		{ "fs/protected_symlinks", "1" },
		{ "fs/inotify/max_user_instances", "1024" },
		{ "fs/inotify/max_user_watches", "524288" },
		{ "kernel/pid_max", "4194304" },
		{ "kernel/printk_devkmsg", "on\n" }, /* requires the newline */
		{ "net/unix/max_dgram_qlen", "512" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		char path[DATA_SIZE];
		(void)snprintf(path, sizeof(path), "/proc/sys/%s", settings[i][0]);
		(void)file_set(path, settings[i][1]); /* fails on a kernel without this setting */
	}
	return conf_apply_settings();
}

/* Replaces anything that is not a link. */
static int link_mtab(void)
{
	static const char path[] = "/etc/mtab";
	char target[2];

	if (readlink(path, target, sizeof(target)) >= 0)
		return 0;
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	return symlink("../proc/self/mounts", path) < 0 ? -errno : 0;
}

int system_files(uint32_t utmp_gid)
{
	static const char *const dirs[] = { "/run/lock/subsys", "/run/log", "/run/user",
		"/run/sendsigs.omit.d" };
	static const char *const links[][2] = {
		{ "/dev/shm", "/run/shm" },
		{ "../run", "/var/run" },
		{ "../run/lock", "/var/lock" },
	};
	_cleanup_close_ int utmp = -EBADF;

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdir(dirs[i], 0755) < 0 && errno != EEXIST)
			return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		/* ENOENT: the environment may have no /var. */
		if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST && errno != ENOENT)
			return -errno;
	utmp = open("/run/utmp", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
	if (utmp < 0 || fchown(utmp, 0, utmp_gid) < 0)
		return -errno;
	return link_mtab();
}
