/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One VMM process, from pyro-vmm's start to its last word. Above this nobody knows how it was started.
 */

#include "daemon/manager.h"

struct launch;

struct launch_spec {
	const char *id;          /* vm-... */
	const char *dir;         /* where launch.sock is, until the launcher has connected */
	uint32_t flags;          /* LAUNCH_* */
	const char *const *args; /* borrowed; args[0] is the VMM's absolute path */
	const int *fds;          /* borrowed, duplicated; become LAUNCH_FIRST_FD, ... */
	size_t n_fds;
};

struct launch_callbacks {
	/* Exactly once. status: exit status or -signal. reason: the last words of pyro-vmm or the VMM, escaped,
	 * or NULL; valid during the call. The launch must not be freed from here. */
	void (*on_exited)(struct launch *l, int status, const char *reason, void *userdata);
};

int launch_start(struct manager *m, const struct launch_spec *spec,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret, struct error *err);
/*
 * Takes over the watch of a process that an earlier daemon launched. pidfd is taken over on success; the
 * caller has verified whose it is. Its exit status cannot be known: on_exited says INT_MIN.
 */
int launch_adopt(struct manager *m, const char *id, pid_t pid, uint64_t start_time, int pidfd,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret);
/* Frees it and lets the process run on. Takes NULL. */
struct launch *launch_detach(struct launch *l);
void launch_kill(struct launch *l); /* SIGKILL by pidfd; on_exited follows */
pid_t launch_pid(const struct launch *l);
uint64_t launch_start_time(const struct launch *l); /* field 22 of /proc/PID/stat */
/* Kills what still runs, and has it reaped by the loop; no callback comes any more. Takes NULL. */
struct launch *launch_free(struct launch *l);
DEFINE_CLEANUP(struct launch *, launch_free)
