/* SPDX-License-Identifier: MIT */
/*
 * The last creations of workspaces that failed, and the error of a workspace that has failed. A
 * caller who was answered before the end of a creation asks for the workspace later, and learns here
 * why it does not exist. Called by workspace*.c.
 *
 * What must stay true: only the last FAILURES_MAX are kept, and only in memory.
 */

#include "daemon/core/workspace-internal.h"

enum { FAILURES_MAX = 64 };

struct workspace_failure {
	TAILQ_ENTRY(workspace_failure) entry;
	char id[16];
	uid_t owner_uid;
	char *name;       /* owned or NULL */
	struct error why; /* owned */
};

static void failure_free(struct core *core, struct workspace_failure *f)
{
	TAILQ_REMOVE(&core->failures, f, entry);
	error_clear(&f->why);
	free(f->name);
	free(f);
}

void workspace_note_failure(const struct workspace *ws, const struct error *why)
{
	struct core *core = ws->m->core;
	struct workspace_failure *f = calloc(1, sizeof(*f)), *last;
	unsigned n = 0;

	if (!f)
		return; /* only a better error is lost */
	memcpy(f->id, ws->row.id, sizeof(f->id));
	f->owner_uid = ws->row.owner_uid;
	f->name = ws->row.name ? strdup(ws->row.name) : NULL;
	(void)error_copy(&f->why, why);
	TAILQ_INSERT_HEAD(&core->failures, f, entry);
	TAILQ_FOREACH (last, &core->failures, entry)
		n++;
	if (n > FAILURES_MAX)
		failure_free(core, TAILQ_LAST(&core->failures, workspace_failures));
}

static bool is_named(const struct workspace_failure *f, const char *ref)
{
	return streq(f->id, ref) || (f->name && streq(f->name, ref));
}

void workspace_forget_failure(struct core *core, uid_t owner, const char *name)
{
	struct workspace_failure *f, *next;

	for (f = TAILQ_FIRST(&core->failures); f; f = next) {
		next = TAILQ_NEXT(f, entry);
		if (f->owner_uid == owner && f->name && streq(f->name, name))
			failure_free(core, f);
	}
}

const struct error *workspace_failure(const struct core *core, const char *ref, uid_t uid)
{
	const struct workspace_failure *f;

	TAILQ_FOREACH (f, &core->failures, entry)
		if ((uid == 0 || f->owner_uid == uid) && is_named(f, ref))
			return &f->why;
	return NULL;
}

int workspace_refuse_failed(const struct machine *mc, struct error *err)
{
	const char *why = machine_row(mc)->last_error;
	_cleanup_free_ char *fix = NULL;

	if (machine_state(mc) != MACHINE_FAILED)
		return 0;
	fix = str_printf("pyro workspace start %s", machine_id(mc));
	return error_set(err, ERROR_WRONG_STATE, why ? why : "its guest or its VMM ended",
		fix ? fix : "start it", "workspace %s has failed", machine_id(mc));
}

void workspace_failures_free(struct core *core)
{
	while (!TAILQ_EMPTY(&core->failures))
		failure_free(core, TAILQ_FIRST(&core->failures));
}
