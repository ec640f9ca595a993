/* SPDX-License-Identifier: MIT */
/*
 * Shell completion: `pyro completion SHELL` prints a script, which asks `pyro __complete WORDS...`
 * what may follow. The candidates come from the verb table and the interface table, so that they
 * match the parser. Called by main.c. What must stay true: completion starts no daemon, waits at
 * most DAEMON_WAIT (or PYRO_COMPLETION_WAIT_MS) for a running one, and prints no errors.
 */
#include "cmd.h"

#include <signal.h>
#include <sys/time.h>

#include "client/field.h"
#include "client/output.h"
#include "proto/api.h"
#include "proto/json.h"

#define DAEMON_WAIT 50 /* ms; short, because the user waits for it while typing */

static const char bash_script[] =
	"# Completion of `pyro` for bash: the command itself lists what may follow.\n"
	"_pyro()\n"
	"{\n"
	"\tlocal rest=${COMP_LINE:0:COMP_POINT} cut word i words=() prefix\n"
	"\t# bash splits words at COMP_WORDBREAKS (: and =): join what has no space between.\n"
	"\tfor ((i = 0; i <= COMP_CWORD; i++)); do\n"
	"\t\tcut=${rest#\"${rest%%[![:space:]]*}\"}\n"
	"\t\tword=${COMP_WORDS[i]:0:${#cut}}\n"
	"\t\tif [[ $cut == \"$rest\" && ${#words[@]} -gt 0 && -n $word ]]; then\n"
	"\t\t\twords[-1]+=$word\n"
	"\t\telif [[ $cut != \"$rest\" || ${#words[@]} -eq 0 ]]; then\n"
	"\t\t\twords+=(\"$word\")\n"
	"\t\tfi\n"
	"\t\trest=${cut#\"$word\"}\n"
	"\tdone\n"
	"\tmapfile -t COMPREPLY < <(\"$1\" __complete \"${words[@]:1}\" 2>/dev/null)\n"
	"\tword=${words[-1]}\n"
	"\tif [[ $word == *[:=]* && $COMP_WORDBREAKS == *:* ]]; then\n"
	"\t\tprefix=${word%\"${word##*[:=]}\"}\n"
	"\t\tCOMPREPLY=(\"${COMPREPLY[@]#\"$prefix\"}\")\n"
	"\tfi\n"
	"}\n"
	"complete -o default -F _pyro pyro\n";

static const char zsh_script[] =
	"#compdef pyro\n"
	"# Completion of `pyro` for zsh: the command itself lists what may follow.\n"
	"_pyro() {\n"
	"\tlocal -a candidates\n"
	"\tcandidates=(${(f)\"$(pyro __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)\"})\n"
	"\tcompadd -a candidates\n"
	"}\n"
	"if [[ $funcstack[1] == _pyro ]]; then _pyro \"$@\"; else compdef _pyro pyro; fi\n";

static const char fish_script[] =
	"# Completion of `pyro` for fish: the command itself lists what may follow.\n"
	"function __pyro_complete\n"
	"    set -l words (commandline -opc) (commandline -ct)\n"
	"    pyro __complete $words[2..-1] 2>/dev/null\n"
	"end\n"
	"complete -c pyro -f -a '(__pyro_complete)'\n";

static const struct {
	const char *shell, *script;
} scripts[] = {
	{ "bash", bash_script },
	{ "zsh", zsh_script },
	{ "fish", fish_script },
};

int completion_print(const char *shell, struct error *err)
{
	for (size_t i = 0; shell && i < ARRAY_SIZE(scripts); i++)
		if (streq(scripts[i].shell, shell)) {
			fputs(scripts[i].script, stdout);
			return 0;
		}
	return error_set(err, ERROR_USAGE, NULL, "pyro completion bash",
		shell ? "completion: unknown shell '%s'; known are bash, zsh and fish"
		      : "completion: missing SHELL%s",
		shell ? shell : "");
}

/* The words typed so far. */
struct typed {
	struct cli cli;
	const char *noun;
	const struct verb *verb;
	const char *flag; /* borrowed: a flag whose value is the next word */
	size_t n_words;   /* positional words of the verb */
	bool flags_ended; /* `--` was read */
};

static void offer(const char *candidate, const char *last)
{
	/* The daemon's words go to a shell: print only those that need no quoting. */
	if (startswith(candidate, last) && candidate[0] &&
		strspn(candidate,
			"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@+-") ==
			strlen(candidate))
		puts(candidate);
}

