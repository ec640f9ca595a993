/* SPDX-License-Identifier: MIT */
/*
 * The workspace: a machine with a name, from its creation to its deletion. Called by rpc/, by its
 * machine as its owner, and by core.c.
 *
 * What must stay true: its row is committed before its machine's and deleted with it, or after a
 * creation that made no machine; its name is taken from the begin of its creation until both rows
 * are deleted; nothing is committed after that deletion was queued.
 */

#include "daemon/core/workspace.h"

#include "daemon/account.h"
#include "daemon/core/command.h"
#include "daemon/core/workspace-internal.h"
#include "daemon/crash.h"
#include "daemon/image/environment.h"
#include "daemon/log.h"
#include "proto/api.h"
#include "proto/limits.h"

static struct workspace *workspace_free(struct workspace *ws)
{
	if (!ws)
		return NULL;
	if (ws->entry.le_prev)
		LIST_REMOVE(ws, entry);
	workspace_row_done(&ws->row);
	workspace_row_done(&ws->saved);
	json_object_put(ws->labels);
	vm_row_done(&ws->made.plan);
	error_clear(&ws->made.failure);
	free(ws);
	return NULL;
}
DEFINE_CLEANUP(struct workspace *, workspace_free)

const char *workspace_id(const struct workspace *ws)
{
	return ws->row.id;
}

uid_t workspace_owner_uid(const struct workspace *ws)
{
	return ws->row.owner_uid;
}

struct manager *workspace_manager(const struct workspace *ws)
{
	return ws->m;
}

struct machine *workspace_machine(const struct workspace *ws)
{
	return ws->made.creation ? creation_machine(ws->made.creation) : ws->machine;
}

const char *workspace_phase(const struct workspace *ws, int *ret_percent)
{
	if (!ws->made.creation)
		return NULL;
	*ret_percent = ws->made.percent;
	return ws->made.phase;
}

static struct workspace *find_id(struct core *core, const char *id)
{
	struct workspace *ws;

	LIST_FOREACH (ws, &core->workspaces, entry)
		if (streq(ws->row.id, id))
			return ws;
	return NULL;
}

struct workspace *workspace_of(const struct machine *mc)
{
	return machine_owner(mc) == &workspace_owner
		       ? find_id(machine_manager(mc)->core, machine_id(mc))
		       : NULL;
}

/* Looking one up */

static bool visible(const struct workspace *ws, uid_t uid)
{
	return uid == 0 || ws->row.owner_uid == uid;
}

/* How well `ref` names ws; 0: not at all. The user's own name comes before another user's. */
static unsigned match(const struct workspace *ws, const char *ref, uid_t uid)
{
	if (!visible(ws, uid))
		return 0;
	if (streq(ws->row.id, ref))
		return 4;
	if (ws->row.name && streq(ws->row.name, ref))
		return ws->row.owner_uid == uid ? 3 : 2;
	return startswith(ws->row.id, ref) && strlen(ref) > strlen(workspace_owner.id_prefix);
}

static int not_made(const char *ref, const struct error *why, struct error *err)
{
	_cleanup_free_ char *cause = str_printf("its creation failed: %s%s%s",
		why->message ? why->message : error_code_name(why->code), why->cause ? ": " : "",
		why->cause ? why->cause : "");

	return error_set(err, ERROR_WORKSPACE_NOT_FOUND, cause,
		why->fix ? why->fix : "pyro workspace list", "workspace %s not found", ref);
}

int workspace_find(
	struct manager *m, const char *ref, uid_t uid, struct workspace **ret, struct error *err)
{
	_cleanup_free_ char *status = NULL;
	struct workspace *ws, *found = NULL;
	unsigned best = 0, n = 0;

	LIST_FOREACH (ws, &m->core->workspaces, entry) {
		unsigned how = match(ws, ref, uid);

		if (how > best) {
			best = how;
			found = ws;
			n = 0;
		}
		n += how > 0 && how == best;
	}
	if (n == 1) {
		*ret = found;
		return 0;
	}
	if (n == 0 && workspace_failure(m->core, ref, uid))
		return not_made(ref, workspace_failure(m->core, ref, uid), err);
	if (startswith(ref, vm_owner.id_prefix))
		status = str_printf("pyro vm status %s", ref);
	return error_set(err, ERROR_WORKSPACE_NOT_FOUND,
		n > 1    ? "it matches several workspaces"
		: status ? "it is the id of a machine"
			 : "it does not exist, or it was deleted",
		status   ? status
		: n == 0 ? "pyro workspace list"
		: uid    ? "pyro workspace list"
			 : "pyro workspace list --all-users",
		"workspace %s not found", ref);
}

