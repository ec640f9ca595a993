/* SPDX-License-Identifier: MIT */
/*
 * Prints the results of `pyro vm` except exec's, and of verbs without a format of their own
 * (wait_plain). Named by the verb table; client/session.c waits. contract.md section 2 says how a
 * machine is printed.
 */
#include "cmd.h"

#include <inttypes.h>

#include "proto/json.h"

static void print_object(struct session *s _unused_, json_object *result)
{
	out_object(result);
}

const struct waiting wait_plain = { .print = print_object };

static void print_vm(struct session *s _unused_, json_object *vm)
{
	static const char *const when_set[][2] = {
		{ "Stop reason", "stop_reason" },
		{ "Pause reason", "pause_reason" },
		{ "Expires at", "expires_at" },
		{ "Last error", "last_error" },
	};

	out_line("VM ID", out_member(vm, "vm_id"));
	out_line("Environment", out_member(vm, "environment"));
	out_line("State", out_member(vm, "state"));
	out_line("Execution mode", out_member(vm, "execution_mode"));
	printf("Resources: %" PRId64 " vCPU / %" PRId64 " MiB\n", out_int(vm, "vcpu_count", 0),
		out_int(vm, "mem_mib", 0));
	for (size_t i = 0; i < ARRAY_SIZE(when_set); i++)
		if (out_member(vm, when_set[i][1])[0])
			out_line(when_set[i][0], out_member(vm, when_set[i][1]));
}

const struct waiting wait_vm_state = { .print = print_vm };

static void print_deleted(struct session *s _unused_, json_object *result)
{
	out_line("Deleted VM", out_member(result, "vm_id"));
}

const struct waiting wait_vm_delete = { .print = print_deleted };

static void print_stopped(struct session *s, json_object *vm)
{
	if (!out_bool(out_sub(vm, "cleanup"), "deleted", false)) {
		print_vm(s, vm);
		return;
	}
	print_deleted(s, vm);
	out_note(
		s->cli, "[note] the machine and its disk were deleted when its only command ended");
}

const struct waiting wait_vm_stop = { .print = print_stopped };

static void print_created(struct session *s, json_object *vm)
{
	if (!(s->line->extra & EXTRA_ID_ONLY)) {
		print_vm(s, vm);
		return;
	}
	out_text(stdout, out_member(vm, "vm_id"));
	putchar('\n');
}

const struct waiting wait_vm_create = {
	.tag = "vm-create",
	.on_phase = session_pull_phase,
	.unconfirmed = "the machine's deletion was not confirmed; `pyro vm list` shows whether it "
		       "still exists",
	.made = "vm_id",
	.undo = "vm.delete",
	.print = print_created,
};

static void print_reaped(struct session *s, json_object *result)
{
	json_object *ids = out_array(result, "deleted_vm_ids");

	for (size_t i = 0; ids && i < json_object_array_length(ids); i++) {
		json_object *id = json_object_array_get_idx(ids, i);

		out_line("Deleted VM", json_object_is_type(id, json_type_string)
					       ? json_object_get_string(id)
					       : "");
	}
	if (!ids || json_object_array_length(ids) == 0)
		out_note(s->cli, "no machine has exceeded its time to live");
}

const struct waiting wait_vm_reap = { .print = print_reaped };

static void print_vms(struct session *s, json_object *result)
{
	static const struct out_column columns[] = {
		{ "VM ID", "vm_id" }, { "STATE", "state" }, { "ENVIRONMENT", "environment" },
		{ "VCPUS", "vcpu_count" }, { "MIB", "mem_mib" }, { "CREATED", "created_at" },
		{ "EXPIRES", "expires_at" }, { "PAUSED", "pause_reason" },
		{ "OWNER", "owner_uid" }, /* last, because only --all-users shows it */
	};
	bool all = json_get_bool(s->line->checked, "all_users", false);

	out_list(s->cli, out_array(result, "vms"), columns, ARRAY_SIZE(columns) - !all,
		"no machines; make one: pyro vm create debian:12");
}

const struct waiting wait_vm_list = { .print = print_vms };
