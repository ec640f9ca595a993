/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Units of the service manager that started pyrod, over its bus: start, limit, query and stop a
 * unit, and learn of its end. Every call returns at once; a callback reports the result within
 * UNITS_CALL_USEC.
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

/* True if this process is `unit` of that service manager. Reads /proc, so call it before the loop
 * runs. */
bool units_manage(bool user, const char *unit);
/* Connects, and reconnects whenever the bus is lost; an unreachable bus is not an error here. */
int units_new(sd_event *event, bool user, struct units **ret);
/* Call after all its units are freed. Accepts NULL. */
struct units *units_free(struct units *us);
DEFINE_CLEANUP(struct units *, units_free)
/* True if this manager can sandbox its units, which a user's manager cannot. */
bool units_sandbox(const struct units *us);
/* Requests the stop of a unit without waiting. A unit that does not exist is not an error. */
void units_stop(struct units *us, const char *name);

struct unit_limits {
	uint64_t memory_bytes;     /* MemoryMax= */
	uint64_t cpu_usec_per_sec; /* CPUQuota= */
	uint64_t tasks;            /* TasksMax= */
};

/* err is borrowed; NULL: success. Each callback may free the unit. */
struct unit_callbacks {
	/* Result of unit_start: its main process runs, or the unit did not start. */
	void (*on_started)(struct unit *u, const struct error *err, void *userdata);
	/* Result of unit_limit: systemd has the limits; enforced: the kernel enforces them too. */
	void (*on_limited)(struct unit *u, bool enforced, const struct error *err, void *userdata);
	/* Result of unit_look: found 1: it has a main process, 0: it has none, < 0: unknown. */
	void (*on_looked)(struct unit *u, int found, void *userdata);
	/* The main process of a unit that was started or found has exited. status: as in
	 * job_done_fn, or UNIT_UNKNOWN_EXIT. Not called while the bus is disconnected: also watch
	 * the process. */
	void (*on_ended)(struct unit *u, int status, void *userdata);
};

/* name: "TEMPLATE@INSTANCE.service". cb is borrowed; unused callbacks may be NULL. */
int unit_new(struct units *us, const char *name, const struct unit_callbacks *cb, void *userdata,
	struct unit **ret);
/* Frees u without stopping the unit; calls no callback. Accepts NULL. */
struct unit *unit_free(struct unit *u);
DEFINE_CLEANUP(struct unit *, unit_free)
void unit_start(struct unit *u);
void unit_look(struct unit *u);
void unit_limit(struct unit *u, const struct unit_limits *limits);
/* Like units_stop, and repeated when the bus is connected again. */
void unit_stop(struct unit *u);

const char *unit_name(const struct unit *u);
pid_t unit_pid(const struct unit *u);              /* of its main process; 0 if none */
const char *unit_invocation(const struct unit *u); /* "" until known */
/* Reads the invocation id of a running unit from systemd's runtime directory, without blocking.
 * -ENOENT if it does not run. */
int units_invocation(const struct units *us, const char *name, char ret[UNIT_INVOCATION]);
/* True if pid, of which the caller holds a pidfd, is in the cgroup of that unit. */
bool units_has(const struct units *us, const char *name, pid_t pid);
/* True if pid, of which the caller holds a pidfd, is this unit's main process, according to systemd
 * and to its cgroup. */
bool unit_owns(const struct unit *u, pid_t pid);
