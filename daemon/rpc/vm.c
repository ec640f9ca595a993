/* SPDX-License-Identifier: MIT */
/*
 * Handlers of machines: run, create, start, stop, exec, network_info, list, status, delete and
 * reap_expired. Called by the dispatcher, which has checked the parameters and looked up the
 * machine.
 *
 * What must stay true: a request that exceeds this host (more vCPUs or memory than it has, a
 * network) is refused before anything is made; a run is abandoned when its caller disconnects and
 * ended when it is cancelled, each exactly once.
 */

#include <inttypes.h>

#include "daemon/core/create.h"
#include "daemon/core/vm.h"
#include "daemon/core/run.h"
#include "daemon/image/environment.h"
#include "daemon/rpc/call.h"
#include "daemon/rpc/run-call.h"
#include "proto/limits.h"
#include "proto/utf8.h"

#define ENV_NAME_SHOWN_MAX 60 /* bytes */
#define TTL_MARGIN_SECONDS 60 /* beyond the command's timeout */

static int refuse_machine(struct call *c, struct error *err)
{
	if (call_bool(c, "network"))
		return error_set(err, ERROR_UNSUPPORTED, "this version has no guest networks yet",
			"run it without network", "network=true is not supported");
	if (call_bool(c, "allow_host_compat"))
		return error_set(err, ERROR_UNSUPPORTED,
			"this version runs commands in machines only",
			"run it without allow_host_compat",
			"allow_host_compat=true is not supported");
	return 0;
}

static int refuse_command(struct call *c, struct error *err)
{
	if (call_bool(c, "interactive") && !call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"pass a stream socket as stdio, or the text as stdin",
			"interactive=true needs stdio, which carries the input");
	if (call_given(c, "stdin") && call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"leave out stdin; interactive=true says that input comes over stdio",
			"stdin and stdio exclude each other");
	return 0;
}

/* Returns the TTL in seconds, 0: no limit (contract.md section 7.4). The default covers the
 * command's timeout; timeout -1: no command. */
static int64_t ttl_of(struct call *c, int64_t timeout)
{
	int64_t dflt = call_manager(c)->config->default_ttl_seconds;
	if (call_given(c, "ttl_seconds"))
		return call_int(c, "ttl_seconds");
	return dflt == 0 || timeout < 0 ? dflt : MAX_OF(dflt, timeout + TTL_MARGIN_SECONDS);
}

static void strv_freep(char ***l)
{
	for (char **p = *l; p && *p; p++)
		free(*p);
	free(*l);
}

/* Converts {"K":"V"} to K=V strings. */
static int env_of(json_object *env, char ***ret, struct error *err)
{
	size_t n = env ? (size_t)json_object_object_length(env) : 0, i = 0, bytes = 0;
	_cleanup_(strv_freep) char **l = calloc(n + 1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	if (n == 0) {
		*ret = TAKE_PTR(l);
		return 0;
	}
	json_object_object_foreach(env, key, val)
	{
		if (key[0] == '\0' || strchr(key, '='))
			return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
				"use a name without =", "env has a variable named \"%.*s\"",
				utf8_cut(key, ENV_NAME_SHOWN_MAX), key);
		l[i] = str_printf("%s=%s", key, json_object_get_string(val));
		if (!l[i])
			return -ENOMEM;
		bytes += strlen(l[i++]) + 1;
	}
	if (bytes > LIMIT_ENV_BYTES)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "put large data into a file",
			"env has %zu bytes, at most %d are allowed", bytes, LIMIT_ENV_BYTES);
	*ret = TAKE_PTR(l);
	return 0;
}

static void fill_machine(struct call *c, int64_t timeout, struct machine_spec *ret)
{
	*ret = (struct machine_spec){
		.environment = call_str(c, "environment"),
		.vcpu_count = (unsigned)call_int(c, "vcpu_count"),
		.mem_mib = (uint64_t)call_int(c, "mem_mib"),
		.disk_mib = (uint64_t)call_int(c, "disk_mib"),
		.ttl_seconds = ttl_of(c, timeout),
		.owner_uid = call_uid(c),
	};
}

static void fill_command(struct call *c, struct run_params *p)
{
	json_object *text = call_value(c, "stdin");

	*p = (struct run_params){
		.command = call_str(c, "command"),
		.cwd = call_str(c, "cwd"),
		.user = call_str(c, "user"),
		.timeout_usec = (uint64_t)call_int(c, "timeout_seconds") * USEC_PER_SEC,
		.with_stdin = text || call_bool(c, "interactive"),
		.stdin_text = text ? json_object_get_string(text) : NULL,
		.n_stdin = text ? (size_t)json_object_get_string_len(text) : 0,
		.stdio_fd = -EBADF,
	};
}

