/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What machines of this daemon have shown. A proof holds for one image, kernel, initramfs (and with it the agent),
 * VMM and accelerator, as they were when a machine did it: another file, or a file that has changed, has no proof. A
 * start that fails takes its proof back. None of it outlives the daemon.
 */

#include "daemon/config.h"
#include "daemon/manager.h"

struct proof {
	uint64_t booted_usec;   /* CLOCK_REALTIME; 0: not shown */
	uint64_t executed_usec; /* the same for a command that ran to its end */
};

/* Of the image with the current kernel, today's agent and VMM, and this accelerator. */
void proof_find(struct manager *m, const char *digest, enum accelerator a, struct proof *ret);
