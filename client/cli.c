/* SPDX-License-Identifier: MIT */
/*
 * Stands between the commands and libpyro: connects as the global flags say, and parses the results
 * of calls. Converts libpyro's errors to struct error in one place, so that every command reports
 * alike.
 */
#include "cli.h"

#include <pwd.h>

#include "client/correct.h"
#include "client/output.h"
#include "proto/host.h"
#include "proto/json.h"

int cli_take_error(struct pyro_error *e, struct error *err)
{
	enum error_code code = ERROR_INTERNAL;
	int r;

	if (!e)
		return error_no_memory(err, "out of memory");
	if (error_code_from_name(e->code, &code) < 0)
		code = ERROR_INTERNAL;
	r = error_set(err, code, e->cause, e->fix, "%s", e->message);
	pyro_error_free(e);
	return r;
}

/* Returns the next command of a line, behind "&& " outside quotes; at the last, the line's end. */
static const char *next_command(const char *line)
{
	static const char and[] = "&& ";
	bool quoted = false;

	for (; *line; line++) {
		if (!quoted && startswith(line, and))
			return line + strlen(and);
		if (*line == '\'')
			quoted = !quoted;
		else if (*line == '\\' && !quoted && line[1])
			line++;
	}
	return line;
}

/* Returns the flags that name the daemon of these options, with a space behind; "": none. */
static char *aim_flags(const struct cli *cli)
{
	_cleanup_free_ char *word = cli->socket ? shell_quote(cli->socket) : NULL;

	if (cli->socket)
		return word ? str_printf("--socket %s ", word) : NULL;
	return strdup(cli->mode == PYRO_USER     ? "--user "
		      : cli->mode == PYRO_SYSTEM ? "--system "
						 : "");
}

char *cli_aim_fix(const struct cli *cli, const char *fix)
{
	static const char pyro[] = "pyro ";
	_cleanup_free_ char *flags = aim_flags(cli), *line = strdup("");

	/* Text that is not a command line stays as it is. */
	if (!startswith(fix, pyro))
		return strdup(fix);
	if (cli->socket && !correct_prints(cli->socket)) /* a pasted line cannot hold it */
		return strdup(fix);
	while (flags && line && *fix) {
		const char *next = next_command(fix);
		/* Other programs, and commands with flags of their own, stay as they are. */
		bool aim = startswith(fix, pyro) && fix[strlen(pyro)] != '-';
		int n = (int)(next - fix), head = aim ? (int)strlen(pyro) : n;
		_cleanup_free_ char *before = line;

		line = str_printf(
			"%s%.*s%s%.*s", before, head, fix, aim ? flags : "", n - head, fix + head);
		fix = next;
	}
	return flags ? TAKE_PTR(line) : NULL;
}

/* Notes that these machines belong to a daemon of the user's own, if the host has a system daemon
 * that does not run and the user named no daemon. */
static void note_own_daemon(const struct cli *cli, struct pyro *p)
{
	_cleanup_free_ char *system = NULL, *dir = NULL;
	const char *given = getenv("PYRO_SOCKET");

	if (cli->socket || cli->mode != PYRO_AUTO || (given && given[0]) || getuid() == 0)
		return;
	if (host_socket_path(true, getuid(), &system) < 0 || streq(system, pyro_socket_path(p)) ||
		access(system, F_OK) == 0 || errno != ENOENT)
		return;
	dir = strndup(system, (size_t)(strrchr(system, '/') - system));
	if (dir && (access(dir, F_OK) == 0 || getpwnam("pyro")))
		out_note(cli, "[note] the system's pyrod is not running: this is your own daemon, "
			      "with its own machines (pyro --user omits this note)");
}

int cli_connect(const struct cli *cli, struct pyro **ret, struct error *err)
{
	struct pyro_error *e = NULL;

	if (pyro_connect(cli->socket, cli->mode, ret, &e) < 0)
		return cli_take_error(e, err);
	note_own_daemon(cli, *ret);
	return 0;
}

int cli_take_result(const char *text, const char *method, json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = NULL;
	int r = json_parse(text, strlen(text), &json_limits_reply, &o, err);

	if (r < 0)
		return r;
	if (!json_object_is_type(o, json_type_object))
		return error_set(err, ERROR_INTERNAL, NULL, "pyro --version",
			"the result of %s is not a JSON object", method);
	*ret = TAKE_PTR(o);
	return 0;
}

int cli_call(struct pyro *p, const char *method, json_object *params, json_object **ret,
	struct error *err)
{
	_cleanup_free_ char *text = NULL;
	struct pyro_error *e = NULL;

	if (pyro_call(p, method, json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), -1,
		    NULL, NULL, &text, &e) < 0)
		return cli_take_error(e, err);
	return cli_take_result(text, method, ret, err);
}
