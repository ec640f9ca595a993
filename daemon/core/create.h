/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * vm.create and workspace.create: a machine that stays. Pull if need be, then row, directory and
 * disk, and for a workspace its first boot.
 */

#include "daemon/machine/machine.h"

struct creation;
struct pull_progress;

struct creation_callbacks {
	/* A pull's phases; then "create" and "start" if spec->whole. */
	void (*on_progress)(const struct pull_progress *p, void *userdata);
	/* Called once. err NULL: mc is created (booted if spec->whole) and committed. Else mc is
	 * NULL and nothing is left of it, or it could not be removed and is `unknown`. */
	void (*on_done)(struct machine *mc, const struct error *err, void *userdata);
};

/* The creation frees itself after on_done. spec->owner NULL: a machine of the noun vm. The strings
 * of spec are copied. */
int creation_start(struct manager *m, const struct machine_spec *spec,
	const struct creation_callbacks *cb, void *userdata, struct creation **ret,
	struct error *err);
/* NULL: not before the pull is complete. */
struct machine *creation_machine(const struct creation *c);
/* Cancels the creation: on_done follows with `cancelled`, unless it is done already. */
void creation_cancel(struct creation *c);
