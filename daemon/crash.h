/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Numbered places at which a test lets the daemon die as by kill -9 (PYRO_CRASH_AT=N: at the N-th it comes to, in
 * itself or in a child that works for it). Only in builds with -Dcrash_points, which `auto` makes of debug builds; in
 * all others nothing of it is there.
 */

#ifdef PYRO_CRASH_POINTS
/* Once, before there are threads or children. */
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
