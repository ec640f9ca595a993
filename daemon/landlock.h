/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a process may still open by a path (landlock(7)): nothing, but what is allowed. Of no more than the kernel and libc:
 * also for programs that link nothing else.
 */

#include "proto/base.h"

/* linux/landlock.h; a kernel that is older than one of them denies nothing of it. */
enum {
	LANDLOCK_EXECUTE = 1 << 0,
	LANDLOCK_WRITE = 1 << 1,
	LANDLOCK_READ = 1 << 2,
	LANDLOCK_LIST = 1 << 3,
	LANDLOCK_IOCTL = 1 << 15, /* of a device that is opened afterwards */
};

struct landlock {
	int fd;         /* owned */
	uint64_t known; /* what this kernel denies */
};

/* -EOPNOTSUPP or -ENOSYS without Landlock. */
int landlock_begin(struct landlock *ret);
/* Of the file, or of everything below the directory, that fd is open on (O_PATH will do). -EBADFD: it is neither. */
int landlock_allow(struct landlock *l, int fd, uint64_t access);
int landlock_allow_path(struct landlock *l, const char *path, uint64_t access);
/* For good. The caller has no_new_privs. Signals to and abstract sockets of others are denied as well, where that is known. */
int landlock_enforce(struct landlock *l);
void landlock_done(struct landlock *l);
