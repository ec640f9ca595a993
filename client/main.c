/* SPDX-License-Identifier: MIT */
/*
 * `pyro`, the command: the verb table, the global flags, and the exit status. It is a short-lived
 * client of pyrod and keeps nothing. What must stay true: descriptors 0, 1 and 2 are open before
 * anything else is opened; a usage error changes nothing; every error is printed once, here; output
 * that could not be written is an error too.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <signal.h>

#include "client/cmd.h"
#include "client/output.h"
#include "client/correct.h"
#include "client/field.h"
#include "client/foreign.h"
#include "client/suggest.h"
#include "proto/api.h"
#include "proto/json.h"

/* Verbs of one noun are adjacent: complete.c relies on that. */
const struct verb verbs[] = {
	{ NULL, "run", API_M_vm_run, &wait_run, true, false, NULL,
		"  pyro run debian:12 -- git --version\n"
		"  tar c src | pyro run -i -m 2G --timeout 5m debian:12 -- sh -c 'tar x && make "
		"-C src'" },
	{ NULL, "doctor", API_M_system_doctor, &wait_doctor, false, false, NULL,
		"  pyro doctor --no-probe" },
	{ "env", "list", API_M_env_list, &wait_env_list, false, false, NULL, "  pyro env list" },
	{ "env", "pull", API_M_env_pull, &wait_env_pull, false, false, NULL,
		"  pyro env pull debian:12" },
	{ "env", "inspect", API_M_env_inspect, &wait_plain, false, false, NULL,
		"  pyro env inspect debian:12" },
	{ "env", "prune", API_M_env_prune, &wait_env_prune, false, false, NULL,
		"  pyro env prune --all --dry-run" },
	{ "workspace", "create", API_M_workspace_create, &wait_workspace_create, false, false, NULL,
		"  pyro workspace create --name build -m 2G debian:12" },
	{ "workspace", "list", API_M_workspace_list, &wait_workspace_list, false, false, NULL,
		"  pyro workspace list --label team=web" },
	{ "workspace", "status", API_M_workspace_status, &wait_workspace_state, false, false, NULL,
		"  pyro workspace status build" },
	{ "workspace", "start", API_M_workspace_start, &wait_workspace_state, false, false, NULL,
		"  pyro workspace start build" },
	{ "workspace", "stop", API_M_workspace_stop, &wait_workspace_state, false, false, NULL,
		"  pyro workspace stop build" },
	{ "workspace", "wait", API_M_workspace_wait, &wait_workspace_wait, false, false, NULL,
		"  pyro workspace wait --state started --wait-ms 60000 build" },
	{ "workspace", "update", API_M_workspace_update, &wait_workspace_update, false, true, NULL,
		"  pyro workspace update --name web --label team=web build" },
	{ "workspace", "share", API_M_workspace_share, &wait_workspace_share, false, false, NULL,
		"  pyro workspace share build" },
	{ "workspace", "delete", API_M_workspace_delete, &wait_workspace_delete, false, true, NULL,
		"  pyro workspace delete build" },
	{ "workspace file", "list", API_M_file_list, &wait_file_list, false, false, NULL,
		"  pyro workspace file list --recursive build src" },
	{ "workspace file", "read", API_M_file_read, &wait_file_read, false, false, NULL,
		"  pyro workspace file read --start-line 10 --max-lines 20 build src/calc.py" },
	{ "workspace file", "write", API_M_file_write, &wait_file_written, false, false, NULL,
		"  pyro workspace file write --text-file notes.md build docs/notes.md" },
	{ "workspace file", "edit", API_M_file_edit, &wait_file_written, false, false, NULL,
		"  pyro workspace file edit --old 'a - b' --new 'a + b' build src/calc.py" },
	{ "workspace", "exec", API_M_workspace_exec, &wait_exec, true, false, NULL,
		"  pyro workspace exec build -- make -j2 test\n"
		"  id=$(pyro workspace exec -d build -- ./server)" },
	{ "workspace", "exec-list", API_M_exec_list, &wait_exec_list, false, false, NULL,
		"  pyro workspace exec-list build" },
	{ "workspace", "exec-read", API_M_exec_read, &wait_exec_read, false, false, NULL,
		"  pyro workspace exec-read --tail 20 -f ex-0123456789ab", exec_read_fields },
	{ "workspace", "exec-write", API_M_exec_write, &wait_exec_write, false, false, NULL,
		"  pyro workspace exec-write ex-0123456789ab --input \"$(printf 'yes\\nx')\" --eof" },
	{ "workspace", "exec-signal", API_M_exec_signal, &wait_exec_signal, false, false, NULL,
		"  pyro workspace exec-signal ex-0123456789ab --signal TERM" },
	{ "workspace", "exec-wait", API_M_exec_wait, &wait_exec_wait, true, false, NULL,
		"  pyro workspace exec-wait ex-0123456789ab && echo passed" },
	{ "workspace", "exec-attach", API_M_exec_attach, &wait_exec_attach, true, false, NULL,
		"  pyro workspace exec-attach --read-only ex-0123456789ab", exec_attach_fields },
	{ "workspace", "logs", API_M_exec_list, &wait_workspace_logs, false, false,
		"Print the commands of a workspace with their output.",
		"  pyro workspace logs --tail 3 build\n"
		"  pyro workspace logs -f build ex-0123456789ab",
		workspace_logs_fields },
	{ "vm", "create", API_M_vm_create, &wait_vm_create, false, false, NULL,
		"  id=$(pyro vm create --id-only -m 2G --ttl-seconds 3600 debian:12)" },
	{ "vm", "start", API_M_vm_start, &wait_vm_state, false, false, NULL,
		"  pyro vm start vm-0123" },
	{ "vm", "exec", API_M_vm_exec, &wait_vm_exec, true, false, NULL,
		"  pyro vm exec vm-0123 -- uname -r" },
	{ "vm", "stop", API_M_vm_stop, &wait_vm_stop, false, false, NULL,
		"  pyro vm stop vm-0123" },
	{ "vm", "list", API_M_vm_list, &wait_vm_list, false, false, NULL, "  pyro vm list" },
	{ "vm", "status", API_M_vm_status, &wait_vm_state, false, false, NULL,
		"  pyro vm status vm-0123456789ab" },
	{ "vm", "delete", API_M_vm_delete, &wait_vm_delete, false, false, NULL,
		"  pyro vm delete vm-0123" },
	{ "vm", "network-info", API_M_vm_network_info, &wait_plain, false, false, NULL,
		"  pyro vm network-info vm-0123" },
	{ "vm", "reap-expired", API_M_vm_reap_expired, &wait_vm_reap, false, false, NULL,
		"  pyro vm reap-expired" },
};
const size_t n_verbs = ARRAY_SIZE(verbs);