/* Starts the command and keeps the call. mc NULL: in a new machine. */
static int begin_run(struct call *c, struct machine *mc, struct run_params *p, struct error *err)
{
	_cleanup_free_ struct run_call *rc = calloc(1, sizeof(*rc));
	_cleanup_(strv_freep) char **env = NULL;
	int r = env_of(call_value(c, "env"), &env, err);

	if (r < 0)
		return r;
	if (!rc)
		return -ENOMEM;
	p->env = (const char *const *)env;
	p->stdio_fd = call_fd(c, "stdio");
	rc->call = c;
	r = mc ? run_in_machine(mc, p, &run_call_callbacks, rc, &rc->run, err)
	       : run_start(call_manager(c), p, &run_call_callbacks, rc, &rc->run, err);
	if (r < 0)
		return r;
	call_give_fd(c, "stdio");
	call_keep(c, run_call_end, TAKE_PTR(rc));
	return 0;
}

static int check_machine(struct call *c, enum accelerator *ret, struct error *err)
{
	int r = refuse_machine(c, err);

	if (r >= 0)
		r = machines_check_size(call_manager(c)->machines, call_uid(c),
			call_int(c, "vcpu_count"), call_int(c, "mem_mib"), err);
	return r < 0 ? r : accelerator_from_name(call_str(c, "accelerator"), ret);
}

int rpc_vm_run(struct call *c, struct error *err)
{
	struct run_params p;
	enum accelerator accelerator;
	int r = 0;

	if (call_given(c, "wait_ms"))
		r = error_set(err, ERROR_UNSUPPORTED,
			"this version replies only when the command has ended",
			"run it without wait_ms", "wait_ms is not supported");
	if (r >= 0)
		r = refuse_command(c, err);
	if (r >= 0)
		r = check_machine(c, &accelerator, err);
	if (r < 0)
		return r;
	fill_command(c, &p);
	fill_machine(c, call_int(c, "timeout_seconds"), &p.machine);
	p.machine.accelerator = accelerator;
	return begin_run(c, NULL, &p, err);
}

int rpc_vm_exec(struct call *c, struct error *err)
{
	struct run_params p;
	int r = refuse_command(c, err);

	if (r < 0)
		return r;
	fill_command(c, &p);
	return begin_run(c, call_machine(c), &p, err);
}

struct create_call {
	struct call *call;         /* borrowed */
	struct creation *creation; /* borrowed: frees itself */
};

static void on_create_progress(const struct pull_progress *p, void *userdata)
{
	struct create_call *cc = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();

	if (!o || json_add_str(o, "phase", p->phase) < 0 ||
		json_add(o, "percent", p->percent < 0 ? NULL : json_object_new_int(p->percent)) <
			0 ||
		json_add_str(o, "detail", p->detail) < 0 ||
		json_add_str(o, "environment", call_str(cc->call, "environment")) < 0)
		return; /* progress may be dropped */
	call_progress(cc->call, TAKE_PTR(o));
}

/* Answers with the machine's present state. */
static void reply_machine(struct call *c, struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *o = NULL;
	int r = vm_json(mc, &o);

	if (r >= 0) {
		call_reply(c, o);
		return;
	}
	error_no_memory(&err, "cannot make the reply");
	call_fail(c, &err);
}

static void on_create_done(struct machine *mc, const struct error *err, void *userdata)
{
	_cleanup_free_ struct create_call *cc = userdata;

	if (mc)
		reply_machine(cc->call, mc);
	else
		call_fail(cc->call, err);
}

static void on_create_cancel(_unused_ struct call *c, _unused_ enum call_end why, void *userdata)
{
	struct create_call *cc = userdata;

	creation_cancel(cc->creation); /* on_create_done follows */
}

int rpc_vm_create(struct call *c, struct error *err)
{
	static const struct creation_callbacks cb = { on_create_progress, on_create_done };
	_cleanup_free_ struct create_call *cc = calloc(1, sizeof(*cc));
	struct machine_spec spec;
	enum accelerator accelerator;
	int r = check_machine(c, &accelerator, err);

	if (r < 0)
		return r;
	if (!cc)
		return -ENOMEM;
	fill_machine(c, -1, &spec);
	spec.accelerator = accelerator;
	cc->call = c;
	r = creation_start(call_manager(c), &spec, &cb, cc, &cc->creation, err);
	if (r < 0)
		return r;
	call_keep_on(c, on_create_cancel, TAKE_PTR(cc));
	return 0;
}

struct state_call {
	struct call *call; /* borrowed */
	char vm_id[API_ID_SIZE];
	json_object *stopped; /* owned or NULL: answer if it is deleted */
};

