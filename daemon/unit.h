/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Units of the service manager that started pyrod, over its bus: start, limit, look at, stop, and learn of the end of one.
 * Every call returns at once; what comes of it is told by a callback, at the latest after UNITS_CALL_USEC.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

#define UNITS_CALL_USEC   (20 * USEC_PER_SEC)
#define UNIT_INVOCATION   (32 + 1) /* hex digits and NUL */
#define UNIT_UNKNOWN_EXIT INT32_MIN

struct units;
struct unit;

/* Whether this process is itself `unit` of that service manager. Reads /proc: before the loop runs. */
bool units_manage(bool user, const char *unit);
/* Connects, now and whenever the bus has gone away; an unreachable bus is no error here. */
int units_new(sd_event *event, bool user, struct units **ret);
/* After all its units. Takes NULL. */
struct units *units_free(struct units *us);
DEFINE_CLEANUP(struct units *, units_free)
/* Whether this manager's units are sandboxed by it: a user's manager may not. */
bool units_sandbox(const struct units *us);
/* Asks for the end of a unit and does not wait for it. A unit that is not there is none. */
void units_stop(struct units *us, const char *name);

struct unit_limits {
	uint64_t memory_bytes;     /* MemoryMax= */
	uint64_t cpu_usec_per_sec; /* CPUQuota= */
	uint64_t tasks;            /* TasksMax= */
};

/* err is borrowed during the call; NULL: it went well. The unit may be freed from each of them. */
struct unit_callbacks {
	/* After unit_start: its main process runs, or the unit did not start. */
	void (*on_started)(struct unit *u, const struct error *err, void *userdata);
	/* After unit_limit: systemd has the limits, and the kernel holds them where it has the means to. */
	void (*on_limited)(struct unit *u, bool enforced, const struct error *err, void *userdata);
	/* After unit_look: found 1: it has a main process, 0: it has none, < 0: that cannot be told. */
	void (*on_looked)(struct unit *u, int found, void *userdata);
	/* Of one that has started or was found: its main process has ended. status: as of struct job_spec, or
	 * UNIT_UNKNOWN_EXIT. Not told while the bus is away: also watch the process. */
	void (*on_ended)(struct unit *u, int status, void *userdata);
};

/* name: "TEMPLATE@INSTANCE.service". cb is borrowed; what is not used may be NULL. */
int unit_new(struct units *us, const char *name, const struct unit_callbacks *cb, void *userdata,
	struct unit **ret);
/* Lets it run on. No callback comes any more. Takes NULL. */
struct unit *unit_free(struct unit *u);
DEFINE_CLEANUP(struct unit *, unit_free)
void unit_start(struct unit *u);
void unit_look(struct unit *u);
void unit_limit(struct unit *u, const struct unit_limits *limits);
/* As units_stop, and asked again when the bus comes back. */
void unit_stop(struct unit *u);

const char *unit_name(const struct unit *u);
pid_t unit_pid(const struct unit *u);              /* of its main process; 0: none */
const char *unit_invocation(const struct unit *u); /* "" before it is known */
/* The invocation of a unit that runs, read where systemd keeps it for all to see: waits for nothing. -ENOENT: it does
 * not run. */
int units_invocation(const struct units *us, const char *name, char ret[UNIT_INVOCATION]);
/* Whether pid, which the caller holds by a pidfd, stands in the cgroup of that unit. */
bool units_has(const struct units *us, const char *name, pid_t pid);
/* Whether pid, which the caller holds by a pidfd, is this unit's main process: by systemd's word and by its cgroup. */
bool unit_owns(const struct unit *u, pid_t pid);