/* Its end */

/* ended: how those who wait for the deletion are answered. */
static void end(struct workspace *ws, const struct error *why, const struct error *ended)
{
	_cleanup_(workspace_freep) struct workspace *last = ws;

	LIST_REMOVE(last, entry);
	last->entry.le_prev = NULL;
	if (last->made.cb.on_done)
		last->made.cb.on_done(last, why, last->made.userdata);
	workspace_end_saves(last, why);
	workspace_notify(last, WORKSPACE_CREATED, why);
	workspace_notify(last, WORKSPACE_STATE, why);
	workspace_notify(last, WORKSPACE_DELETED, ended);
}

static void on_machine_state(struct machine *mc, bool deleted)
{
	struct workspace *ws = workspace_of(mc);
	_cleanup_error_ struct error why = ERROR_INIT;

	if (deleted)
		commands_deleted(mc);
	else
		workspace_on_change(mc); /* its error is complete only now */
	if (!deleted || !ws || ws->machine != mc)
		return; /* or its creation has failed: on_made came before this */
	error_cancelled(&why,
		"its deletion was requested; its processes have ended and its disk "
		"is deleted",
		"workspace %s was deleted", ws->row.id);
	end(ws, &why, NULL);
}

const struct machine_owner workspace_owner = {
	.noun = "workspace",
	.command = "pyro workspace",
	.id_prefix = "ws-",
	.id_name = "WORKSPACE",
	.log_field = "PYRO_WORKSPACE",
	.remains = REMAINS_DISK,
	.on_change = workspace_on_change,
	.on_state = on_machine_state,
	.on_pause = commands_on_pause,
	.adopt_exec = commands_adopt,
};

/* Its creation */

static void on_progress(const struct pull_progress *p, void *userdata)
{
	struct workspace *ws = userdata;

	(void)snprintf(ws->made.phase, sizeof(ws->made.phase), "%s", p->phase);
	ws->made.percent = p->percent;
	if (ws->made.cb.on_progress && ws->made.cb.on_done)
		ws->made.cb.on_progress(ws, ws->made.userdata);
}

static void on_row_deleted(int r, const struct error *err, void *userdata)
{
	struct workspace *ws = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	if (r < 0)
		log_uid(LOG_ERR, r, ws->row.owner_uid,
			"cannot delete the record of workspace %s, which the next start will do: %s",
			ws->row.id, err && err->cause ? err->cause : "the store refused the write");
	error_move(&why, &ws->made.failure);
	if (why.code != ERROR_CANCELLED)
		workspace_note_failure(ws, &why);
	end(ws, &why, NULL);
}

void workspace_on_saved(struct workspace *ws)
{
	if (ws->made.row_stays && LIST_EMPTY(&ws->saves))
		on_row_deleted(-ENOMEM, NULL, ws);
}

static void on_made(struct machine *mc, const struct error *err, void *userdata)
{
	struct workspace *ws = userdata;
	struct workspace_callbacks cb = ws->made.cb;
	int r;

	crash_point();
	ws->made.creation = NULL;
	ws->machine = mc;
	if (mc) { /* with err: it could not be removed, and can be deleted again */
		error_clear(&ws->made.failure);
		ws->made.cb.on_done = NULL;
		cb.on_done(ws, err, ws->made.userdata);
		workspace_notify(ws, WORKSPACE_CREATED, err);
		if (err)
			workspace_notify(ws, WORKSPACE_DELETED, err);
		return;
	}
	if (!ws->made.failure.set)
		(void)error_copy(&ws->made.failure, err);
	if (ws->m->core->ending) { /* the next daemon decides by the rows */
		end(ws, err, err);
		return;
	}
	r = store_workspace_delete(ws->m->store, ws->row.id, on_row_deleted, ws);
	ws->made.row_stays = r < 0;
	workspace_on_saved(ws);
}

