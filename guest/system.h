/* SPDX-License-Identifier: MIT */
#pragma once

/* What PID 1, sysctl.d and tmpfiles.d give a booted Debian: mounts, kernel settings, folders, links. docs/guest.md has the
 * list, with what is left out and why. */

#include "proto/base.h"

/* Limits that every process inherits. */
int system_limits(void);
/* The mounts that commands cannot be without. *ret_what (owned) names the one that failed. */
int system_mounts(char **ret_what);
/* The others, each where the kernel has it. */
void system_more_mounts(void);
/* Kernel settings: ours, then the environment's. */
int system_settings(void);
/* /etc/mtab, /run/utmp and the like; utmp_gid: who may write it. */
int system_files(uint32_t utmp_gid);

/* Sizes of the file systems in memory for a machine with so much free at its start: together they leave half of it. */
struct system_sizes {
	uint64_t shm, run, lock, dev; /* bytes */
	uint64_t shm_inodes, run_inodes;
};
void system_sizes(uint64_t free_bytes, struct system_sizes *ret);