const char *cli_noun(const char *word)
{
	if (streq(word, "ws"))
		word = "workspace";
	for (size_t i = 0; i < n_verbs; i++)
		if (verbs[i].noun && streq(verbs[i].noun, word))
			return verbs[i].noun;
	return NULL;
}

const char *cli_noun_below(const char *noun, const char *word)
{
	size_t n = strlen(noun);

	for (size_t i = 0; i < n_verbs; i++) {
		const char *other = verbs[i].noun;
		if (other && startswith(other, noun) && other[n] == ' ' &&
			streq(other + n + 1, word))
			return other;
	}
	return NULL;
}

/* Opens /dev/null for closed standard descriptors, or the next open file would become stdout.
 * stdout is opened read-only: writes then fail (EBADF), so that output is not lost silently. */
static void open_standard(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF &&
			open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) != fd)
			exit(EXIT_PYRO);
}

/* ls and rm are list and delete everywhere. */
static const char *own_name(const char *name)
{
	return streq(name, "ls") ? "list" : streq(name, "rm") ? "delete" : name;
}

static const struct verb *find_verb(const char *noun, const char *name)
{
	name = own_name(name);
	for (size_t i = 0; i < n_verbs; i++)
		if (streq(verbs[i].name, name) &&
			(noun ? verbs[i].noun && streq(verbs[i].noun, noun) : !verbs[i].noun))
			return &verbs[i];
	return NULL;
}

