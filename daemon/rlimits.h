/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Resource limits of the calling process. Uses the kernel and libc only.
 */

#include "proto/base.h"
#include <sys/resource.h>

struct rlimit_max {
	__rlimit_resource_t what;
	rlim_t value;
};

/* Sets each limit, soft and hard, to its value; an inherited limit that is lower stays. Returns
 * -errno of the first that cannot be set. */
int rlimits_lower(const struct rlimit_max *limits, size_t n);
