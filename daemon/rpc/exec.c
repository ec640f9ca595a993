/* SPDX-License-Identifier: MIT */
/*
 * Handlers of commands: workspace.exec, and exec.list, read, write, wait, signal and attach. Called
 * by the dispatcher, which has looked up the workspace or the command.
 *
 * What must stay true: a caller that leaves ends its call and never the command of a workspace; the
 * command of vm.run or vm.exec has neither history nor kept output.
 */

#include <signal.h>

#include "daemon/core/command.h"
#include "daemon/core/run.h"
#include "daemon/core/workspace.h"
#include "daemon/rpc/command-params.h"
#include "daemon/rpc/run-call.h"

/* A call that listens to a command. */
struct listen_call {
	struct call *call;         /* borrowed */
	struct listener *listener; /* borrowed: frees itself after on_done */
	bool kills;                /* `cancel` ends the command too */
};

static void on_progress(struct listener *l, const char *phase, void *userdata)
{
	struct listen_call *lc = userdata;
	struct command *c = listener_command(l);
	_cleanup_free_ char *detail = NULL;
	_cleanup_json_ json_object *o = json_object_new_object();

	if (!streq(phase, "execute"))
		detail = machine_pause_detail(command_machine(c));
	if (!o || json_add_str(o, "phase", phase) < 0 ||
		json_add_str(o, "workspace_id", machine_id(command_machine(c))) < 0 ||
		json_add_str(o, "exec_id", command_id(c)) < 0 || json_add(o, "percent", NULL) < 0 ||
		json_add_str(o, "detail", detail) < 0)
		return; /* progress may be dropped */
	call_progress(lc->call, TAKE_PTR(o));
}

static void on_done(
	_unused_ struct listener *l, json_object *result, const struct error *err, void *userdata)
{
	_cleanup_free_ struct listen_call *lc = userdata;

	if (result)
		call_reply(lc->call, result);
	else
		call_fail(lc->call, err);
}

static const struct listener_callbacks listen_events = { on_progress, on_done };

static void on_end(_unused_ struct call *c, enum call_end why, void *userdata)
{
	struct listen_call *lc = userdata;

	if (why == CALL_CANCELLED) {
		listener_cancel(lc->listener, lc->kills); /* on_done follows */
		return;
	}
	listener_leave(lc->listener);
	free(lc);
}

static struct listen_call *listen_call_new(struct call *c, bool kills)
{
	struct listen_call *lc = calloc(1, sizeof(*lc));

	if (lc) {
		lc->call = c;
		lc->kills = kills;
	}
	return lc;
}

/* r: what the request for a listener returned. */
static int keep(struct listen_call *lc, int r)
{
	if (r < 0) {
		free(lc);
		return r;
	}
	call_keep(lc->call, on_end, lc);
	return 0;
}

static int refuse_output(struct call *c, struct error *err)
{
	if (call_bool(c, "background") && call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"leave out stdio; exec.attach carries its output live",
			"background=true and stdio exclude each other");
	if (call_bool(c, "background") || !call_bool(c, "interactive"))
		return 0;
	if (!call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"pass a stream socket as stdio, or the text as stdin",
			"interactive=true needs stdio, which carries the input, or background=true");
	return 0;
}

static int attach(struct call *c, struct command *cmd, const struct attach_params *p, bool kills,
	struct error *err)
{
	struct listen_call *lc = listen_call_new(c, kills);
	int r = lc ? command_attach(cmd, p, &listen_events, lc, &lc->listener, err) : -ENOMEM;

	if (r >= 0)
		call_give_fd(c, "stdio");
	return lc ? keep(lc, r) : r;
}

static int wait_for(
	struct call *c, struct command *cmd, bool started, bool kills, struct error *err)
{
	struct listen_call *lc = listen_call_new(c, kills);
	int64_t wait_ms = call_given(c, "wait_ms") ? call_int(c, "wait_ms") : -1;

	if (!lc)
		return -ENOMEM;
	return keep(lc, command_wait(cmd, started ? COMMAND_RUNNING : COMMAND_EXITED, wait_ms,
				&listen_events, lc, &lc->listener, err));
}

int rpc_workspace_exec(struct call *c, struct error *err)
{
	struct machine *mc = workspace_machine(call_workspace(c));
	_cleanup_strv_ char **env = NULL;
	struct command_params p;
	struct command *cmd;
	int r = refuse_output(c, err);

	if (r >= 0)
		r = command_params_of(c, &p, &env, err);
	if (r < 0)
		return r;
	if (!mc)
		return error_set(err, ERROR_WRONG_STATE, "its environment is being pulled",
			"wait for it: pyro workspace wait --state started WORKSPACE",
			"workspace %s is still being created", workspace_id(call_workspace(c)));
	r = command_start(mc, &p, &cmd, err);
	if (r < 0)
		return r;
	if (!call_given(c, "stdio"))
		r = wait_for(c, cmd, call_bool(c, "background"), true, err);
	else
		r = attach(c, cmd,
			&(struct attach_params){
				.stdio_fd = call_fd(c, "stdio"),
				.with_stdin = call_bool(c, "interactive"),
				.holds = true,
			},
			true, err);
	if (r < 0)
		command_give_up(cmd); /* its caller learns of no command: none runs */
	return r;
}

