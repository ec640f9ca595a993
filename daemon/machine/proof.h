/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Proofs that machines of this daemon have booted and run commands. A proof holds for one image,
 * kernel, initramfs (with its agent), VMM and accelerator, as they were then: another or a changed
 * file has no proof. A failed start removes its proof. Proofs end with the daemon.
 */

#include "daemon/config.h"
#include "daemon/manager.h"

struct proof {
	uint64_t booted_usec;   /* CLOCK_REALTIME; 0: not proven */
	uint64_t executed_usec; /* the same for a command that ran to its end */
};

/* Finds the proof for the image with the current kernel, agent and VMM and this accelerator. */
void proof_find(struct manager *m, const char *digest, enum accelerator a, struct proof *ret);