/* Finds the verb of a line with a wrong global option: the first word that names one. */
static const struct verb *meant_verb(const char *noun, char **words)
{
	for (; *words; words++) {
		const struct verb *v = find_verb(noun, *words);

		if (v)
			return v;
		if (!noun)
			noun = cli_noun(*words);
	}
	return NULL;
}

/* Finds the command that was meant by a wrong word: the nearest name, or a verb without its
 * noun. */
static void find_meant(const char *noun, struct suggestion *s, char ret[64])
{
	for (size_t i = 0; i < n_verbs; i++) {
		const struct verb *v = &verbs[i];
		size_t before = s->distance;

		if (noun && v->noun && streq(v->noun, noun))
			suggest_try(s, v->name);
		else if (!noun)
			suggest_try(s, v->noun ? v->noun : v->name);
		if (s->distance < before)
			(void)snprintf(ret, 64, "%s", s->best);
	}
	for (size_t i = 0; i < n_verbs && !noun; i++) {
		const struct verb *v = &verbs[i];
		size_t before = s->distance;

		if (v->noun)
			suggest_try(s, v->name);
		if (s->distance < before || (v->noun && streq(v->name, s->word)))
			(void)snprintf(ret, 64, "%s %s", v->noun, v->name);
	}
}

static const struct verb *named_verb(const char *words)
{
	char noun[32];
	const char *space = strchr(words, ' ');

	if (!space)
		return find_verb(NULL, words);
	(void)snprintf(noun, sizeof(noun), "%.*s", (int)(space - words), words);
	return find_verb(noun, space + 1);
}

/* True if one of the words is a machine's id. */
static bool has_vm_id(char **words)
{
	for (; *words; words++)
		if (startswith(*words, "vm-"))
			return true;
	return false;
}

/* The wrong words of a command: argv[from..to). */
struct wrong {
	const char *noun; /* before from; NULL: none */
	int argc;
	char **argv;
	int from, to;
};

/*
 * Makes the line with `meant` in place of the wrong words, if it parses. Else makes a line that
 * leads there, and sets *ret_cause to what is missing. Owned by the caller; NULL when out of
 * memory.
 */
static char *meant_line(const struct wrong *w, const char *meant, char **ret_cause)
{
	_cleanup_error_ struct error lacks = ERROR_INIT;
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	struct cli cli = { .mode = PYRO_AUTO };
	const struct verb *v = w->noun ? find_verb(w->noun, meant) : named_verb(meant);
	const struct api_field *first;
	int at = w->to;
	char *fix;

	if (!v && !w->noun && at < w->argc) /* a noun: its verb follows */
		v = find_verb(meant, w->argv[at++]);
	if (v && cmdline_parse(&line, &cli, v, w->argc, w->argv, at, &lacks) >= 0) {
		fix = correct_line(w->argc, w->argv, w->from, w->to, meant);
		if (fix)
			return fix;
	}
	if (lacks.message)
		*ret_cause = strdup(lacks.message);
	if (!v)
		return str_printf("pyro %s --help", w->noun ? w->noun : meant);
	first = verb_fields(v);
	if (first->name && streq(first->name, "vm_id") && !has_vm_id(w->argv + w->to))
		return strdup("pyro vm list");
	if (first->name && first->type == API_REF && w->to == w->argc)
		return strdup("pyro workspace list");
	return str_printf(
		"pyro %s%s%s --help", v->noun ? v->noun : "", v->noun ? " " : "", v->name);
}

/* Returns the command as it was typed: 'vm kill'. Owned by the caller. */
static char *wrong_name(const struct wrong *w)
{
	const char *first = w->noun ? w->noun : w->argv[w->from];
	const char *second = w->noun               ? w->argv[w->from]
			     : w->to - w->from > 1 ? w->argv[w->from + 1]
						   : NULL;

	return str_printf("%s%s%s", first, second ? " " : "", second ? second : "");
}

/* Makes the error for a wrong word. meant: the right words, or NULL if unknown. cause and fix:
 * given when the word has no counterpart, or when the corrected line would lack an argument. */
static int unknown(const struct wrong *w, const char *meant, const char *cause, const char *fix,
	struct error *err)
{
	const char *noun = w->noun ? w->noun : "", *space = w->noun ? " " : "";
	_cleanup_free_ char *lacks = NULL, *name = wrong_name(w), *line = NULL;