int rpc_exec_list(struct call *c, _unused_ struct error *err)
{
	struct machine *mc = workspace_machine(call_workspace(c));
	json_object *o = NULL;
	int r = commands_list_json(mc, workspace_id(call_workspace(c)), &o);

	if (r < 0)
		return r;
	call_reply(c, o);
	return 0;
}

/* The command of a method that needs kept output. */
static struct command *kept_command(struct call *c, struct error *err)
{
	struct command *cmd = call_command(c);

	if (!cmd)
		error_set(err, ERROR_UNSUPPORTED,
			"its machine is deleted with it, and its output goes to its caller",
			"run it in a workspace: pyro workspace exec",
			"%s is not a command of a workspace", call_str(c, "exec_id"));
	return cmd;
}

int rpc_exec_wait(struct call *c, struct error *err)
{
	struct command *cmd = kept_command(c, err);

	return cmd ? wait_for(c, cmd, false, false, err) : -EOPNOTSUPP;
}

static unsigned streams_of(const char *name)
{
	if (streq(name, "stdout"))
		return 1U << STREAM_STDOUT;
	return streq(name, "stderr") ? 1U << STREAM_STDERR
				     : 1U << STREAM_STDOUT | 1U << STREAM_STDERR;
}

int rpc_exec_read(struct call *c, struct error *err)
{
	struct command *cmd = kept_command(c, err);
	struct listen_call *lc;
	struct read_params p = {
		.streams = streams_of(call_str(c, "stream")),
		.cursor = call_int(c, "cursor"),
		.max_chars = (size_t)call_int(c, "max_chars"),
		.wait_ms = call_int(c, "wait_ms"),
		.base64 = streq(call_str(c, "encoding"), "base64"),
	};

	if (!cmd)
		return -EOPNOTSUPP;
	if (call_given(c, "since"))
		(void)api_time_usec(call_str(c, "since"), &p.since_usec); /* checked by the table */
	lc = listen_call_new(c, false);
	if (!lc)
		return -ENOMEM;
	return keep(lc, command_read(cmd, &p, &listen_events, lc, &lc->listener, err));
}

int rpc_exec_write(struct call *c, struct error *err)
{
	struct command *cmd = kept_command(c, err);
	json_object *data = call_value(c, "data");
	struct listen_call *lc;
	const struct write_params p = {
		.data = data ? json_object_get_string(data) : "",
		.n = data ? (size_t)json_object_get_string_len(data) : 0,
		.eof = call_bool(c, "eof"),
	};

	if (!cmd)
		return -EOPNOTSUPP;
	lc = listen_call_new(c, false);
	if (!lc)
		return -ENOMEM;
	return keep(lc, command_write(cmd, &p, &listen_events, lc, &lc->listener, err));
}

/* Maps the names of api.c's table to signal numbers. */
static int signal_number(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {
		{ "INT", SIGINT },
		{ "TERM", SIGTERM },
		{ "HUP", SIGHUP },
		{ "KILL", SIGKILL },
		{ "QUIT", SIGQUIT },
		{ "USR1", SIGUSR1 },
		{ "USR2", SIGUSR2 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (streq(signals[i].name, name))
			return signals[i].number;
	return -EINVAL;
}

int rpc_exec_signal(struct call *c, struct error *err)
{
	const char *name = call_str(c, "signal_name");
	struct command *cmd = call_command(c);
	_cleanup_json_ json_object *o = json_object_new_object();
	int r, signo = signal_number(name);

	if (signo < 0)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "signal_name=INT",
			"unknown signal %s", name);
	r = cmd ? command_signal(cmd, signo, err) : run_signal(call_run(c), signo, err);
	if (r < 0)
		return r;
	if (!o ||
		json_add_str(o, "exec_id", cmd ? command_id(cmd) : run_exec_id(call_run(c))) < 0 ||
		json_add_str(o, "signal", name) < 0)
		return -ENOMEM;
	call_reply(c, TAKE_PTR(o));
	return 0;
}

static int attach_run(struct call *c, const uint64_t have[STREAM_MAX], struct error *err)
{
	_cleanup_free_ struct run_call *rc = calloc(1, sizeof(*rc));
	int r;

	if (!rc)
		return -ENOMEM;
	rc->call = c;
	rc->run = call_run(c);
	r = run_attach(rc->run, call_fd(c, "stdio"), have, &run_call_callbacks, rc, err);
	if (r < 0)
		return r;
	call_give_fd(c, "stdio");
	call_keep(c, run_call_end, TAKE_PTR(rc));
	return 0;
}

int rpc_exec_attach(struct call *c, struct error *err)
{
	static const char *const names[] = {
		[STREAM_STDOUT] = "stdout_offset", [STREAM_STDERR] = "stderr_offset"
	};
	struct command *cmd = call_command(c);
	struct attach_params p = {
		.stdio_fd = call_fd(c, "stdio"),
		.with_stdin = !call_bool(c, "read_only"),
		.resumes = call_given(c, "stdout_offset"),
	};

	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++)
		p.have[s] = call_given(c, names[s]) ? (uint64_t)call_int(c, names[s])
			    : cmd                   ? UINT64_MAX
						    : 0;
	p.holds = p.resumes;
	return cmd ? attach(c, cmd, &p, false, err) : attach_run(c, p.have, err);
}
