/* SPDX-License-Identifier: MIT */
/* Called by programs that confine themselves before they read what is not trusted. */

#include "daemon/rlimits.h"

int rlimits_lower(const struct rlimit_max *limits, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct rlimit l;

		if (getrlimit(limits[i].what, &l) < 0)
			return -errno;
		l.rlim_cur = l.rlim_max = MIN_OF(limits[i].value, l.rlim_max);
		if (setrlimit(limits[i].what, &l) < 0)
			return -errno;
	}
	return 0;
}
