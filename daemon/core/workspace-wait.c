/* SPDX-License-Identifier: MIT */
/*
 * Those who wait for a workspace: for the end of its creation, for a state, or for its deletion.
 * Called by workspace.c and rpc/.
 *
 * What must stay true: each is notified once, or removed by workspace_unwait; states are looked at
 * in a later iteration of the loop than they change in, since the machine reports a change from
 * within it.
 */

#include "daemon/core/workspace-internal.h"

struct workspace_waiter {
	LIST_ENTRY(workspace_waiter) entry;
	struct workspace *ws; /* borrowed: whose list this is in */
	enum workspace_wait_kind kind;
	json_object *states;   /* owned or NULL: an array of names */
	sd_event_source *late; /* owned or NULL: ends the wait */
	machine_done_fn done;
	void *userdata;
};

static void waiter_free(struct workspace_waiter *w)
{
	LIST_REMOVE(w, entry);
	sd_event_source_disable_unref(w->late);
	json_object_put(w->states);
	free(w);
}

static void notify(struct workspace_waiter *w, const struct error *err)
{
	machine_done_fn done = w->done;
	void *userdata = w->userdata;

	waiter_free(w);
	if (done)
		done(err, userdata);
}

int workspace_add_waiter(struct workspace *ws, enum workspace_wait_kind kind, machine_done_fn done,
	void *userdata, struct workspace_waiter **ret)
{
	struct workspace_waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	*w = (struct workspace_waiter){
		.ws = ws, .kind = kind, .done = done, .userdata = userdata
	};
	LIST_INSERT_HEAD(&ws->waiters, w, entry);
	if (ret)
		*ret = w;
	return 0;
}

static struct workspace_waiter *next_of(struct workspace *ws, enum workspace_wait_kind kind)
{
	struct workspace_waiter *w;

	LIST_FOREACH (w, &ws->waiters, entry)
		if (w->kind == kind)
			return w;
	return NULL;
}

void workspace_notify(struct workspace *ws, enum workspace_wait_kind kind, const struct error *err)
{
	struct workspace_waiter *w;

	while ((w = next_of(ws, kind)))
		notify(w, err);
}

void workspace_unwait(struct workspace *ws, const void *userdata)
{
	struct workspace_waiter *w, *next;

	for (w = LIST_FIRST(&ws->waiters); w; w = next) {
		next = LIST_NEXT(w, entry);
		if (w->userdata == userdata)
			waiter_free(w);
	}
}

static bool is_in(const struct workspace *ws, json_object *states)
{
	const struct machine *mc = workspace_machine(ws);
	const char *state = mc ? machine_state_name(machine_state(mc)) : "";

	if (mc && !machine_is_settled(mc))
		return false; /* not committed yet */
	for (size_t i = 0; i < json_object_array_length(states); i++)
		if (streq(json_object_get_string(json_object_array_get_idx(states, i)), state))
			return true;
	return false;
}

/* Fails if it has failed, and is neither being started again nor deleted. */
static int check_hope(const struct workspace *ws, struct error *err)
{
	struct machine *mc = workspace_machine(ws);

	return mc && !machine_goes_up(mc) && !machine_goes_down(mc)
		       ? workspace_refuse_failed(mc, err)
		       : 0;
}

static void look(struct workspace *ws)
{
	struct workspace_waiter *w, *next;

	for (w = LIST_FIRST(&ws->waiters); w; w = next) {
		_cleanup_error_ struct error err = ERROR_INIT;

		next = LIST_NEXT(w, entry);
		if (w->kind != WORKSPACE_STATE)
			continue;
		if (is_in(ws, w->states))
			notify(w, NULL);
		else if (check_hope(ws, &err) < 0)
			notify(w, &err);
	}
}

static int on_changed(_unused_ sd_event_source *source, void *userdata)
{
	struct core *core = userdata;
	struct workspace *ws;

	LIST_FOREACH (ws, &core->workspaces, entry)
		look(ws);
	return 0;
}

void workspace_on_change(struct machine *mc)
{
	sd_event_source *changed = machine_manager(mc)->core->changed;

	(void)sd_event_source_set_enabled(changed, SD_EVENT_ONESHOT);
}

int workspace_waits_new(struct manager *m, sd_event_source **ret)
{
	int r = sd_event_add_defer(m->event, ret, on_changed, m->core);

	return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

static int on_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	notify(userdata, NULL);
	return 0;
}

int workspace_wait(struct workspace *ws, json_object *states, uint64_t wait_usec,
	machine_done_fn done, void *userdata, struct error *err)
{
	struct workspace_waiter *w;
	int r;

	if (is_in(ws, states))
		return 1;
	r = check_hope(ws, err);
	if (r < 0)
		return r;
	r = workspace_add_waiter(ws, WORKSPACE_STATE, done, userdata, &w);
	if (r < 0)
		return error_no_memory(err, "cannot wait for workspace %s", ws->row.id);
	w->states = json_object_get(states);
	if (wait_usec != UINT64_MAX)
		r = sd_event_add_time_relative(
			ws->m->event, &w->late, CLOCK_MONOTONIC, wait_usec, 0, on_late, w);
	if (r < 0) {
		waiter_free(w);
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot wait for workspace %s", ws->row.id);
	}
	return 0;
}
