/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the kernel holds a cgroup to (cgroup v2). Its files are made up by the kernel as they are read: nothing waits.
 */

#include "proto/base.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

struct unit_limits;

/* 1: to no more than these limits; 0: it has not all the controllers for that; -ERANGE: it has, and does not; -errno.
 * root: CGROUP_ROOT; cgroup: "/..." below it. */
int cgroup_holds(const char *root, const char *cgroup, const struct unit_limits *limits);
