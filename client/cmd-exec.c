/* SPDX-License-Identifier: MIT */
/*
 * Commands of workspaces: `pyro workspace exec`, exec-list, exec-write, exec-signal, exec-wait and
 * exec-attach. Named by the verb table; client/session.c waits, and cmd-exec-read.c reads kept
 * output. What must stay true: a caller that leaves a command learns its id and how to return to
 * it.
 */
#include "cmd.h"

#include <inttypes.h>

#include "proto/json.h"

static bool is_detached(const struct session *s)
{
	return json_get_bool(s->line->checked, "background", false);
}

/* Without --timeout the command has no limit: a person ends it with Ctrl-C. */
static int prepare_exec(struct session *s _unused_, json_object *params, struct error *err _unused_)
{
	return json_get(params, "timeout_seconds") ? 0 : json_add_int(params, "timeout_seconds", 0);
}

static void print_exec(struct session *s, json_object *result)
{
	if (!is_detached(s))
		return;
	out_text(stdout, out_member(result, "exec_id"));
	putchar('\n');
}

static int conclude(struct session *s, json_object *result)
{
	int status = command_report_end(s);

	if (s->cli->quiet)
		return status;
	fprintf(stderr, "[%s] workspace_id=", s->wait->tag);
	out_text(stderr, out_member(result, "workspace_id"));
	fprintf(stderr, " sequence=%" PRId64 " cwd=", out_int(result, "sequence", 0));
	out_text(stderr, out_member(result, "cwd"));
	fputs(" execution_mode=", stderr);
	out_text(stderr, out_member(result, "execution_mode"));
	fprintf(stderr, " exit_code=%d duration_ms=%" PRId64 "\n", status,
		out_int(result, "duration_ms", 0));
	return status;
}

static int conclude_exec(struct session *s, json_object *result)
{
	return is_detached(s) ? 0 : conclude(s, result);
}

const struct waiting wait_exec = {
	.tag = "workspace-exec",
	.live = true,
	.on_signal = SIGNAL_INTERRUPTS,
	.unconfirmed = "the end of the command was not confirmed; `pyro workspace exec-list` shows "
		       "whether it still runs",
	.prepare = prepare_exec,
	.print = print_exec,
	.conclude = conclude_exec,
};

const struct waiting wait_exec_wait = {
	.tag = "workspace-exec-wait",
	.on_signal = SIGNAL_DETACHES,
	.conclude = conclude,
};

/* Without stdio, which the session adds. */
const struct api_field exec_attach_fields[] = {
	{ .name = "exec_id",
		.type = API_ID,
		.flags = API_REQUIRED | API_POSITIONAL,
		.names = (const char *const[]){ "exec", NULL } },
	{ .name = "read_only",
		.type = API_BOOL,
		.dflt = "false",
		.help = "Send no input, so that another caller may." },
	{ .name = NULL },
};

/* With --json the output is in the result, as exec.wait gives it. */
static int prepare_attach(struct session *s, json_object *params, struct error *err _unused_)
{
	if (!s->cli->json)
		return 0;
	json_object_object_del(params, "read_only");
	s->method = "exec.wait";
	return 0;
}

const struct waiting wait_exec_attach = {
	.tag = "workspace-exec-attach",
	.live = true,
	.on_signal = SIGNAL_DETACHES_WELL,
	.prepare = prepare_attach,
	.conclude = conclude,
};

static void print_execs(struct session *s, json_object *result)
{
	static const struct out_column columns[] = {
		{ "EXEC ID", "exec_id" },
		{ "SEQ", "sequence" },
		{ "STATE", "state" },
		{ "EXIT", "exit_code" },
		{ "STARTED", "started_at" },
		{ "MS", "duration_ms" },
		{ "COMMAND", "command" },
	};

	out_list(s->cli, out_array(result, "execs"), columns, ARRAY_SIZE(columns),
		"no commands; run one: pyro workspace exec WORKSPACE -- CMD");
}

const struct waiting wait_exec_list = { .print = print_execs };

static int prepare_write(struct session *s _unused_, json_object *params, struct error *err)
{
	_cleanup_free_ char *fix = NULL;

	if (json_get(params, "data") || json_get_bool(params, "eof", false))
		return 0;
	fix = str_printf("pyro workspace exec-write %s --eof", json_get_str(params, "exec_id", ""));
	return error_set(
		err, ERROR_USAGE, NULL, fix, "workspace exec-write: missing --input TEXT or --eof");
}

static void print_written(struct session *s, json_object *result)
{
	out_note(s->cli, "[workspace-exec-write] exec_id=%s input_length=%" PRId64,
		out_member(result, "exec_id"), out_int(result, "input_length", 0));
}

const struct waiting wait_exec_write = { .prepare = prepare_write, .print = print_written };

static void print_signalled(struct session *s, json_object *result)
{
	out_note(s->cli, "[workspace-exec-signal] exec_id=%s signal=%s",
		out_member(result, "exec_id"), out_member(result, "signal"));
}

const struct waiting wait_exec_signal = { .print = print_signalled };
