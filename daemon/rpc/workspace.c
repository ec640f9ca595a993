/* SPDX-License-Identifier: MIT */
/*
 * Handlers of workspaces: create, list, status, start, stop, wait, update, share and delete. Called
 * by the dispatcher, which has checked the parameters and looked up the workspace.
 *
 * What must stay true: a creation goes on without its caller, and ends when it is cancelled before
 * its answer; each call is answered once.
 */

#include "daemon/core/workspace.h"
#include "daemon/rpc/call.h"
#include "daemon/rpc/machine-call.h"

static void reply_workspace(struct call *c, const struct workspace *ws)
{
	json_object *o = NULL;
	int r = workspace_json(ws, &o);

	machine_call_reply(c, r, o);
}

/* The call of a creation. It lives as long as the creation, and may be answered before its end. */
struct create_call {
	struct call *call;           /* borrowed; NULL: answered */
	struct workspace *workspace; /* borrowed */
	sd_event_source *late;       /* owned or NULL: answers the call by then */
};

static void create_call_free(struct create_call *cc)
{
	sd_event_source_disable_unref(cc->late);
	free(cc);
}

static void on_create_progress(struct workspace *ws, void *userdata)
{
	struct create_call *cc = userdata;
	int percent = -1;
	const char *phase = workspace_phase(ws, &percent);

	if (cc->call && phase)
		machine_call_progress(cc->call,
			&(struct machine_progress){ .phase = phase,
				.percent = percent,
				.workspace_id = workspace_id(ws),
				.mc = streq(phase, "start") ? workspace_machine(ws) : NULL });
}

static void on_create_done(struct workspace *ws, const struct error *err, void *userdata)
{
	struct create_call *cc = userdata;

	if (cc->call && err)
		call_fail(cc->call, err);
	else if (cc->call)
		reply_workspace(cc->call, ws);
	create_call_free(cc);
}

static void on_create_cancel(_unused_ struct call *c, _unused_ enum call_end why, void *userdata)
{
	struct create_call *cc = userdata;

	cc->late = sd_event_source_disable_unref(cc->late);
	workspace_cancel(cc->workspace); /* on_create_done follows */
}

/* wait_ms has passed. The creation goes on. */
static int on_create_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct create_call *cc = userdata;

	reply_workspace(TAKE_PTR(cc->call), cc->workspace);
	return 0;
}

static int set_late(struct create_call *cc)
{
	struct call *c = cc->call;

	if (!call_given(c, "wait_ms"))
		return 0;
	return sd_event_add_time_relative(call_manager(c)->event, &cc->late, CLOCK_MONOTONIC,
		(uint64_t)call_int(c, "wait_ms") * USEC_PER_MSEC, 0, on_create_late, cc);
}

int rpc_workspace_create(struct call *c, struct error *err)
{
	static const struct workspace_callbacks cb = { on_create_progress, on_create_done };
	struct workspace_spec spec = {
		.name = call_str(c, "name"),
		.labels = call_value(c, "labels"),
	};
	struct create_call *cc;
	int r = machine_call_spec(c, -1, &spec.machine, err);

	if (r < 0)
		return r;
	cc = calloc(1, sizeof(*cc));
	if (!cc)
		return -ENOMEM;
	cc->call = c;
	r = set_late(cc);
	if (r >= 0)
		r = workspace_create(call_manager(c), &spec, &cb, cc, &cc->workspace, err);
	if (r < 0) {
		create_call_free(cc);
		return r;
	}
	call_keep_on(c, on_create_cancel, cc);
	return 0;
}

/* Sets whose workspaces are listed. */
static int set_owners(struct call *c, struct workspace_filter *f, struct error *err)
{
	bool given = call_given(c, "owner");

	f->all = call_bool(c, "all_users");
	f->uid = given ? (uid_t)call_int(c, "owner") : call_uid(c);
	if (f->all && given)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "leave one of them out",
			"all_users and owner exclude each other");
	if (call_uid(c) == 0 || (!f->all && f->uid == call_uid(c)))
		return 0;
	return error_set(err, ERROR_PERMISSION_DENIED, "only root may list other users' workspaces",
		"sudo pyro workspace list --all-users",
		"workspace.list of other users' workspaces is not permitted for uid %u",
		call_uid(c));
}

