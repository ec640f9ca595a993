/* SPDX-License-Identifier: MIT */
#pragma once

/* SETUP: what makes a booted guest this machine and no other. */

#include "guest/device.h"
#include "guest/init.h"
#include "proto/agent.h"

struct machine {
	size_t done;   /* steps behind us */
	int own_fd;    /* owned: the own disk's root, outside of the new root */
	int cgroup_fd; /* owned: the commands' common node */
	bool fresh;    /* the own disk has never been written to */
	struct disks disks;
	struct devices devices;
};
#define MACHINE_INIT \
	{ \
		.own_fd = -EBADF, .cgroup_fd = -EBADF, .devices = DEVICES_INIT \
	}

/*
 * Goes through the steps that have not been done yet; entropy and clock are set each time.
 * *ret_what (owned) names the step that failed; the next call tries it again.
 */
int machine_setup(struct machine *m, const struct msg_setup *s, char **ret_what);
/* The steps that no answer to SETUP has to wait for; after it, before any command. */
void machine_finish(struct machine *m);
/* Writes everything out and makes the disks read-only. */
int machine_quiesce(struct machine *m, char **ret_what);
