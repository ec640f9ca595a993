/* SPDX-License-Identifier: MIT */
/*
 * Prints the results of `pyro workspace` and its phases. Named by the verb table; client/session.c
 * waits. contract.md section 2 says how a workspace is printed.
 */
#include "cmd.h"

#include <inttypes.h>

#include "proto/json.h"

static void print_labels(json_object *labels)
{
	bool first = true;

	fputs("Labels: ", stdout);
	if (!labels || json_object_object_length(labels) == 0) {
		puts("-");
		return;
	}
	json_object_object_foreach(labels, key, value)
	{
		if (!first)
			fputs(", ", stdout);
		out_text(stdout, key);
		putchar('=');
		out_text(stdout, json_object_get_string(value));
		first = false;
	}
	putchar('\n');
}

static void print_seed(json_object *seed)
{
	const char *path = out_member(seed, "seed_path");

	fputs("Workspace seed: ", stdout);
	out_text(stdout, out_member(seed, "mode"));
	if (path[0]) {
		fputs(" from ", stdout);
		out_text(stdout, path);
	}
	putchar('\n');
}

static void print_changed(json_object *changed)
{
	int64_t n = out_int(changed, "added", 0) + out_int(changed, "modified", 0) +
		    out_int(changed, "deleted", 0);

	if (changed)
		printf("Changed: %" PRId64 " file%s\n", n, n == 1 ? "" : "s");
	else
		out_line("Changed", "");
}

static void print_last_command(json_object *last)
{
	fputs("Last command: ", stdout);
	out_text(stdout, last ? out_member(last, "command") : NULL);
	if (json_get(last, "exit_code"))
		printf(" (exit_code=%" PRId64 ")", out_int(last, "exit_code", 0));
	putchar('\n');
}

static void print_workspace(struct session *s _unused_, json_object *ws)
{
	static const char *const when_set[][2] = {
		{ "Stop reason", "stop_reason" },
		{ "Pause reason", "pause_reason" },
		{ "Last error", "last_error" },
	};

	out_line("Workspace ID", out_member(ws, "workspace_id"));
	out_line("Name", out_member(ws, "name"));
	print_labels(out_sub(ws, "labels"));
	out_line("Environment", out_member(ws, "environment"));
	out_line("State", out_member(ws, "state"));
	out_line("Workspace", out_member(ws, "workspace_path"));
	print_seed(out_sub(ws, "workspace_seed"));
	print_changed(out_sub(ws, "changed"));
	out_line("Execution mode", out_member(ws, "execution_mode"));
	printf("Resources: %" PRId64 " vCPU / %" PRId64 " MiB\n", out_int(ws, "vcpu_count", 0),
		out_int(ws, "mem_mib", 0));
	printf("Command count: %" PRId64 "\n", out_int(ws, "command_count", 0));
	print_last_command(out_sub(ws, "last_command"));
	for (size_t i = 0; i < ARRAY_SIZE(when_set); i++)
		if (out_member(ws, when_set[i][1])[0])
			out_line(when_set[i][0], out_member(ws, when_set[i][1]));
}

const struct waiting wait_workspace_state = { .print = print_workspace };

static void print_created(struct session *s, json_object *ws)
{
	if (!(s->line->extra & EXTRA_ID_ONLY)) {
		print_workspace(s, ws);
		return;
	}
	out_text(stdout, out_member(ws, "workspace_id"));
	putchar('\n');
}

static void show_phase(struct session *s, const char *phase, json_object *o)
{
	bool create = streq(phase, "create");

	if (!create && !streq(phase, "start")) {
		session_pull_phase(s, phase, o);
		return;
	}
	out_progress_end(&s->progress);
	if (s->cli->quiet || streq(s->progress.phase, phase))
		return;
	(void)snprintf(s->progress.phase, sizeof(s->progress.phase), "%s", phase);
	if (!create)
		note_emulation(s, o);
	fprintf(stderr, "[%s] phase=%s %s=", s->wait->tag, phase,
		create ? "environment" : "workspace_id");
	out_text(stderr, create ? s->progress.environment : out_member(o, "workspace_id"));
	fputc('\n', stderr);
}

const struct waiting wait_workspace_create = {
	.tag = "workspace-create",
	.on_phase = show_phase,
	.unconfirmed = "the workspace's deletion was not confirmed; `pyro workspace list` shows "
		       "whether it still exists",
	.made = "workspace_id",
	.undo = "workspace.delete",
	.print = print_created,
};

static void print_updated(struct session *s, json_object *ws)
{
	const char *name = out_member(ws, "name");

	if (s->cli->quiet)
		return;
	fprintf(stderr, "[workspace-update] workspace_id=%s name=", out_member(ws, "workspace_id"));
	out_text(stderr, name[0] ? name : NULL);
	fputs(" applies=now\n", stderr);
}

const struct waiting wait_workspace_update = { .print = print_updated };

static void print_shared(struct session *s _unused_, json_object *ws)
{
	out_line("Shared workspace", out_member(ws, "workspace_id"));
}

const struct waiting wait_workspace_share = { .print = print_shared };

/* 0 if it is in one of the states, 1 if wait_ms has passed before. */
static int conclude_wait(struct session *s, json_object *ws)
{
	json_object *states = json_get(s->line->checked, "states");
	const char *state = out_member(ws, "state");

	for (size_t i = 0; i < json_object_array_length(states); i++)
		if (streq(json_object_get_string(json_object_array_get_idx(states, i)), state))
			return 0;
	return 1;
}

const struct waiting wait_workspace_wait = { .print = print_workspace, .conclude = conclude_wait };

static void print_deleted(struct session *s _unused_, json_object *result)
{
	out_line("Deleted workspace", out_member(result, "workspace_id"));
}

const struct waiting wait_workspace_delete = { .print = print_deleted };

static void print_workspaces(struct session *s, json_object *result)
{
	static const struct out_column columns[] = {
		{ "WORKSPACE ID", "workspace_id" }, { "NAME", "name" }, { "STATE", "state" },
		{ "ENVIRONMENT", "environment" }, { "VCPUS", "vcpu_count" }, { "MIB", "mem_mib" },
		{ "LAST USED", "last_activity_at" },
		{ "OWNER", "owner_uid" }, /* last, because only --all-users shows it */
	};
	bool all = json_get_bool(s->line->checked, "all_users", false);

	out_list(s->cli, out_array(result, "workspaces"), columns, ARRAY_SIZE(columns) - !all,
		"no workspaces; create one: pyro workspace create debian:12");
	if (out_bool(result, "truncated", false))
		out_note(s->cli,
			"[note] the list is not whole, because it does not fit one answer; "
			"--label%s lists fewer",
			all ? " or --owner" : "");
}

const struct waiting wait_workspace_list = { .print = print_workspaces };