static void on_row(int r, const struct error *err, void *userdata)
{
	struct workspace *ws = userdata;

	if (r >= 0 || ws->made.failure.set)
		return;
	(void)error_copy(&ws->made.failure, err);
	error_set_errno(&ws->made.failure, ERROR_INTERNAL, r, "look at pyrod's journal",
		"cannot save the workspace's record");
	workspace_cancel(ws);
}

/* Bounds the workspaces that wait for a pull: without a machine they are in no quota. */
static int check_waiting(struct manager *m, uid_t uid, struct error *err)
{
	uid_t account = accounts_find(m->accounts, uid);
	char who[ACCOUNT_TEXT_SIZE];
	const struct workspace *ws;
	unsigned n = 0;

	LIST_FOREACH (ws, &m->core->workspaces, entry)
		n += !workspace_machine(ws) &&
		     accounts_find(m->accounts, ws->row.owner_uid) == account;
	if (n < LIMIT_WORKSPACES_WAITING)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, "they wait for an environment",
		"wait until one of them is created, or delete it: pyro workspace list",
		"%s %u workspaces that wait without a machine, which is the limit",
		account_has(account, who), n);
}

static int fill_row(struct workspace *ws, const struct workspace_spec *spec)
{
	const struct machine_spec *ms = &spec->machine;
	struct vm_row *plan = &ws->made.plan;
	const char *text;

	api_new_id(workspace_owner.id_prefix, ws->row.id);
	ws->row.owner_uid = ms->owner_uid;
	ws->row.name = spec->name ? strdup(spec->name) : NULL;
	ws->labels = spec->labels ? json_object_get(spec->labels) : json_object_new_object();
	text = json_object_to_json_string_ext(ws->labels, JSON_C_TO_STRING_PLAIN);
	ws->row.labels = text ? strdup(text) : NULL;
	*plan = (struct vm_row){
		.environment = strdup(ms->environment),
		.owner_uid = ms->owner_uid,
		.vcpu_count = ms->vcpu_count,
		.mem_mib = ms->mem_mib,
		.disk_mib = ms->disk_mib,
		.ttl_seconds = ms->ttl_seconds,
		.created_usec = wall_usec(),
	};
	plan->active_usec = plan->created_usec;
	(void)snprintf(ws->made.phase, sizeof(ws->made.phase), "create");
	ws->made.percent = -1;
	return ws->row.labels && plan->environment && (ws->row.name || !spec->name) ? 0 : -ENOMEM;
}

static int check_new(struct manager *m, const struct workspace_spec *spec, struct error *err)
{
	_cleanup_free_ char *env = shell_quote(spec->machine.environment);
	int r = spec->labels ? workspace_check_labels(spec->labels, err) : 0;

	if (r >= 0 && !env)
		r = -ENOMEM;
	if (r >= 0 && spec->name)
		r = workspace_check_name(m->core, spec->machine.owner_uid, spec->name,
			"pyro workspace create --name ", env, err);
	return r < 0 ? r : check_waiting(m, spec->machine.owner_uid, err);
}

int workspace_create(struct manager *m, const struct workspace_spec *spec,
	const struct workspace_callbacks *cb, void *userdata, struct workspace **ret,
	struct error *err)
{
	static const struct creation_callbacks made = { on_progress, on_made };
	_cleanup_(workspace_freep) struct workspace *ws = calloc(1, sizeof(*ws));
	struct machine_spec machine = spec->machine;
	int r = check_new(m, spec, err);

	if (r < 0)
		return r;
	r = ws ? fill_row(ws, spec) : -ENOMEM;
	if (r < 0)
		return error_no_memory(err, "cannot create a workspace");
	ws->m = m;
	LIST_INIT(&ws->waiters);
	LIST_INIT(&ws->saves);
	machine.owner = &workspace_owner;
	machine.id = ws->row.id;
	machine.whole = true;
	r = creation_start(m, &machine, &made, ws, &ws->made.creation, err);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&m->core->workspaces, ws, entry);
	ws->made.cb = *cb;
	ws->made.userdata = userdata;
	if (ws->row.name)
		workspace_forget_failure(m->core, ws->row.owner_uid, ws->row.name);
	r = workspace_save(
		ws, on_row, ws); /* before the machine's row: the store keeps the order */
	if (r < 0) {
		error_no_memory(&ws->made.failure, "cannot save the workspace's record");
		creation_cancel(ws->made.creation); /* on_made follows */
	}
	*ret = TAKE_PTR(ws);
	return 0;
}

