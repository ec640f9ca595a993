/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The limits that the kernel enforces on a cgroup (cgroup v2). Reading cgroupfs does not block.
 */

#include "proto/base.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

struct unit_limits;

/* Returns 1 if the kernel enforces limits at least as tight, 0 if a controller is missing, -ERANGE
 * if a limit is looser, -errno. root: CGROUP_ROOT; cgroup: "/..." below it. */
int cgroup_holds(const char *root, const char *cgroup, const struct unit_limits *limits);
