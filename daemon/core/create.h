/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * vm.create: a machine that does not run yet. Pull if need be, then row, directory and disk.
 */

#include "daemon/machine/machine.h"

struct creation;
struct pull_progress;

struct creation_callbacks {
	void (*on_progress)(const struct pull_progress *p, void *userdata);
	/* Called once: mc is created and committed (borrowed during the call), or NULL with err
	 * and nothing left. */
	void (*on_done)(struct machine *mc, const struct error *err, void *userdata);
};

/* The creation frees itself after on_done. spec->owner is set here. */
int creation_start(struct manager *m, const struct machine_spec *spec,
	const struct creation_callbacks *cb, void *userdata, struct creation **ret,
	struct error *err);
/* Cancels the creation: on_done follows with `cancelled`, unless it is done already. */
void creation_cancel(struct creation *c);
