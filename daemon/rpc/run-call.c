/* SPDX-License-Identifier: MIT */
/*
 * The call that waits for a run: vm.run, vm.exec and exec.attach. What must stay true: a run is
 * abandoned when its caller disconnects and ended when it is cancelled, each exactly once.
 */

#include "daemon/rpc/run-call.h"

static void on_run_progress(_unused_ struct run *r, const struct run_progress *p, void *userdata)
{
	struct run_call *rc = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!o || json_add_str(o, "phase", p->phase) < 0 ||
		json_add_str(o, "vm_id", p->vm_id) < 0 ||
		json_add_str(o, "exec_id", p->exec_id) < 0 ||
		json_add(o, "percent", p->percent < 0 ? NULL : json_object_new_int(p->percent)) <
			0 ||
		json_add_str(o, "detail", p->detail) < 0 ||
		json_add_str(o, "accelerator", p->accelerator) < 0 ||
		json_add_str(o, "accelerator_reason", p->accelerator_reason) < 0 ||
		(p->pause_reason && json_add_str(o, "pause_reason", p->pause_reason) < 0) ||
		json_add_str(o, "environment", call_str_if_any(rc->call, "environment")) < 0)
		return; /* progress may be dropped */
	call_progress(rc->call, TAKE_PTR(o));
}

static void on_run_done(struct run *r, json_object *result, const struct error *err, void *userdata)
{
	_cleanup_free_ struct run_call *rc = userdata;
	if (result)
		call_reply(rc->call, result);
	else
		call_fail(rc->call, err);
	run_free(r);
}

void run_call_end(_unused_ struct call *c, enum call_end why, void *userdata)
{
	struct run_call *rc = userdata;
	if (why == CALL_CANCELLED) {
		run_cancel(rc->run); /* on_run_done follows */
		return;
	}
	run_abandon(rc->run);
	free(rc);
}

const struct run_callbacks run_call_callbacks = { on_run_progress, on_run_done };
