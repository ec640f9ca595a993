/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One VMM process, from pyro-vmm's start to its last word. Above this nobody knows how it was started.
 */

#include "daemon/manager.h"

#define LAUNCH_TEMPLATE "pyro-vm" /* its unit: pyro-vm@ID.service */

struct launch;

struct launch_spec {
	const char *id; /* vm-... */
	uid_t owner_uid;
	uint32_t flags; /* LAUNCH_* */
	unsigned vcpu_count;
	uint64_t mem_mib;
	const char *const *args; /* borrowed; args[0] is the VMM's absolute path */
	const int *fds;          /* borrowed, duplicated; become LAUNCH_FIRST_FD, ... */
	size_t n_fds;
};

struct launch_callbacks {
	/* launch_pid and its kin say which process it is. */
	void (*on_known)(struct launch *l, void *userdata);
	/* Exactly once. status: exit status, -signal or INT_MIN: not known. reason: the last words of pyro-vmm or the
	 * VMM, escaped, or NULL; valid during the call. err: it never ran, or NULL. The launch must not be freed from
	 * here. */
	void (*on_exited)(struct launch *l, int status, const char *reason, const struct error *err,
		void *userdata);
};

int launch_start(struct manager *m, const struct launch_spec *spec,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret, struct error *err);
/*
 * Takes over the watch of a process that an earlier daemon launched; a->template is set here. a->pidfd is taken over on
 * success; the caller has verified whose it is. A child's exit status cannot be known.
 */
struct service_adoption;
int launch_adopt(struct manager *m, const struct service_adoption *a,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret);
/* Frees it and lets the process run on. Takes NULL. */
struct launch *launch_detach(struct launch *l);
void launch_kill(struct launch *l); /* on_exited follows */
pid_t launch_pid(const struct launch *l);
uint64_t launch_start_time(const struct launch *l);    /* field 22 of /proc/PID/stat; 0 of a unit */
const char *launch_invocation(const struct launch *l); /* "" of a child */
/* Kills what still runs; no callback comes any more. Takes NULL. */
struct launch *launch_free(struct launch *l);
DEFINE_CLEANUP(struct launch *, launch_free)
