/* SPDX-License-Identifier: MIT */
/*
 * The counter of crash_point(), which is called between the steps of a change on disk or of a
 * process: in the engine, the store, runs, pulls and installations. Compiled only into test builds.
 * What must stay true: children share the counter with their parent, and the process that reaches N
 * also kills the daemon, so that N = 1, 2, ... hits every place once.
 */
#include "daemon/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "proto/base.h"

/* Global: the places are everywhere and the process is what dies. */
static struct {
	atomic_uint *passed; /* shared with children; NULL: PYRO_CRASH_AT is not set */
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
