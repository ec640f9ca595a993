/* SPDX-License-Identifier: MIT */
/*
 * The verbs that make one call and print its result: those of `pyro vm` without create and exec, and those whose
 * output follows from the interface table alone. Called from the verb table. contract.md section 2 says how a
 * machine is printed.
 */
#include "cmd.h"

#include <inttypes.h>

#include "client/output.h"
#include "proto/api.h"
#include "proto/json.h"

/* Makes the verb's own call and prints its result, as JSON where that is asked for. */
static int call_and_print(const struct cli *cli, const struct cmdline *line,
	void (*print)(const struct cli *cli, const struct cmdline *line, json_object *result),
	struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *result = NULL;
	int r = cli_connect(cli, &p, err);

	if (r >= 0)
		r = cli_call(p, api_methods[line->verb->method].name, line->params, NULL, NULL,
			&result, err);
	if (r < 0)
		return r;
	if (cli->json)
		out_json(result);
	else
		print(cli, line, result);
	return 0;
}

static void print_object(
	const struct cli *cli _unused_, const struct cmdline *line _unused_, json_object *result)
{
	out_object(result);
}

int cmd_plain(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	return call_and_print(cli, line, print_object, err);
}

static void put_line(const char *label, const char *value)
{
	printf("%s: ", label);
	out_text(stdout, value[0] ? value : NULL);
	putchar('\n');
}

void cmd_vm_print(json_object *vm)
{
	static const char *const when_set[][2] = {
		{ "Stop reason", "stop_reason" },
		{ "Pause reason", "pause_reason" },
		{ "Expires at", "expires_at" },
		{ "Last error", "last_error" },
	};

	put_line("VM ID", out_member(vm, "vm_id"));
	put_line("Environment", out_member(vm, "environment"));
	put_line("State", out_member(vm, "state"));
	put_line("Execution mode", out_member(vm, "execution_mode"));
	printf("Resources: %" PRId64 " vCPU / %" PRId64 " MiB\n", out_int(vm, "vcpu_count", 0),
		out_int(vm, "mem_mib", 0));
	for (size_t i = 0; i < ARRAY_SIZE(when_set); i++)
		if (out_member(vm, when_set[i][1])[0])
			put_line(when_set[i][0], out_member(vm, when_set[i][1]));
}

static void print_vm(
	const struct cli *cli _unused_, const struct cmdline *line _unused_, json_object *result)
{
	cmd_vm_print(result);
}

int cmd_vm_state(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	return call_and_print(cli, line, print_vm, err);
}

static void print_deleted(
	const struct cli *cli _unused_, const struct cmdline *line _unused_, json_object *result)
{
	put_line("Deleted VM", out_member(result, "vm_id"));
}

int cmd_vm_delete(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	return call_and_print(cli, line, print_deleted, err);
}

static void print_reaped(
	const struct cli *cli, const struct cmdline *line _unused_, json_object *result)
{
	json_object *ids = out_array(result, "deleted_vm_ids");

	for (size_t i = 0; ids && i < json_object_array_length(ids); i++) {
		json_object *id = json_object_array_get_idx(ids, i);

		put_line("Deleted VM", json_object_is_type(id, json_type_string)
					       ? json_object_get_string(id)
					       : "");
	}
	if (!ids || json_object_array_length(ids) == 0)
		out_note(cli, "no machine is past its time to live");
}

int cmd_vm_reap(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	return call_and_print(cli, line, print_reaped, err);
}

static void print_vms(const struct cli *cli, const struct cmdline *line, json_object *result)
{
	static const struct out_column columns[] = {
		{ "VM ID", "vm_id" }, { "STATE", "state" }, { "ENVIRONMENT", "environment" },
		{ "VCPUS", "vcpu_count" }, { "MIB", "mem_mib" }, { "CREATED", "created_at" },
		{ "EXPIRES", "expires_at" }, { "PAUSED", "pause_reason" },
		{ "OWNER", "owner_uid" }, /* last: only with --all-users */
	};
	bool all = json_get_bool(line->checked, "all_users", false);

	out_list(cli, out_array(result, "vms"), columns, ARRAY_SIZE(columns) - !all,
		"no machines; make one: pyro vm create debian:12");
}

int cmd_vm_list(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	return call_and_print(cli, line, print_vms, err);
}
