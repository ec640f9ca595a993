/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How long pyro waits for a guest, a VMM or a caller before it goes on without: one row a deadline, with its name, its
 * seconds and what it bounds. A test build (-Dcrash_points, as daemon/crash.h) takes others from PYRO_DEADLINES, names and
 * milliseconds ("boot=2000,grace=500"), so that no test sits one out; in all other builds the table is all there is.
 */

#include "proto/base.h"

#define DEADLINES(X) \
	X(BOOT, boot, 90)       /* a cold boot on a loaded host, emulated */ \
	X(SETUP, setup, 60)     /* from SETUP to its answer */ \
	X(STOP, stop, 30)       /* from the request to the end of the guest */ \
	X(VMM_ANSWER, vmm, 10)  /* the VMM's answer to one request while it starts */ \
	X(VMM_END, vmm_end, 30) /* from SIGKILL to the end of the VMM's process */ \
	/* A VMM that does not as it is told, or says what is not so; a stop under disk writes takes over a second. */ \
	X(PAUSE, pause, 30) \
	X(ADOPT, adopt, 15) /* the first answer of the agent in a machine of a previous daemon */ \
	X(ADOPT_CALL, adopt_call, 5) /* a call that needs the guest waits for that */ \
	X(STARTED, started, 60)      /* START to STARTED, with the login environment */ \
	X(DRAIN, drain, 30)          /* EXIT seen, bytes missing though the guest may send them */ \
	X(LATE, late, 30)            /* the guest's own timeout did not end the command */ \
	X(GRACE, grace, 10)          /* a one-shot whose caller is gone */ \
	X(STALL, stall, 30)          /* a client that reads nothing */ \
	X(REPORT, report, 10)        /* between two reports of a job that shows no progress */ \
	X(REDIAL, redial, 10)        /* pyro run, for a daemon that is gone to be there again */

enum deadline {
#define X(symbol, name, seconds) DEADLINE_##symbol,
	DEADLINES(X)
#undef X
		DEADLINE_MAX
};

#ifdef PYRO_CRASH_POINTS
/* From any thread. A setting that names no deadline ends the process: a test of it would prove nothing. */
uint64_t deadline_usec(enum deadline d);
#else
static inline uint64_t deadline_usec(enum deadline d)
{
#define X(symbol, name, seconds) (seconds) * USEC_PER_SEC,
	static const uint64_t usec[] = { DEADLINES(X) };
#undef X
	return usec[d];
}
#endif
