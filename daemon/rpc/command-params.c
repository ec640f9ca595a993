/* SPDX-License-Identifier: MIT */
/*
 * Reads the parameters of a command. Called by rpc/vm.c and rpc/exec.c. What must stay true: the
 * variables of a command are bounded together (LIMIT_ENV_BYTES), and each has a name.
 */

#include "daemon/rpc/command-params.h"

#include "proto/limits.h"
#include "proto/utf8.h"

#define ENV_NAME_SHOWN_MAX 60 /* bytes */

void strv_freep(char ***l)
{
	for (char **p = *l; p && *p; p++)
		free(*p);
	free(*l);
}

/* Converts {"K":"V"} to K=V strings. */
static int env_of(json_object *env, char ***ret, struct error *err)
{
	size_t n = env ? (size_t)json_object_object_length(env) : 0, i = 0, bytes = 0;
	_cleanup_strv_ char **l = calloc(n + 1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	if (n == 0) {
		*ret = TAKE_PTR(l);
		return 0;
	}
	json_object_object_foreach(env, key, val)
	{
		if (key[0] == '\0' || strchr(key, '='))
			return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
				"use a name without =", "env has a variable named \"%.*s\"",
				utf8_cut(key, ENV_NAME_SHOWN_MAX), key);
		l[i] = str_printf("%s=%s", key, json_object_get_string(val));
		if (!l[i])
			return -ENOMEM;
		bytes += strlen(l[i++]) + 1;
	}
	if (bytes > LIMIT_ENV_BYTES)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL, "put large data into a file",
			"env has %zu bytes, at most %d are allowed", bytes, LIMIT_ENV_BYTES);
	*ret = TAKE_PTR(l);
	return 0;
}

int command_params_of(
	struct call *c, struct command_params *ret, char ***ret_env, struct error *err)
{
	json_object *text = call_value(c, "stdin");
	int r;

	if (text && call_given(c, "stdio"))
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"leave out stdin; interactive=true says that input comes over stdio",
			"stdin and stdio exclude each other");
	r = env_of(call_value(c, "env"), ret_env, err);
	if (r < 0)
		return r;
	*ret = (struct command_params){
		.command = call_str(c, "command"),
		.cwd = call_str(c, "cwd"),
		.user = call_str(c, "user"),
		.env = (const char *const *)*ret_env,
		.timeout_usec = (uint64_t)call_int(c, "timeout_seconds") * USEC_PER_SEC,
		.with_stdin = text || call_bool(c, "interactive"),
		.stdin_text = text ? json_object_get_string(text) : NULL,
		.n_stdin = text ? (size_t)json_object_get_string_len(text) : 0,
	};
	return 0;
}