void workspace_cancel(struct workspace *ws)
{
	if (ws->made.creation)
		creation_cancel(ws->made.creation);
}

/* Requests */

static int fail_not_made(const struct workspace *ws, const char *verb, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro workspace delete %s", ws->row.id);

	return error_set(err, ERROR_WRONG_STATE, "it is still being created", fix,
		"workspace %s cannot be %s", ws->row.id, verb);
}

int workspace_start(struct workspace *ws, machine_done_fn done, void *userdata, struct error *err)
{
	struct machine *mc = workspace_machine(ws);
	int r;

	if (mc)
		return machine_boot(mc, done, userdata, err);
	r = workspace_add_waiter(ws, WORKSPACE_CREATED, done, userdata, NULL);
	return r < 0 ? error_no_memory(err, "cannot wait for workspace %s", ws->row.id) : 0;
}

int workspace_stop(struct workspace *ws, const char *reason, bool now, machine_done_fn done,
	void *userdata, struct error *err)
{
	struct machine *mc = workspace_machine(ws);
	int r = mc ? machine_stop(mc, reason, done, userdata, err)
		   : fail_not_made(ws, "stopped", err);

	if (r == 0 && now)
		machine_stop_now(mc);
	return r;
}

int workspace_delete(struct workspace *ws, machine_done_fn done, void *userdata)
{
	int r;

	if (!ws->made.creation && !ws->made.failure.set)
		return machine_delete(ws->machine, "its deletion was requested", done, userdata);
	r = workspace_add_waiter(ws, WORKSPACE_DELETED, done, userdata, NULL);
	if (r >= 0)
		workspace_cancel(ws);
	return r;
}

/* Loading and freeing all of them */

static int load_row(struct manager *m, const struct workspace_row *row)
{
	_cleanup_(workspace_freep) struct workspace *ws = calloc(1, sizeof(*ws));
	int r = ws ? workspace_row_copy(&ws->row, row) : -ENOMEM;

	if (r >= 0)
		r = workspace_row_copy(&ws->saved, row);
	if (r < 0)
		return r;
	ws->m = m;
	LIST_INIT(&ws->waiters);
	LIST_INIT(&ws->saves);
	ws->labels = workspace_parse_labels(row->labels);
	if (!ws->labels) {
		log_uid(LOG_ERR, 0, row->owner_uid, "the labels of workspace %s cannot be read",
			row->id);
		ws->labels = json_object_new_object();
	}
	if (!ws->labels)
		return -ENOMEM;
	LIST_INSERT_HEAD(&m->core->workspaces, ws, entry);
	(void)TAKE_PTR(ws);
	return 0;
}

int workspaces_load(struct manager *m, struct error *err)
{
	struct workspace_row *rows = NULL;
	size_t n = 0;
	int r = workspace_waits_new(m, &m->core->changed);

	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot load the workspaces");
	r = store_workspace_repair(m->store, err);
	if (r > 0)
		log_warning("%d workspaces had no record of their name and labels, and have none "
			    "now",
			r);
	if (r >= 0)
		r = store_workspace_load(m->store, &rows, &n, err);
	for (size_t i = 0; i < n; i++) {
		if (r >= 0)
			r = load_row(m, &rows[i]);
		workspace_row_done(&rows[i]);
	}
	free(rows);
	return r < 0 ? error_set_errno(err, error_code_for_errno(r), r, "look at pyrod's journal",
			       "cannot load the workspaces")
		     : 0;
}

int workspaces_join(struct manager *m, struct error *err)
{
	struct machine *mc;

	for (mc = machines_next(m->machines, NULL); mc; mc = machines_next(m->machines, mc)) {
		struct workspace *ws = workspace_of(mc);

		if (ws)
			ws->machine = mc;
		else if (machine_owner(mc) == &workspace_owner)
			return error_internal(err, "its record was not loaded",
				"workspace %s is not known", machine_id(mc));
	}
	return 0;
}

void workspaces_free(struct core *core)
{
	struct workspace *ws;

	workspace_failures_free(core);

	while ((ws = LIST_FIRST(&core->workspaces))) {
		_cleanup_error_ struct error why = ERROR_INIT;

		error_cancelled(&why, "pyrod is stopping", "waiting for workspace %s was cancelled",
			ws->row.id);
		end(ws, &why, &why);
	}
}
