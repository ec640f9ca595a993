/* SPDX-License-Identifier: MIT */
/*
 * Handlers of workspaces: create, list, status and delete. Called by the dispatcher, which has
 * checked the parameters and looked up the workspace.
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
		machine_call_progress(cc->call, phase, percent, NULL, workspace_id(ws));
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

int rpc_workspace_list(struct call *c, struct error *err)
{
	struct workspace_filter filter = {
		.uid = call_uid(c),
		.all = call_bool(c, "all_users"),
		.labels = call_value(c, "labels"),
	};
	json_object *o = NULL;
	int r;

	if (filter.all && call_uid(c) != 0)
		return error_set(err, ERROR_PERMISSION_DENIED,
			"only root may list other users' workspaces",
			"sudo pyro workspace list --all-users",
			"workspace.list with all_users=true is not permitted for uid %u",
			call_uid(c));
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

int rpc_workspace_delete(struct call *c, _unused_ struct error *err)
{
	struct workspace *ws = call_workspace(c);
	struct delete_call *d = delete_call_new(c, "workspace_id", workspace_id(ws));

	return delete_call_begin(d, d ? workspace_delete(ws, delete_call_done, d) : -ENOMEM);
}