static struct state_call *state_call_free(struct state_call *sc)
{
	if (sc)
		json_object_put(sc->stopped);
	free(sc);
	return NULL;
}
DEFINE_CLEANUP(struct state_call *, state_call_free)

static void on_state(const struct error *err, void *userdata)
{
	_cleanup_(state_call_freep) struct state_call *sc = userdata;
	_cleanup_error_ struct error gone = ERROR_INIT;

	if (err && err->code == ERROR_CANCELLED && sc->stopped)
		call_reply(sc->call, TAKE_PTR(sc->stopped));
	else if (err)
		call_fail(sc->call, err);
	else if (call_find_again(sc->call, sc->vm_id, &gone) < 0)
		call_fail(sc->call, &gone);
	else
		reply_machine(sc->call, call_machine(sc->call));
}

/* Handles vm.start (stop_reason NULL) and vm.stop. The call is answered when the machine has
 * reached the state. */
static int change_state(struct call *c, const char *stop_reason, struct error *err)
{
	_cleanup_(state_call_freep) struct state_call *sc = calloc(1, sizeof(*sc));
	struct machine *mc = call_machine(c);
	int r = sc ? 0 : -ENOMEM;

	if (r >= 0 && stop_reason)
		r = run_stopped_json(mc, stop_reason, &sc->stopped);
	if (r < 0)
		return r;
	sc->call = c;
	(void)snprintf(sc->vm_id, sizeof(sc->vm_id), "%s", machine_id(mc));
	r = stop_reason ? machine_stop(mc, stop_reason, on_state, sc, err)
			: machine_boot(mc, on_state, sc, err);
	if (r < 0)
		return r;
	if (r > 0) {
		reply_machine(c, mc);
		return 0;
	}
	call_keep_on(c, NULL, NULL);
	(void)TAKE_PTR(sc);
	return 0;
}

int rpc_vm_start(struct call *c, struct error *err)
{
	return change_state(c, NULL, err);
}

int rpc_vm_stop(struct call *c, struct error *err)
{
	return change_state(c, call_str(c, "reason"), err);
}

int rpc_vm_network_info(struct call *c, _unused_ struct error *err)
{
	json_object *o = NULL;
	int r = vm_network_json(call_machine(c), &o);

	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

int rpc_vm_list(struct call *c, struct error *err)
{
	bool all = call_bool(c, "all_users");
	json_object *o = NULL;
	int r;

	if (all && call_uid(c) != 0)
		return error_set(err, ERROR_PERMISSION_DENIED,
			"only root may list other users' machines", "sudo pyro vm list --all-users",
			"vm.list with all_users=true is not permitted for uid %u", call_uid(c));
	r = vm_list_json(call_manager(c)->machines, call_uid(c), all, &o);
	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

int rpc_vm_status(struct call *c, _unused_ struct error *err)
{
	json_object *o = NULL;
	int r = vm_json(call_machine(c), &o);
	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

struct delete_call {
	struct call *call; /* borrowed */
	char vm_id[API_ID_SIZE];
};

static void on_deleted(const struct error *err, void *userdata)
{
	_cleanup_free_ struct delete_call *d = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_error_ struct error failed = ERROR_INIT;
	if (err && err->set) {
		call_fail(d->call, err);
		return;
	}
	if (!o || json_add_str(o, "vm_id", d->vm_id) < 0 || json_add_bool(o, "deleted", true) < 0 ||
		json_add_str(o, "reason", "explicit_delete") < 0) {
		(void)error_no_memory(&failed, "%s is deleted", d->vm_id);
		call_fail(d->call, &failed);
		return;
	}
	call_reply(d->call, TAKE_PTR(o));
}

int rpc_vm_delete(struct call *c, _unused_ struct error *err)
{
	_cleanup_free_ struct delete_call *d = calloc(1, sizeof(*d));
	int r;

	if (!d)
		return -ENOMEM;
	d->call = c;
	(void)snprintf(d->vm_id, sizeof(d->vm_id), "%s", machine_id(call_machine(c)));
	call_keep_on(c, NULL, NULL); /* a deletion goes on without its caller */
	r = machine_delete(call_machine(c), "its deletion was requested", on_deleted, d);
	if (r < 0)
		return r;
	(void)TAKE_PTR(d);
	return 0;
}

static void on_reaped(json_object *result, const struct error *err, void *userdata)
{
	struct call *c = userdata;
	if (err && err->set) {
		json_object_put(result);
		call_fail(c, err);
		return;
	}
	call_reply(c, result);
}

int rpc_vm_reap_expired(struct call *c, _unused_ struct error *err)
{
	call_keep_on(c, NULL, NULL);
	return vm_reap_expired(call_manager(c), call_uid(c), on_reaped, c);
}
