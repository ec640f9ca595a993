/* SPDX-License-Identifier: MIT */
/*
 * The counter behind crash_point(), called by whatever changes the world in steps: the engine, the store, runs, pulls
 * and installations. Compiled only into test builds. What must stay true: children count on where their parent is,
 * and whoever comes to the number takes the daemon along, so that N = 1, 2, ... meets every place once.
 */
#include "daemon/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "proto/base.h"

/* Global, since the places are everywhere and the process is what dies. */
static struct {
	atomic_uint *passed; /* shared with children; NULL: not asked for */
	unsigned at;
	pid_t daemon;
} crash;

void crash_init(void)
{
	const char *given = getenv("PYRO_CRASH_AT");
	uint64_t at;
	void *p;

	if (!given || parse_u64(given, 1, UINT32_MAX, &at) < 0)
		return;
	p = mmap(NULL, sizeof(*crash.passed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		-1, 0);
	if (p == MAP_FAILED)
		abort();
	crash.at = (unsigned)at;
	crash.daemon = getpid();
	crash.passed = p;
}

void crash_point(void)
{
	if (!crash.passed || atomic_fetch_add(crash.passed, 1) + 1 != crash.at)
		return;
	(void)kill(crash.daemon, SIGKILL);
	(void)raise(SIGKILL);
}