	if (meant)
		line = meant_line(w, meant, &lacks);
	else if (!fix)
		line = str_printf("pyro %s%s--help", noun, space);
	return error_set(err, ERROR_USAGE, cause ? cause : lacks,
		line && !(lacks && fix) ? line : fix, "unknown command '%s'%s%s%s%s%s",
		name ? name : w->argv[w->from], meant && !cause ? "; did you mean '" : "",
		meant && !cause ? noun : "", meant && !cause ? space : "",
		meant && !cause ? meant : "", meant && !cause ? "'?" : "");
}

/* Returns the verb of workspaces in place of the machines' one, if a word is a workspace's id. */
static const char *meant_for(const char *means, char **words, char ret[64])
{
	if (!means || !startswith(means, "vm ") || !find_verb("workspace", means + strlen("vm ")))
		return means;
	for (; *words; words++)
		if (startswith(*words, api_id_prefix("workspace"))) {
			(void)snprintf(ret, 64, "workspace %s", means + strlen("vm "));
			return ret;
		}
	return means;
}

/* Makes the error for the wrong word argv[at]. */
static int unknown_command(const char *noun, int argc, char **argv, int at, struct error *err)
{
	struct wrong w = { .noun = noun, .argc = argc, .argv = argv, .from = at, .to = at + 1 };
	struct suggestion s = SUGGESTION(own_name(argv[at]));
	bool vm = has_vm_id(argv + at + 1);
	const struct foreign_word *f =
		foreign_word_find(noun ? noun : argv[at], noun ? argv[at] : argv[at + 1], vm);
	char meant[64] = "", for_workspace[64];

	if (!f)
		find_meant(noun, &s, meant);
	if (!f && !meant[0] && noun && cli_noun(argv[at - 1]) == noun) /* as in `vm kill` */
		f = foreign_word_find(argv[at], NULL, vm);
	if (!f)
		return unknown(&w, meant_for(meant[0] ? meant : NULL, argv + at, for_workspace),
			NULL, NULL, err);
	if (noun && f->means && cli_noun(argv[at - 1]) == noun) {
		/* `means` has a noun of its own: replace the noun too. */
		w.noun = NULL;
		w.from--;
	} else if (!noun && strchr(f->words, ' ')) {
		w.to++;
	}
	return unknown(&w, meant_for(f->means, argv + at, for_workspace), f->cause, f->fix, err);
}

static int no_command(const char *noun, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro %s%s--help", noun ? noun : "", noun ? " " : "");

	return error_set(err, ERROR_USAGE, NULL, fix, "%s%sno command given", noun ? noun : "",
		noun ? ": " : "");
}

/* Applies PYRO_SCOPE=user|system as a flag, unless a flag or PYRO_SOCKET names the daemon. */
static int take_scope(struct cli *cli, struct error *err)
{
	const char *scope = getenv("PYRO_SCOPE"), *path = getenv("PYRO_SOCKET");

	if (!scope || !scope[0] || cli->socket || cli->mode != PYRO_AUTO || (path && path[0]))
		return 0;
	if (!streq(scope, "user") && !streq(scope, "system"))
		return error_set(err, ERROR_USAGE, NULL, "unset PYRO_SCOPE",
			"PYRO_SCOPE is '%s', neither user nor system", scope);
	cli->mode = streq(scope, "user") ? PYRO_USER : PYRO_SYSTEM;
	return 0;
}

static int print_version_json(const char *daemon, int64_t api)
{
	_cleanup_json_ json_object *o = json_object_new_object();

	if (!o || json_add_str(o, "version", pyro_version()) < 0 ||
		json_add_str(o, "daemon_version", daemon[0] ? daemon : NULL) < 0 ||
		json_add_int(o, "api_version", api) < 0)
		return -ENOMEM;
	out_json(o);
	return 0;
}

