/* SPDX-License-Identifier: MIT */
#pragma once

/* Sets up what PID 1, sysctl.d and tmpfiles.d provide in a booted Debian: mounts, kernel settings,
 * directories, links. docs/guest.md has the list, with what is left out and why. */

#include "proto/base.h"

/* Sets the limits that every process inherits. */
int system_limits(void);
/* Makes the mounts that commands need. *ret_what (owned) names a failed one. */
int system_mounts(char **ret_what);
/* Makes the other mounts that the kernel supports. */
void system_more_mounts(void);
/* Applies pyro's kernel settings, then the environment's. */
int system_settings(void);
/* Creates /etc/mtab, /run/utmp and similar files; utmp_gid: the group that may write utmp. */
int system_files(uint32_t utmp_gid);

/* Sizes of the file systems in memory, from the memory free at start: together they leave half of
 * it. */
struct system_sizes {
	uint64_t shm, run, lock, dev; /* bytes */
	uint64_t shm_inodes, run_inodes;
};
void system_sizes(uint64_t free_bytes, struct system_sizes *ret);
