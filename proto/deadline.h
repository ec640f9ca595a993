/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How long pyro waits for a guest, a VMM or a caller: one row per deadline, with its name, its
 * seconds and what it bounds. A test build (-Dcrash_points, see daemon/crash.h) overrides them from
 * PYRO_DEADLINES, names and milliseconds ("boot=2000,grace=500"), so that no test waits for the
 * full time; other builds have the table only.
 */

#include "proto/base.h"

#define DEADLINES(X) \
	X(BOOT, boot, 90)       /* a cold boot on a loaded host, emulated */ \
	X(SETUP, setup, 60)     /* from SETUP to its answer */ \
	X(STOP, stop, 30)       /* from the request to the end of the guest */ \
	X(VMM_ANSWER, vmm, 10)  /* the VMM's answer to one request while it starts */ \
	X(VMM_END, vmm_end, 30) /* from SIGKILL to the end of the VMM's process */ \
	/* Until a VMM confirms a pause, or stops reporting a full disk that is not full. */ \
	X(PAUSE, pause, 30) \
	X(ADOPT, adopt, 15) /* the first answer of the agent in a machine of a previous daemon */ \
	X(ADOPT_CALL, adopt_call, 5) /* how long a call that needs the guest waits for ADOPT */ \
	X(STARTED, started, 60)      /* START to STARTED, with the login environment */ \
	X(DRAIN, drain, 30)          /* EXIT arrived, output is still missing */ \
	X(FILE, file, 30)            /* an operation on files, which the guest ends after 10 s */ \
	X(LATE, late, 30)            /* the guest did not enforce a command's timeout */ \
	X(INPUT, input, 10)          /* the guest accepts what exec.write sends */ \
	X(GRACE, grace, 10)          /* before a one-shot whose caller disconnected is deleted */ \
	X(EXPIRED, expired, 3600) /* from a daemon's start, for machines that expired before it */ \
	X(STALL, stall, 30)       /* a client that reads nothing */ \
	X(REPORT, report, 10)     /* between two reports of a job that shows no progress */ \
	X(OWNER, owner, 5)        /* a name service's answer about the owner of a uid */ \
	X(REDIAL, redial, 10)     /* pyro run reconnects to a restarted daemon */

enum deadline {
#define X(symbol, name, seconds) DEADLINE_##symbol,
	DEADLINES(X)
#undef X
		DEADLINE_MAX
};

#ifdef PYRO_CRASH_POINTS
/* Callable from any thread. An unknown name in PYRO_DEADLINES aborts: such a test would prove
 * nothing. */
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
