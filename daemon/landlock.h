/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Restricts which paths a process can open (landlock(7)) to an allowed set. Uses the kernel and
 * libc only, for programs that link nothing else.
 */

#include "proto/base.h"

/* From linux/landlock.h; a kernel older than a right does not restrict it. */
enum {
	LANDLOCK_EXECUTE = 1 << 0,
	LANDLOCK_WRITE = 1 << 1,
	LANDLOCK_READ = 1 << 2,
	LANDLOCK_LIST = 1 << 3,
	LANDLOCK_IOCTL = 1 << 15, /* on a device opened afterwards */
};

struct landlock {
	int fd;         /* owned */
	uint64_t known; /* rights that this kernel can deny */
};

/* Returns -EOPNOTSUPP or -ENOSYS if the kernel has no Landlock. */
int landlock_begin(struct landlock *ret);
/* Allows access to the file, or to everything below the directory, behind fd (O_PATH suffices).
 * -EBADFD if fd is neither. */
int landlock_allow(struct landlock *l, int fd, uint64_t access);
int landlock_allow_path(struct landlock *l, const char *path, uint64_t access);
/* Enforces the ruleset for the life of the process. no_new_privs must be set. If the kernel
 * supports it, also denies signals to other processes and their abstract sockets. */
int landlock_enforce(struct landlock *l);
void landlock_done(struct landlock *l);
