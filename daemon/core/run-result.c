/* SPDX-License-Identifier: MIT */
/*
 * The result of a run as its caller gets it (contract.md section 4). Called by run.c at its end.
 */

#include "daemon/core/run-internal.h"

#include "daemon/core/vm.h"
#include "proto/json.h"

enum { EXIT_TIMED_OUT = 124, EXIT_SIGNALLED = 128 };

static int exit_code(const struct run *r)
{
	if (r->exit.timed_out)
		return EXIT_TIMED_OUT;
	return r->exit.signal ? EXIT_SIGNALLED + r->exit.signal : r->exit.code;
}

int run_note_machine(struct run *r)
{
	const struct machine *mc = r->machine;
	const struct vm_row *row = machine_row(mc);

	(void)snprintf(
		r->execution_mode, sizeof(r->execution_mode), "%s", machine_execution_mode(mc));
	(void)snprintf(r->accelerator, sizeof(r->accelerator), "%s", row->accelerator);
	(void)snprintf(r->start_mode, sizeof(r->start_mode), "%s", row->start_mode);
	if (!row->environment_version || r->environment_version)
		return 0;
	r->environment_version = strdup(row->environment_version);
	return r->environment_version ? 0 : -ENOMEM;
}

static int add_output(struct run *r, json_object *o)
{
	static const char *const names[] = { "stdout", "stderr" };
	static const char *const counts[] = { "stdout_bytes", "stderr_bytes" };
	bool truncated = false, binary = false;
	int k = 0;

	for (size_t i = 0; k >= 0 && i < ARRAY_SIZE(names); i++) {
		json_object *text = NULL;
		bool cut = false, bad = false;

		if (!r->stdio)
			k = capture_text(&r->out[i], &text, &cut, &bad);
		if (k >= 0)
			k = json_add(o, names[i], text);
		if (k >= 0)
			k = json_add_int(
				o, counts[i], (int64_t)MIN_OF(r->bytes[i], (uint64_t)INT64_MAX));
		truncated = truncated || cut;
		binary = binary || bad;
	}
	if (k >= 0)
		k = json_add_bool(o, "truncated", truncated);
	if (k >= 0 && binary)
		k = json_add_bool(o, "binary", true);
	return k;
}

static int add_names(struct run *r, json_object *o)
{
	int k = json_add_str(o, "environment", r->environment);

	if (k >= 0)
		k = json_add_str(o, "environment_version", r->environment_version);
	if (k >= 0)
		k = json_add_str(o, "command", r->command);
	if (k >= 0)
		k = json_add_str(o, "vm_id", r->vm_id);
	if (k >= 0)
		k = json_add_str(o, "exec_id", exec_id(r->exec));
	if (k >= 0)
		k = json_add_str(o, "state", "exited");
	if (k >= 0)
		k = json_add_str(o, "execution_mode", r->execution_mode);
	if (k >= 0)
		k = json_add_str(o, "accelerator", r->accelerator);
	if (k >= 0)
		k = json_add_str(o, "start_mode", r->start_mode);
	return k;
}

static int add_cleanup(json_object *o, const char *vm_id, bool deleted)
{
	json_object *cleanup = json_object_new_object();
	int k = cleanup ? json_add_bool(cleanup, "deleted", deleted) : -ENOMEM;

	if (k >= 0)
		k = json_add_str(cleanup, "reason", "post_exec_cleanup");
	if (k >= 0)
		k = json_add_str(cleanup, "vm_id", vm_id);
	if (k >= 0)
		return json_add(o, "cleanup", cleanup);
	json_object_put(cleanup);
	return k;
}

int run_stopped_json(struct machine *mc, const char *stop_reason, json_object **ret)
{
	_cleanup_json_ json_object *o = NULL;
	int k;

	*ret = NULL;
	if (!run_of(mc))
		return 0;
	k = vm_json(mc, &o);
	if (k >= 0)
		k = json_add_str(o, "state", machine_state_public(MACHINE_STOPPED));
	if (k >= 0)
		k = json_add_str(o, "stop_reason", stop_reason);
	if (k >= 0)
		k = json_add(o, "pause_reason", NULL);
	if (k >= 0)
		k = add_cleanup(o, machine_id(mc), true);
	if (k >= 0)
		*ret = TAKE_PTR(o);
	return k;
}

int run_result(struct run *r, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	int k = o ? add_names(r, o) : -ENOMEM;

	if (k >= 0)
		k = json_add_int(o, "exit_code", exit_code(r));
	if (k >= 0)
		k = add_output(r, o);
	if (k >= 0)
		k = json_add_int(o, "duration_ms",
			(int64_t)MIN_OF(
				r->exit.duration_usec / USEC_PER_MSEC, (uint64_t)INT64_MAX));
	if (k >= 0)
		k = json_add_bool(o, "timed_out", r->exit.timed_out);
	if (k >= 0)
		k = limit_json(&r->limit, exec_ended(r->exec), o);
	if (k >= 0)
		k = add_cleanup(o, r->vm_id, r->deleted);
	if (k < 0)
		return k;
	*ret = TAKE_PTR(o);
	return 0;
}