int rpc_workspace_list(struct call *c, struct error *err)
{
	struct workspace_filter filter = { .labels = call_value(c, "labels") };
	json_object *o = NULL;
	int r = set_owners(c, &filter, err);

	if (r < 0)
		return r;
	r = workspace_list_json(call_manager(c), &filter, &o);
	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

int rpc_workspace_status(struct call *c, _unused_ struct error *err)
{
	reply_workspace(c, call_workspace(c));
	return 0;
}

static void reply_state(struct call *c)
{
	reply_workspace(c, call_workspace(c));
}

int rpc_workspace_start(struct call *c, struct error *err)
{
	struct workspace *ws = call_workspace(c);
	struct state_call *sc = state_call_new(c, workspace_id(ws), reply_state, NULL);

	return state_call_begin(sc, sc ? workspace_start(ws, state_call_done, sc, err) : -ENOMEM);
}

int rpc_workspace_stop(struct call *c, struct error *err)
{
	struct workspace *ws = call_workspace(c);
	struct state_call *sc = state_call_new(c, workspace_id(ws), reply_state, NULL);

	return state_call_begin(sc, sc ? workspace_stop(ws, call_str(c, "reason"),
						 call_bool(c, "force"), state_call_done, sc, err)
				       : -ENOMEM);
}

/* A call of workspace.wait. It ends with its connection. */
struct wait_call {
	struct call *call;           /* borrowed */
	struct workspace *workspace; /* borrowed: its waiters are notified before its end */
};

static void on_waited(const struct error *err, void *userdata)
{
	_cleanup_free_ struct wait_call *w = userdata;

	if (err)
		call_fail(w->call, err);
	else
		reply_workspace(w->call, w->workspace);
}

static void on_wait_end(struct call *c, enum call_end why, void *userdata)
{
	_cleanup_free_ struct wait_call *w = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;

	workspace_unwait(w->workspace, w);
	if (why == CALL_GONE)
		return;
	error_cancelled(&err, "its caller asked for it; the workspace is unchanged",
		"waiting for workspace %s was cancelled", workspace_id(w->workspace));
	call_fail(c, &err);
}

int rpc_workspace_wait(struct call *c, struct error *err)
{
	_cleanup_free_ struct wait_call *w = calloc(1, sizeof(*w));
	struct workspace *ws = call_workspace(c);
	json_object *states = call_value(c, "states");
	uint64_t usec = UINT64_MAX;
	int r;

	if (!w)
		return -ENOMEM;
	if (json_object_array_length(states) == 0)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"send \"states\": [\"started\"]", "states names no state");
	if (call_given(c, "wait_ms"))
		usec = (uint64_t)call_int(c, "wait_ms") * USEC_PER_MSEC;
	*w = (struct wait_call){ .call = c, .workspace = ws };
	r = workspace_wait(ws, states, usec, on_waited, w, err);
	if (r < 0)
		return r;
	if (r > 0)
		reply_workspace(c, ws);
	else
		call_keep(c, on_wait_end, TAKE_PTR(w));
	return 0;
}

static void on_changed(int r, const struct error *err, void *userdata)
{
	state_call_done(r < 0 ? err : NULL, userdata);
}

static int change(struct call *c, const struct workspace_change *what, struct error *err)
{
	struct workspace *ws = call_workspace(c);
	struct state_call *sc = state_call_new(c, workspace_id(ws), reply_state, NULL);

	return state_call_begin(sc, sc ? workspace_update(ws, what, on_changed, sc, err) : -ENOMEM);
}

int rpc_workspace_update(struct call *c, struct error *err)
{
	struct workspace_change what = {
		.name = call_str(c, "name"),
		.clear_name = call_bool(c, "clear_name"),
		.labels = call_value(c, "labels"),
		.clear_labels = call_value(c, "clear_labels"),
	};

	if (what.name && what.clear_name)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "leave one of them out",
			"name and clear_name exclude each other");
	return change(c, &what, err);
}

int rpc_workspace_share(struct call *c, struct error *err)
{
	return change(c, &(struct workspace_change){ .share = true }, err);
}

int rpc_workspace_delete(struct call *c, _unused_ struct error *err)
{
	struct workspace *ws = call_workspace(c);
	struct delete_call *d = delete_call_new(c, "workspace_id", workspace_id(ws));

	return delete_call_begin(d, d ? workspace_delete(ws, delete_call_done, d) : -ENOMEM);
}
