/* SPDX-License-Identifier: MIT */
/*
 * Handlers of environments: list, inspect, pull, prune. Called by the dispatcher, which has looked
 * up the environment. What must stay true: a pull belongs to no caller, so one that disconnects or
 * cancels only stops waiting; removing or replacing shared environments needs the administrator's
 * right.
 */

#include "daemon/machine/machine.h"
#include "daemon/image/environment.h"
#include "daemon/log.h"
#include "daemon/rpc/call.h"

/* One caller waiting for a pull. */
struct env_wait {
	struct call *call;       /* borrowed */
	struct pull_wait *wait;  /* owned */
	struct environment *env; /* borrowed: the catalog's */
};

static void env_wait_free(struct env_wait *w)
{
	pull_wait_free(w->wait);
	free(w);
}
DEFINE_CLEANUP(struct env_wait *, env_wait_free)

static int reply_list(struct call *c)
{
	json_object *o = NULL;
	int r = environments_list_json(call_manager(c)->environments, &o);
	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

int rpc_env_list(struct call *c, _unused_ struct error *err)
{
	return reply_list(c);
}

int rpc_vm_list_environments(struct call *c, _unused_ struct error *err)
{
	return reply_list(c);
}

int rpc_env_inspect(struct call *c, _unused_ struct error *err)
{
	json_object *o = NULL;
	int r = environment_json(call_environment(c), &o);
	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

static void on_pull_progress(const struct pull_progress *p, void *userdata)
{
	struct env_wait *w = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!o || json_add_str(o, "phase", p->phase) < 0 ||
		json_add_str(o, "environment", environment_name(w->env)) < 0 ||
		json_add(o, "percent", p->percent < 0 ? NULL : json_object_new_int(p->percent)) <
			0 ||
		json_add_str(o, "detail", p->detail) < 0)
		return; /* progress may be dropped */
	call_progress(w->call, TAKE_PTR(o));
}

static void on_pull_done(const struct error *err, void *userdata)
{
	_cleanup_(env_wait_freep) struct env_wait *w = userdata;
	_cleanup_error_ struct error failed = ERROR_INIT;
	json_object *o = NULL;
	if (err && err->set) {
		call_fail(w->call, err);
		return;
	}
	int r = environment_json(w->env, &o);
	if (r < 0) {
		(void)error_set_errno(&failed, error_code_for_errno(r), r, NULL,
			"%s is installed, but cannot be described", environment_name(w->env));
		call_fail(w->call, &failed);
		return;
	}
	call_reply(w->call, o);
}

/* Ends only the wait for the pull, whether the caller cancelled or disconnected. */
static void on_pull_end(struct call *c, enum call_end why, void *userdata)
{
	_cleanup_(env_wait_freep) struct env_wait *w = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	if (why == CALL_GONE)
		return; /* no client to answer; nothing must be left over */
	(void)error_cancelled(&err, "its caller asked for it; the pull itself continues",
		"waiting for %s was cancelled", environment_name(w->env));
	call_fail(c, &err);
}

/* Only an administrator may force a pull of an intact environment, since all users share it. */
static int check_force(struct call *c, struct error *err)
{
	struct environment *env = call_environment(c);
	_cleanup_free_ char *cause = NULL, *command = NULL;
	if (!environment_installed(env))
		return 0;
	cause = str_printf(
		"%s is installed and not known to be damaged; only root and group pyro-admin "
		"may rebuild it for everybody",
		environment_name(env));
	command = str_printf("pyro env pull --force %s", environment_name(env));
	return call_require_admin(c, "env pull --force", command, cause, err);
}

int rpc_env_pull(struct call *c, struct error *err)
{
	bool force = call_bool(c, "force");
	int r = force ? check_force(c, err) : 0;
	if (r < 0)
		return r;
	_cleanup_(env_wait_freep) struct env_wait *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->call = c;
	w->env = call_environment(c);
	/* A pull by name updates the environment; a machine start uses the installed one. */
	force = force || environment_outdated(w->env);
	r = environment_pull(w->env, force ? PULL_FORCED : PULL_ASKED, on_pull_progress,
		on_pull_done, w, &w->wait, err);
	if (r < 0)
		return r;
	if (call_bool(c, "force"))
		log_uid(LOG_NOTICE, 0, call_uid(c), "uid %u forced a pull of %s",
			(unsigned)call_uid(c), environment_name(w->env));
	call_keep(c, on_pull_end, TAKE_PTR(w));
	return 0;
}

static void on_pruned(json_object *result, const struct error *err, void *userdata)
{
	_cleanup_error_ struct error failed = ERROR_INIT;
	struct call *c = userdata;
	bool all = call_bool(c, "all");
	if (err && err->set) {
		json_object_put(result);
		call_fail(c, err);
		return;
	}
	if (!call_bool(c, "dry_run") && json_get_int(result, "count", 0) > 0)
		log_uid(LOG_NOTICE, 0, call_uid(c), "uid %u pruned %s", (unsigned)call_uid(c),
			json_object_to_json_string(json_get(result, "deleted")));
	if (json_add_bool(result, "permitted", !all || call_is_admin(c)) < 0) {
		json_object_put(result);
		(void)error_no_memory(&failed, "out of memory");
		call_fail(c, &failed);
		return;
	}
	call_reply(c, result);
}

int rpc_env_prune(struct call *c, struct error *err)
{
	struct manager *m = call_manager(c);
	bool all = call_bool(c, "all");
	bool dry_run = call_bool(c, "dry_run");
	int r = all && !dry_run
			? call_require_admin(c, "env prune --all", "pyro env prune --all",
				  "only root and group pyro-admin may remove environments that "
				  "other users installed",
				  err)
			: 0;
	if (r < 0)
		return r;
	r = environments_prune(m->environments, all, dry_run, on_pruned, c, err);
	if (r < 0)
		return r;
	call_keep_on(c, NULL, NULL); /* a running removal is not interrupted */
	return 0;
}
