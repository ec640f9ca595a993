/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One VMM process, from the start of pyro-vmm to its exit. Callers need not know whether it is a
 * unit or a child.
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
	/* launch_pid, launch_start_time and launch_invocation are valid from here on. */
	void (*on_known)(struct launch *l, void *userdata);
	/* Called exactly once. status: exit status, -signal, or INT_MIN if unknown. reason: last
	 * line of pyro-vmm or the VMM, escaped, or NULL; valid during the call. err: why it never
	 * ran, or NULL. Must not free the launch. */
	void (*on_exited)(struct launch *l, int status, const char *reason, const struct error *err,
		void *userdata);
};

int launch_start(struct manager *m, const struct launch_spec *spec,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret, struct error *err);
/*
 * Watches a process that a previous daemon launched; sets a->template and owns a->pidfd on success.
 * The caller has verified that the process is that VMM. A child's exit status stays unknown.
 */
struct service_adoption;
int launch_adopt(struct manager *m, const struct service_adoption *a,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret);
/* Frees l without ending the process. Accepts NULL. */
struct launch *launch_detach(struct launch *l);
void launch_kill(struct launch *l); /* on_exited follows */
pid_t launch_pid(const struct launch *l);
uint64_t launch_start_time(const struct launch *l);    /* in /proc/PID/stat; 0 for a unit */
const char *launch_invocation(const struct launch *l); /* "" for a child */
/* Frees l and kills its process if it still runs; calls no callback. Accepts NULL. */
struct launch *launch_free(struct launch *l);
DEFINE_CLEANUP(struct launch *, launch_free)
