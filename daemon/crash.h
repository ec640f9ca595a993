/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Places where a test kills the daemon as by kill -9 (PYRO_CRASH_AT=N: at the N-th place reached by
 * the daemon or one of its children). Only in builds with -Dcrash_points, which `auto` enables in
 * debug builds.
 */

#ifdef PYRO_CRASH_POINTS
/* Call once, before threads or children exist. */
void crash_init(void);
/* Async-signal-safe. */
void crash_point(void);
#else
static inline void crash_init(void)
{
}
static inline void crash_point(void)
{
}
#endif
