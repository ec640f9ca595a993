/* SPDX-License-Identifier: MIT */
/*
 * Handlers of running commands: exec.signal and exec.attach. Called by the dispatcher, which has
 * looked up the command.
 */

#include <signal.h>

#include "daemon/core/run.h"
#include "daemon/rpc/run-call.h"

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
	_cleanup_json_ json_object *result = NULL;
	int signo = signal_number(name);
	if (signo < 0)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "signal_name=INT",
			"unknown signal %s", name);
	int r = run_signal(call_run(c), signo, &result, err);
	if (r < 0)
		return r;
	call_reply(c, TAKE_PTR(result));
	return 0;
}

int rpc_exec_attach(struct call *c, struct error *err)
{
	_cleanup_free_ struct run_call *rc = calloc(1, sizeof(*rc));
	uint64_t have[STREAM_MAX] = {
		[STREAM_STDOUT] = (uint64_t)call_int(c, "stdout_offset"),
		[STREAM_STDERR] = (uint64_t)call_int(c, "stderr_offset"),
	};
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
