/* SPDX-License-Identifier: MIT */
/*
 * The result of workspace.exec, exec.wait and exec.attach (contract.md section 4). Called by
 * listener.c. What must stay true: it has every field of the table, whether the command has ended
 * or not.
 */

#include "daemon/core/listener-internal.h"

#include "proto/json.h"

static int add_output(struct listener *l, json_object *o)
{
	static const char *const names[] = { "stdout", "stderr" };
	const struct exec_row *row = &l->command->row;
	bool truncated = l->out[0].total + l->out[1].total < row->stdout_bytes + row->stderr_bytes;
	bool binary = false;
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(names); i++) {
		json_object *text = NULL;
		bool cut = false, bad = false;

		r = capture_text(&l->out[i], &text, &cut, &bad);
		if (r >= 0)
			r = json_add(o, names[i], text);
		truncated = truncated || cut;
		binary = binary || bad;
	}
	if (r >= 0)
		r = json_add_bool(o, "truncated", truncated);
	return r >= 0 && binary ? json_add_bool(o, "binary", true) : r;
}

static int add_none(json_object *o)
{
	int r = json_add(o, "stdout", NULL);

	if (r >= 0)
		r = json_add(o, "stderr", NULL);
	return r < 0 ? r : json_add_bool(o, "truncated", false);
}

int listener_result(struct listener *l, bool output, json_object **ret)
{
	const struct vm_row *machine = machine_row(l->command->commands->machine);
	const struct exec_row *row = &l->command->row;
	_cleanup_json_ json_object *o = NULL;
	int r = command_json(l->command, &o);

	if (r >= 0)
		r = json_add_str(o, "command", row->command);
	if (r >= 0)
		r = json_add_str(o, "environment", machine->environment);
	if (r >= 0)
		r = json_add_str(o, "environment_version", machine->environment_version);
	if (r >= 0)
		r = json_add_str(o, "accelerator", row->accelerator[0] ? row->accelerator : NULL);
	if (r >= 0)
		r = json_add_str(o, "start_mode", row->start_mode[0] ? row->start_mode : NULL);
	if (r >= 0)
		r = output ? add_output(l, o) : add_none(o);
	if (r >= 0)
		*ret = TAKE_PTR(o);
	return r;
}