static const struct api_field *field_of(const struct verb *v, const char *flag)
{
	char name[FLAG_NAME_MAX];

	for (const struct api_field *f = v ? verb_fields(v) : NULL; f && f->name; f++)
		for (size_t i = 0; field_flag(f, i, name); i++)
			if (streq(name, flag))
				return f;
	return NULL;
}

static bool wants_value(const struct typed *t, const char *flag)
{
	const struct api_field *f = field_of(t->verb, flag);

	for (const struct extra_flag *e = t->verb ? verb_extra_flags(t->verb) : NULL; e && e->name;
		e++)
		if (e->fills && streq(flag + strspn(flag, "-"), e->name))
			return true;
	return f ? field_takes_value(f) : !t->verb && streq(flag, "--socket");
}

static const struct verb *verb_of(const char *noun, const char *name)
{
	for (size_t i = 0; i < n_verbs; i++)
		if (streq(verbs[i].name, name) &&
			(noun ? verbs[i].noun && streq(verbs[i].noun, noun) : !verbs[i].noun))
			return &verbs[i];
	return NULL;
}

static void take_word(struct typed *t, const char *word)
{
	if (t->verb)
		t->n_words++;
	else if (!t->noun && cli_noun(word))
		t->noun = cli_noun(word);
	else if (t->noun && cli_noun_below(t->noun, word))
		t->noun = cli_noun_below(t->noun, word);
	else
		t->verb = verb_of(t->noun, streq(word, "ls")   ? "list"
					   : streq(word, "rm") ? "delete"
							       : word);
}

/* Reads all words but the last, which is still being typed. */
static void take_words(struct typed *t, int n, char **words)
{
	for (int i = 0; i < n; i++) {
		const char *word = words[i];

		if (t->flag) {
			if (streq(t->flag, "--socket"))
				t->cli.socket = word;
			t->flag = NULL;
		} else if (t->flags_ended || word[0] != '-' || word[1] == '\0') {
			take_word(t, word);
		} else if (streq(word, "--")) {
			t->flags_ended = true;
		} else if (startswith(word, "--socket=")) {
			t->cli.socket = word + strlen("--socket=");
		} else if (!t->verb && streq(word, "--user")) {
			t->cli.mode = PYRO_USER;
		} else if (!t->verb && streq(word, "--system")) {
			t->cli.mode = PYRO_SYSTEM;
		} else if (wants_value(t, word)) {
			t->flag = word;
		}
	}
}

static uint64_t daemon_wait(void)
{
	const char *s = getenv("PYRO_COMPLETION_WAIT_MS");
	uint64_t ms;

	return s && parse_u64(s, 1, 60000, &ms) >= 0 ? ms : DAEMON_WAIT;
}

static _noreturn_ void on_late(_unused_ int sig)
{
	_exit(0);
}

static void offer_rows(json_object *rows, const char *const *keys, const char *last)
{
	for (size_t i = 0; rows && i < json_object_array_length(rows); i++)
		for (const char *const *key = keys; *key; key++)
			offer(out_member(json_object_array_get_idx(rows, i), *key), last);
}

/* Where candidates come from: a method, the list in its result, and the rows' members. inner: a
 * list in each row whose rows are meant instead; NULL: none. */
struct candidates {
	const char *method, *list, *inner, *keys[3];
};

/* Offers the candidates, if a daemon answers in time. */
static void offer_from_daemon(
	const struct typed *t, const struct candidates *from, const char *last)
{
	const uint64_t wait_ms = daemon_wait();
	const struct itimerval soon = { .it_value = { .tv_sec = (time_t)(wait_ms / 1000),
						.tv_usec = (suseconds_t)(wait_ms % 1000 * 1000) } },
			       never = { 0 };
	_cleanup_(pyro_freep) struct pyro *p = NULL;
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ json_object *result = NULL;
	json_object *rows;

	if (fflush(stdout) != 0 || signal(SIGALRM, on_late) == SIG_ERR ||
		setitimer(ITIMER_REAL, &soon, NULL) < 0)
		return;
	if (pyro_connect(t->cli.socket, (enum pyro_mode)(t->cli.mode | PYRO_NO_START), &p, NULL) >=
			0 &&
		pyro_call(p, from->method, NULL, (int)wait_ms, NULL, NULL, &text, NULL) >= 0)
		result = json_tokener_parse(text);
	if (setitimer(ITIMER_REAL, &never, NULL) < 0)
		return;
	rows = result ? out_array(result, from->list) : NULL;
	if (!from->inner)
		offer_rows(rows, from->keys, last);
	for (size_t i = 0; from->inner && rows && i < json_object_array_length(rows); i++)
		offer_rows(out_array(json_object_array_get_idx(rows, i), from->inner), from->keys,
			last);
}

