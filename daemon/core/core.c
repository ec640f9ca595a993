/* SPDX-License-Identifier: MIT */
/*
 * Starts and ends the nouns together with the machines that they own. Called by manager.c.
 *
 * What must stay true: the lists exist, and the workspaces are loaded, before the first machine is,
 * since its commands become runs in them; and until the last machine is freed, since its runs and
 * those who wait for it are notified.
 */

#include "daemon/core/core-internal.h"

static const struct machine_owner *const owners[] = {
	&vm_owner,
	&run_owner,
	&workspace_owner,
	NULL,
};

int core_start(struct manager *m, struct error *err)
{
	int r;

	m->core = calloc(1, sizeof(*m->core));
	if (!m->core)
		return error_no_memory(err, "cannot load the machines");
	LIST_INIT(&m->core->runs);
	LIST_INIT(&m->core->creations);
	LIST_INIT(&m->core->operations);
	LIST_INIT(&m->core->commands);
	LIST_INIT(&m->core->puts);
	LIST_INIT(&m->core->listeners);
	TAILQ_INIT(&m->core->collectors);
	LIST_INIT(&m->core->workspaces);
	TAILQ_INIT(&m->core->failures);
	r = reaper_new(m, &m->core->reaper);
	if (r < 0)
		error_set_errno(err, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot load the machines");
	else
		r = workspaces_load(m, err);
	if (r >= 0)
		r = machines_new(m, owners, &m->machines, err);
	if (r >= 0)
		r = workspaces_join(m, err);
	if (r < 0) {
		core_end(m);
		return r;
	}
	reaper_update(m);
	return 0;
}

void core_end(struct manager *m)
{
	if (!m->core)
		return;
	m->core->ending = true;
	runs_end(m->core);
	creations_end(m->core);
	commands_end(m->core);
	listeners_end(m->core);
	m->machines = machines_free(m->machines);
	workspaces_free(m->core);
	sd_event_source_disable_unref(m->core->reaper);
	sd_event_source_disable_unref(m->core->changed);
	free(m->core);
	m->core = NULL;
}
