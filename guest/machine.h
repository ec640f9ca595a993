/* SPDX-License-Identifier: MIT */
#pragma once

/* SETUP: turns a booted guest into this machine. */

#include "guest/device.h"
#include "guest/init.h"
#include "proto/agent.h"

struct machine {
	size_t done;   /* number of steps done */
	int own_fd;    /* owned: the own disk's root, outside the new root */
	int cgroup_fd; /* owned: the common cgroup of the commands */
	bool fresh;    /* the own disk has never been written to */
	struct disks disks;
	struct devices devices;
};
#define MACHINE_INIT \
	{ \
		.own_fd = -EBADF, .cgroup_fd = -EBADF, .devices = DEVICES_INIT \
	}

/*
 * Runs the steps that are not done yet; sets entropy and clock each time. *ret_what (owned) names
 * the failed step, which the next call repeats.
 */
int machine_setup(struct machine *m, const struct msg_setup *s, char **ret_what);
/* Runs the late steps, after SETUP was answered and before any command. */
void machine_finish(struct machine *m);
/* Syncs all file systems and makes the disks read-only. */
int machine_quiesce(struct machine *m, char **ret_what);
