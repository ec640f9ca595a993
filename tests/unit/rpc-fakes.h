/* SPDX-License-Identifier: MIT */
#pragma once

/* What the fakes of rpc-fakes.c have recorded, and the callbacks with which a test ends their
 * work. */

#include "daemon/core/create.h"
#include "daemon/core/run.h"
#include "daemon/core/vm.h"
#include "daemon/image/environment.h"

struct fake {
	struct run_callbacks cb;
	void *userdata;
	int stdio_fd;
	int64_t ttl;
	uid_t uid;
	char env[64];
	int runs, abandoned, freed, waits_freed;
	char machine_id[16]; /* of the one machine; "" when there is none */
	uid_t found_as;      /* the uid of the last look-up of a machine or command */
	int signo;
	machine_done_fn state_done; /* of a start or stop */
	void *state_userdata;
	bool installed; /* the only environment is installed */
	bool vmm_usable;
	int reads; /* of its image */
	integrity_done_fn read_done;
	void *read_userdata;
	bool cancel_late; /* the result comes just before run_cancel */
	struct creation_callbacks creation;
	void *creation_userdata;
	int creations;
	reap_done_fn reap_done;
	void *reap_userdata;
	pull_progress_fn pull_progress;
	pull_done_fn pull_done;
	void *pull_userdata;
};
extern struct fake fake;
