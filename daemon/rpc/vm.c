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
#include "daemon/rpc/command-params.h"
#include "daemon/rpc/machine-call.h"
#include "daemon/rpc/run-call.h"

static int refuse_command(struct call *c, struct error *err)
{
	if (call_bool(c, "interactive") && !call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"pass a stream socket as stdio, or the text as stdin",
			"interactive=true needs stdio, which carries the input");
	return 0;
}

/* Starts the command and keeps the call. mc NULL: in a new machine. */
static int begin_run(struct call *c, struct machine *mc, struct run_params *p, struct error *err)
{
	_cleanup_free_ struct run_call *rc = calloc(1, sizeof(*rc));
	_cleanup_strv_ char **env = NULL;
	int r = command_params_of(c, &p->command, &env, err);

	if (r < 0)
		return r;
	if (!rc)
		return -ENOMEM;
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

int rpc_vm_run(struct call *c, struct error *err)
{
	struct machine_spec machine;
	struct run_params p = { 0 };
	int r = 0;

	if (call_given(c, "wait_ms"))
		r = error_set(err, ERROR_UNSUPPORTED,
			"this version replies only when the command has ended",
			"run it without wait_ms", "wait_ms is not supported");
	if (r >= 0)
		r = refuse_command(c, err);
	if (r >= 0)
		r = machine_call_spec(c, call_int(c, "timeout_seconds"), &machine, err);
	if (r < 0)
		return r;
	p.machine = machine;
	return begin_run(c, NULL, &p, err);
}

int rpc_vm_exec(struct call *c, struct error *err)
{
	struct run_params p = { 0 };
	int r = refuse_command(c, err);

	if (r < 0)
		return r;
	return begin_run(c, call_machine(c), &p, err);
}

struct create_call {
	struct call *call;         /* borrowed */
	struct creation *creation; /* borrowed: frees itself */
};

static void on_create_progress(const struct pull_progress *p, void *userdata)
{
	struct create_call *cc = userdata;

	machine_call_progress(
		cc->call, &(struct machine_progress){
				  .phase = p->phase, .percent = p->percent, .detail = p->detail });
}

/* Answers with the machine's present state. */
static void reply_machine(struct call *c, struct machine *mc)
{
	json_object *o = NULL;
	int r = vm_json(mc, &o);

	machine_call_reply(c, r, o);
}

static void reply_state(struct call *c)
{
	reply_machine(c, call_machine(c));
}

static void on_create_done(struct machine *mc, const struct error *err, void *userdata)
{
	_cleanup_free_ struct create_call *cc = userdata;

	if (err)
		call_fail(cc->call, err);
	else
		reply_machine(cc->call, mc);
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
	int r = machine_call_spec(c, -1, &spec, err);

	if (r < 0)
		return r;
	if (!cc)
		return -ENOMEM;
	cc->call = c;
	r = creation_start(call_manager(c), &spec, &cb, cc, &cc->creation, err);
	if (r < 0)
		return r;
	call_keep_on(c, on_create_cancel, TAKE_PTR(cc));
	return 0;
}

int rpc_vm_start(struct call *c, struct error *err)
{
	struct machine *mc = call_machine(c);
	struct state_call *sc = state_call_new(c, machine_id(mc), reply_state, NULL);

	return state_call_begin(sc, sc ? machine_boot(mc, state_call_done, sc, err) : -ENOMEM);
}

int rpc_vm_stop(struct call *c, struct error *err)
{
	const char *reason = call_str(c, "reason");
	struct machine *mc = call_machine(c);
	json_object *stopped = NULL;
	struct state_call *sc;
	int r = run_stopped_json(mc, reason, &stopped);

	if (r < 0)
		return r;
	sc = state_call_new(c, machine_id(mc), reply_state, stopped);
	return state_call_begin(
		sc, sc ? machine_stop(mc, reason, state_call_done, sc, err) : -ENOMEM);
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

int rpc_vm_delete(struct call *c, _unused_ struct error *err)
{
	struct machine *mc = call_machine(c);
	struct delete_call *d = delete_call_new(c, "vm_id", machine_id(mc));

	return delete_call_begin(
		d, d ? machine_delete(mc, "its deletion was requested", delete_call_done, d)
		     : -ENOMEM);
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