static void offer_flags(const struct verb *v, const char *last)
{
	static const char *const first[] = { "--socket", "--user", "--system" }, *const any[] = {
		"--json", "--quiet", "--help", "--version"
	};
	char name[FLAG_NAME_MAX];

	for (const struct api_field *f = v ? verb_fields(v) : NULL; f && f->name; f++)
		for (size_t i = 0; field_flag(f, i, name); i++)
			offer(name, last);
	for (const struct extra_flag *e = v ? verb_extra_flags(v) : NULL; e && e->name; e++) {
		(void)snprintf(name, sizeof(name), "--%s", e->name);
		offer(name, last);
	}
	for (size_t i = 0; !v && i < ARRAY_SIZE(first); i++)
		offer(first[i], last);
	for (size_t i = 0; i < ARRAY_SIZE(any); i++)
		offer(any[i], last);
}

static void offer_commands(const struct typed *t, const char *last)
{
	for (size_t i = 0; i < n_verbs; i++) {
		const struct verb *v = &verbs[i];
		bool first = i == 0 || !v->noun || !verbs[i - 1].noun ||
			     !streq(v->noun, verbs[i - 1].noun);
		size_t n = t->noun ? strlen(t->noun) : 0;

		if (t->noun && v->noun && streq(v->noun, t->noun))
			offer(v->name, last);
		else if (t->noun && v->noun && first && startswith(v->noun, t->noun) &&
			 v->noun[n] == ' ')
			offer(v->noun + n + 1, last);
		else if (!t->noun && first && !(v->noun && strchr(v->noun, ' ')))
			offer(v->noun ? v->noun : v->name, last);
	}
	if (t->noun)
		return;
	offer("completion", last);
	offer("help", last);
}

/* Offers values for the verb's next positional word. Words of the command get none. */
static void offer_argument(const struct typed *t, const char *last)
{
	static const struct candidates environments = { "env.list", "environments", NULL,
		{ "name" } };
	static const struct candidates vms = { "vm.list", "vms", NULL, { "vm_id" } };
	static const struct candidates workspaces = { "workspace.list", "workspaces", NULL,
		{ "name", "workspace_id" } };
	static const struct candidates commands = { "workspace.list", "workspaces", "running",
		{ "exec_id" } };
	const struct api_field *f = verb_fields(t->verb);
	size_t n = t->verb->several ? 0 : t->n_words;

	for (; f->name; f++)
		if ((f->flags & API_POSITIONAL) && n-- == 0)
			break;
	if (!f->name || (f->flags & API_REST))
		return;
	if (streq(f->name, "environment"))
		offer_from_daemon(t, &environments, last);
	else if (streq(f->name, "vm_id"))
		offer_from_daemon(t, &vms, last);
	else if (f->type == API_REF)
		offer_from_daemon(t, &workspaces, last);
	else if (f->type == API_ID && streq(f->names[0], "exec"))
		offer_from_daemon(t, &commands, last);
}

void complete_print(int n, char **words)
{
	const char *last = n > 0 ? words[n - 1] : "";
	struct typed t = { .cli = { .mode = PYRO_AUTO } };
	bool shell = n > 1 && streq(words[n - 2], "completion");

	take_words(&t, n > 0 ? n - 1 : 0, words);
	if (t.flag) {
		const struct api_field *f = field_of(t.verb, t.flag);

		for (size_t i = 0; f && f->type == API_ENUM && f->names[i]; i++)
			offer(f->names[i], last);
	} else if (shell && !t.verb) {
		for (size_t i = 0; i < ARRAY_SIZE(scripts); i++)
			offer(scripts[i].shell, last);
	} else if (last[0] == '-' && !t.flags_ended &&
		   !(t.verb && t.verb->guest_status && t.n_words > 1)) {
		offer_flags(t.verb, last);
	} else if (!t.verb) {
		offer_commands(&t, last);
	} else {
		offer_argument(&t, last);
	}
}
