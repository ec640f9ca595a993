/* SPDX-License-Identifier: MIT */
/*
 * Handlers of running commands: exec.signal. Called by the dispatcher; the exec is looked up with
 * the caller's uid by runs_signal, so that another's is "not found".
 */

#include <signal.h>

#include "daemon/core/run.h"
#include "daemon/rpc/call.h"

/* The names of api.c's table. */
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
	const char *name = json_get_str(call_params(c), "signal_name", "INT");
	_cleanup_json_ json_object *result = NULL;
	int signo = signal_number(name);
	if (signo < 0)
		return error_set(
			err, ERROR_INVALID_ARGUMENT, NULL, NULL, "unknown signal %s", name);
	int r = runs_signal(call_manager(c), json_get_str(call_params(c), "exec_id", ""),
		call_uid(c), signo, &result, err);
	if (r < 0)
		return r;
	call_reply(c, TAKE_PTR(result));
	return 0;
}
