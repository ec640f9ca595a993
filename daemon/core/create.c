/* SPDX-License-Identifier: MIT */
/*
 * vm.create and workspace.create, from request to machine. Called by rpc/vm.c and workspace.c.
 *
 * What must stay true: on_done is called once, in a later iteration of the loop than
 * creation_start; a cancelled creation leaves nothing.
 */

#include "daemon/core/create.h"

#include "daemon/core/core-internal.h"
#include "daemon/image/environment.h"
#include "proto/api.h"

struct creation {
	struct manager *m; /* borrowed */
	struct creation_callbacks cb;
	void *userdata;
	struct machine_spec spec; /* its strings are the next members */
	char *environment;        /* owned */
	char id[API_ID_SIZE];
	struct pull_wait *pull;  /* owned */
	struct machine *machine; /* borrowed; NULL before it is made */
	sd_event_source *later;  /* owned: calls finish() from the loop */
	struct error err;        /* owned */
	bool listed;
	LIST_ENTRY(creation) entry;
};

static struct creation *creation_free(struct creation *c)
{
	if (!c)
		return NULL;
	if (c->listed)
		LIST_REMOVE(c, entry);
	pull_wait_free(c->pull);
	sd_event_source_disable_unref(c->later);
	error_clear(&c->err);
	free(c->environment);
	free(c);
	return NULL;
}
DEFINE_CLEANUP(struct creation *, creation_free)

static void finish(struct creation *c, struct machine *mc, const struct error *err)
{
	_cleanup_(creation_freep) struct creation *last = c;

	last->cb.on_done(mc, err, last->userdata);
}

static int on_later(_unused_ sd_event_source *source, void *userdata)
{
	struct creation *c = userdata;

	finish(c, NULL, &c->err);
	return 0;
}

static void fail_later(struct creation *c, const struct error *err)
{
	(void)error_copy(&c->err, err);
	(void)sd_event_source_set_enabled(c->later, SD_EVENT_ONESHOT);
}

static void report(struct creation *c, const char *phase)
{
	const struct pull_progress p = { .phase = phase, .percent = -1 };

	c->cb.on_progress(&p, c->userdata);
}

static void on_launch(_unused_ struct machine *mc, void *userdata)
{
	report(userdata, "start");
}

static void on_created(struct machine *mc, const struct error *err, void *userdata)
{
	/* One that nothing is left of is freed next. */
	finish(userdata, err && machine_state(mc) != MACHINE_UNKNOWN ? NULL : mc, err);
}

static void on_pull_progress(const struct pull_progress *p, void *userdata)
{
	struct creation *c = userdata;

	if (!streq(p->phase, "ready"))
		c->cb.on_progress(p, c->userdata);
}

static void on_pulled(const struct error *err, void *userdata)
{
	static const struct machine_callbacks cb = {
		.on_launch = on_launch,
		.on_started = on_created,
	};
	struct creation *c = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	c->pull = pull_wait_free(c->pull);
	if (err)
		(void)error_copy(&why, err);
	else if (c->spec.whole)
		report(c, "create");
	if (err || machine_start(c->m->machines, &c->spec, &cb, c, &c->machine, &why) < 0)
		fail_later(c, &why);
}

static int begin(struct creation *c, struct error *err)
{
	struct environment *env;
	int r = environments_find(c->m->environments, c->environment, &env, err);

	if (r < 0)
		return r;
	r = sd_event_add_defer(c->m->event, &c->later, on_later, c);
	if (r >= 0)
		r = sd_event_source_set_enabled(c->later, SD_EVENT_OFF);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot create a machine");
	return environment_pull(env, PULL_FOR_USE, on_pull_progress, on_pulled, c, &c->pull, err);
}

int creation_start(struct manager *m, const struct machine_spec *spec,
	const struct creation_callbacks *cb, void *userdata, struct creation **ret,
	struct error *err)
{
	_cleanup_(creation_freep) struct creation *c = calloc(1, sizeof(*c));
	int r;

	if (c)
		c->environment = strdup(spec->environment);
	if (!c || !c->environment)
		return error_no_memory(err, "cannot create a machine");
	c->m = m;
	c->cb = *cb;
	c->userdata = userdata;
	c->spec = *spec;
	c->spec.environment = c->environment;
	if (!spec->owner)
		c->spec.owner = &vm_owner;
	if (spec->id) {
		(void)snprintf(c->id, sizeof(c->id), "%s", spec->id);
		c->spec.id = c->id;
	}
	r = begin(c, err);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&m->core->creations, c, entry);
	c->listed = true;
	*ret = TAKE_PTR(c);
	return 0;
}

struct machine *creation_machine(const struct creation *c)
{
	return c->machine;
}

void creation_cancel(struct creation *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (c->machine) {
		(void)machine_delete(
			c->machine, "its caller asked for it", NULL, NULL); /* on_created follows */
		return;
	}
	if (c->err.set)
		return;
	c->pull = pull_wait_free(c->pull);
	error_cancelled(&err, "its caller asked for it; no machine was created",
		"the creation was cancelled");
	fail_later(c, &err);
}

/* The next daemon removes a machine that is being made. */
void creations_end(struct core *core)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct creation *c;

	error_cancelled(&err, "pyrod is stopping", "the creation was interrupted");
	while ((c = LIST_FIRST(&core->creations)))
		finish(c, NULL, &err);
}