static int print_version(const struct cli *cli)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_json_ json_object *info = NULL;
	json_object *api = NULL;
	int64_t version = API_VERSION;

	if (pyro_connect(cli->socket, (enum pyro_mode)(cli->mode | PYRO_NO_START), &p, NULL) >= 0)
		info = json_tokener_parse(pyro_daemon_info(p));
	if (info && json_object_object_get_ex(info, "api_version", &api) &&
		json_object_is_type(api, json_type_int))
		version = json_object_get_int64(api);
	if (cli->json)
		return print_version_json(out_member(info, "version"), version);
	printf("pyro %s (daemon ", pyro_version());
	out_text(stdout, info ? out_member(info, "version") : "not running");
	printf(", api %" PRId64 ")\n", version);
	return 0;
}

/* Finds the verb that takes the same arguments as a word of docker's. */
static const struct verb *foreign_verb(const char *word)
{
	const struct foreign_word *f = foreign_word_find(word, NULL, false);

	return f && f->runs ? named_verb(f->means) : NULL;
}

/*
 * Finds the verb at argv[*i], or prints help. Returns 1 with *ret set, or 0 when nothing is left to
 * do. On failure *ret is the verb that was meant, if any: the exit status depends on it.
 */
static int choose(
	struct cli *cli, int argc, char **argv, int *i, const struct verb **ret, struct error *err)
{
	const char *noun = NULL;
	unsigned extra = 0;
	int r = globals_parse(cli, NULL, argc, argv, i, &extra, err);

	if (r >= 0 && *i < argc && streq(argv[*i], "help")) { /* pyro help run: pyro run --help */
		extra |= EXTRA_HELP;
		(*i)++;
		r = globals_parse(cli, NULL, argc, argv, i, &extra, err);
		if (r >= 0 && *i < argc && streq(argv[*i], "help"))
			(*i)++;
	}
	if (r >= 0 && *i < argc && cli_noun(argv[*i])) {
		noun = cli_noun(argv[(*i)++]);
		r = globals_parse(cli, noun, argc, argv, i, &extra, err);
	}
	if (r >= 0 && *i < argc && noun && cli_noun_below(noun, argv[*i])) {
		noun = cli_noun_below(noun, argv[(*i)++]);
		r = globals_parse(cli, noun, argc, argv, i, &extra, err);
	}
	if (r < 0) {
		*ret = meant_verb(noun, argv + *i);
		return r;
	}
	if (*i < argc && !noun && streq(argv[*i], "completion")) {
		if (!(extra & EXTRA_HELP) && (*i + 1 >= argc || argv[*i + 1][0] != '-'))
			return completion_print(argv[*i + 1], err);
		help_completion();
		return 0;
	}
	if (*i < argc && noun && streq(argv[*i], "help")) {
		extra |= EXTRA_HELP;
	} else if (*i < argc) {
		*ret = find_verb(noun, argv[*i]);
		if (!*ret && !noun)
			*ret = foreign_verb(argv[*i]);
		if (!*ret)
			return unknown_command(noun, argc, argv, *i, err);
		(*i)++;
		if (!extra)
			return 1;
	}
	if (extra & EXTRA_HELP) {
		help_print(noun, *ret);
		return 0;
	}
	if (extra & EXTRA_VERSION) {
		r = take_scope(cli, err);
		return r < 0 ? r : print_version(cli);
	}
	return no_command(noun, err);
}

/* The exit status of a failure: 125 where other numbers are the guest's, 2 for usage, else 1. */
static int failure_status(const struct verb *v, const struct error *err)
{
	if (v && v->guest_status)
		return EXIT_PYRO;
	return err->code == ERROR_USAGE || err->code == ERROR_INVALID_ARGUMENT ? EXIT_USAGE : 1;
}

static void aim_fix(const struct cli *cli, struct error *err)
{
	char *aimed = err->fix ? cli_aim_fix(cli, err->fix) : NULL;

	if (!aimed)
		return;
	free(err->fix);
	err->fix = aimed;
}

static int print_failure(const struct cli *cli, const struct verb *v, int r, struct error *err)
{
	if (!err->set)
		error_set_errno(err, error_code_for_errno(r), r, NULL, "the command failed");
	if (err->code == ERROR_INTERNAL)
		error_default_fix(err, "pyro --version, and report the error with its output");
	aim_fix(cli, err);
	out_error(cli, err);
	return failure_status(v, err);
}

