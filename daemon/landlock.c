/* SPDX-License-Identifier: MIT */
/*
 * A Landlock ruleset. Called by vmm/confine.c, which allows the files that a VMM opens, and by
 * import/sandbox.c, which allows none. What must stay true: every file access that this kernel can
 * deny is denied unless it is allowed here.
 */
#include "daemon/landlock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* struct landlock_ruleset_attr of ABI 6; older kernels take a shorter one. */
struct attributes {
	uint64_t fs, net, scoped;
};

struct beneath {
	uint64_t access;
	int32_t fd;
} __attribute__((packed));

enum { ASK_VERSION = 1, RULE_BENEATH = 1 };

/* The access rights that apply to files. */
#define OF_A_FILE ((uint64_t)(LANDLOCK_EXECUTE | LANDLOCK_WRITE | LANDLOCK_READ | LANDLOCK_IOCTL))

int landlock_begin(struct landlock *ret)
{
	/* number of access rights, by ABI version */
	static const unsigned fs_bits[] = { 0, 13, 14, 15, 15, 16 };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, ASK_VERSION);

	*ret = (struct landlock){ .fd = -EBADF };
	if (abi < 0)
		return -errno;
	if (abi == 0)
		return -EOPNOTSUPP;
	const size_t at = MIN_OF((size_t)abi, ARRAY_SIZE(fs_bits) - 1);
	const struct attributes a = {
		.fs = (UINT64_C(1) << fs_bits[at]) - 1,
		.net = abi >= 4 ? 3 : 0,
		.scoped = abi >= 6 ? 3 : 0,
	};
	const size_t size = abi >= 6   ? sizeof(a)
			    : abi >= 4 ? 2 * sizeof(uint64_t)
				       : sizeof(uint64_t);
	ret->known = a.fs;
	ret->fd = (int)syscall(SYS_landlock_create_ruleset, &a, size, 0);
	return ret->fd < 0 ? -errno : 0;
}

int landlock_allow(struct landlock *l, int fd, uint64_t access)
{
	struct beneath b = { .access = access & l->known, .fd = fd };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		b.access &= OF_A_FILE;
	if (b.access == 0)
		return 0;
	return syscall(SYS_landlock_add_rule, l->fd, RULE_BENEATH, &b, 0) < 0 ? -errno : 0;
}

int landlock_allow_path(struct landlock *l, const char *path, uint64_t access)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);

	return fd < 0 ? -errno : landlock_allow(l, fd, access);
}

int landlock_enforce(struct landlock *l)
{
	return syscall(SYS_landlock_restrict_self, l->fd, 0) < 0 ? -errno : 0;
}

void landlock_done(struct landlock *l)
{
	l->fd = fd_close(l->fd);
}