/* Returns the caller's workspaces, for --all. *ret is owned. */
static int list_all(const struct cli *cli, json_object **ret, struct error *err)
{
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	int r = cli_connect(cli, &p, err);

	return r < 0 ? r : cli_call(p, "workspace.list", NULL, ret, err);
}

/* Makes the verb's call for each object in turn, whatever became of those before. rows NULL: for
 * each word. Returns the exit status of the first failure; each is printed here. */
static int run_for_each(const struct cli *cli, struct cmdline *line, json_object *rows)
{
	size_t n = rows ? json_object_array_length(rows) : line->n_words;
	int status = 0;

	for (size_t i = 0; i < n; i++) {
		_cleanup_error_ struct error why = ERROR_INIT;
		const char *word =
			rows ? out_member(json_object_array_get_idx(rows, i), "workspace_id")
			     : line->words[i];
		int k = cmdline_aim(line, word, &why);

		if (k >= 0)
			k = session_run(cli, line, &why);
		if (k < 0)
			k = print_failure(cli, line->verb, k, &why);
		if (status == 0)
			status = k;
		if (k > EXIT_USAGE) /* a signal, or nobody reads the output */
			break;
	}
	return status;
}

static int run_for_words(const struct cli *cli, struct cmdline *line, struct error *err)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < line->n_words; i++) /* before anything is changed */
		r = cmdline_aim(line, line->words[i], err);
	return r < 0 ? r : run_for_each(cli, line, NULL);
}

/* A list that is not whole is followed by the next one, unless a call failed. */
static int run_for_all(const struct cli *cli, struct cmdline *line, struct error *err)
{
	bool more = true;
	int status = 0;

	for (bool first = true; more && status == 0; first = false) {
		_cleanup_json_ json_object *list = NULL;
		int r = list_all(cli, &list, err);
		json_object *rows = out_array(list, "workspaces");

		if (r < 0)
			return r;
		if (first && (!rows || json_object_array_length(rows) == 0))
			out_note(cli, "no workspaces");
		more = rows && out_bool(list, "truncated", false);
		status = rows ? run_for_each(cli, line, rows) : 0;
	}
	return status;
}

static int run_verb(
	struct cli *cli, const struct verb *v, int argc, char **argv, int i, struct error *err)
{
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	int r = cmdline_parse(&line, cli, v, argc, argv, i, err);

	if (r >= 0 && (line.extra & EXTRA_HELP)) {
		help_print(v->noun, v);
		return 0;
	}
	if (r >= 0)
		r = take_scope(cli, err);
	if (r >= 0 && (line.extra & EXTRA_VERSION))
		return print_version(cli);
	if (r >= 0 && (line.extra & EXTRA_ALL))
		return run_for_all(cli, &line, err);
	if (r >= 0 && v->several)
		return run_for_words(cli, &line, err);
	return r < 0 ? r : session_run(cli, &line, err);
}

/* Flushes stdout: buffered output may fail only now. */
static int finish_output(
	const struct cli *cli, const struct verb *v, const int *output_error, int status)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct cli plain = *cli;

	(void)fflush(stdout);
	if (*output_error == 0)
		return status;
	if (*output_error == -EPIPE)
		return EXIT_NO_STDOUT;
	plain.json = false;
	error_set_errno(&err, ERROR_INTERNAL, *output_error, NULL, "cannot write to stdout");
	out_error(&plain, &err);
	return failure_status(v, &err);
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	const struct verb *v = NULL;
	struct cli cli = { .mode = PYRO_AUTO };
	static int output_error; /* lives as long as stdout, which exit() flushes once more */
	int i = 1, r;

	open_standard();
	setlocale(LC_CTYPE, "");
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || out_begin(&output_error) < 0)
		return EXIT_PYRO;
	if (argc > 2 && streq(argv[1], "__complete")) {
		complete_print(argc - 2, argv + 2);
		return finish_output(&cli, NULL, &output_error, 0);
	}
	r = choose(&cli, argc, argv, &i, &v, &err);
	if (r > 0)
		r = run_verb(&cli, v, argc, argv, i, &err);
	if (r < 0)
		r = print_failure(&cli, v, r, &err);
	return finish_output(&cli, v, &output_error, r);
}
