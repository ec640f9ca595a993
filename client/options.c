/* SPDX-License-Identifier: MIT */
/*
 * Reads the command line of a verb by its method's table of parameters (proto/api.c), so that
 * flags, ranges and defaults are defined once. Called by main.c before it connects: an error here
 * changes nothing. For verbs that end in a command the options end at `--` or at the first word
 * after ENVIRONMENT. A verb's own flag, as in `run --user NAME`, takes precedence over a
 * global one of the same name.
 */
#include "options.h"

#include "client/correct.h"
#include "client/field.h"
#include "client/options-internal.h"
#include "client/foreign.h"
#include "client/suggest.h"
#include "client/text.h"
#include "proto/api.h"
#include "proto/json.h"
#include "proto/utf8.h"

enum global {
	GLOBAL_SOCKET,
	GLOBAL_USER,
	GLOBAL_SYSTEM,
	GLOBAL_JSON,
	GLOBAL_QUIET,
	GLOBAL_HELP,
	GLOBAL_VERSION
};

static const struct {
	const char *name;
	char letter;
	bool takes_value;
	bool first; /* only before the command */
} global_flags[] = {
	[GLOBAL_SOCKET] = { "socket", 0, true, true },
	[GLOBAL_USER] = { "user", 0, false, true },
	[GLOBAL_SYSTEM] = { "system", 0, false, true },
	[GLOBAL_JSON] = { "json", 0, false, false },
	[GLOBAL_QUIET] = { "quiet", 'q', false, false },
	[GLOBAL_HELP] = { "help", 'h', false, false },
	[GLOBAL_VERSION] = { "version", 0, false, false },
};

static const struct extra_flag run_flags[] = {
	{ 't', "tty", EXTRA_TTY, "Run on a terminal (not in this version)." },
	{ 0, "rm", 0, "Accepted and ignored: the machine is always deleted." },
	{ 0, "init", 0, "Accepted and ignored: a machine always has an init." },
	{ 0 },
};
static const struct extra_flag delete_flags[] = {
	{ 0, "all", EXTRA_ALL, "All of your workspaces." },
	{ 0 },
};
static const struct extra_flag exec_flags[] = {
	{ 't', "tty", EXTRA_TTY, "Run on a terminal (not in this version)." },
	{ 0 },
};
static const struct extra_flag create_flags[] = {
	{ 0, "id-only", EXTRA_ID_ONLY, "Print the id alone." },
	{ 0 },
};

static const struct extra_flag read_flags[] = {
	{ 0, "content-only", EXTRA_CONTENT, "Print no summary." },
	{ 0 },
};
static const struct extra_flag write_flags[] = {
	{ 0, "text-file", 0, "A file of yours with its new contents; - is stdin.", "text" },
	{ 0 },
};

/* What one flag of the command line means. */
struct flag {
	const struct api_field *field;
	const struct extra_flag *extra;
	const struct foreign_flag *foreign;
	int global; /* -1: none */
};

static bool is_create(const struct verb *v)
{
	return v->method == API_M_vm_create || v->method == API_M_workspace_create;
}

const struct extra_flag *verb_extra_flags(const struct verb *v)
{
	if (v->method == API_M_vm_run)
		return run_flags;
	if (v->method == API_M_workspace_delete)
		return delete_flags;
	if (v->method == API_M_file_read)
		return read_flags;
	if (v->method == API_M_file_write)
		return write_flags;
	if (v->method == API_M_workspace_exec)
		return exec_flags;
	return is_create(v) ? create_flags : NULL;
}

static bool ends_in_rest(const struct api_field *fields)
{
	for (; fields->name; fields++)
		if (fields->flags & API_REST)
			return true;
	return false;
}

/* Finds "--name" or "-x" (dashes included, without a value). */
static bool find_flag(const struct parser *p, const char *name, struct flag *ret)
{
	char known[FLAG_NAME_MAX];

	*ret = (struct flag){ .global = -1 };
	for (const struct api_field *f = p->fields; f && f->name; f++)
		for (size_t i = 0; field_flag(f, i, known); i++)
			if (streq(known, name)) {
				ret->field = f;
				return true;
			}
	for (const struct extra_flag *e = p->verb ? verb_extra_flags(p->verb) : NULL; e && e->name;
		e++)
		if ((e->letter && name[1] == e->letter && name[2] == '\0') ||
			(name[1] == '-' && streq(name + 2, e->name))) {
			ret->extra = e;
			return true;
		}
	ret->foreign = p->verb && (ends_in_rest(p->fields) || is_create(p->verb))
			       ? foreign_flag_find(name)
			       : NULL;
	if (ret->foreign)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(global_flags); i++)
		if ((name[1] == '-' && streq(name + 2, global_flags[i].name)) ||
			(global_flags[i].letter && name[1] == global_flags[i].letter &&
				name[2] == '\0')) {
			ret->global = (int)i;
			return true;
		}
	return false;
}

static bool flag_takes_value(const struct flag *f)
{
	if (f->field)
		return field_takes_value(f->field);
	if (f->extra)
		return f->extra->fills != NULL;
	if (f->foreign)
		return f->foreign->takes_value;
	return f->global >= 0 && global_flags[f->global].takes_value;
}

/* Writes " env pull", " run" or "". */
static void verb_title(const struct verb *v, char *ret, size_t size)
{
	(void)snprintf(ret, size, "%s%s%s%s", v && v->noun ? " " : "", v && v->noun ? v->noun : "",
		v ? " " : "", v ? v->name : "");
}

int options_usage(const struct parser *p, const char *what, const char *value)
{
	_cleanup_free_ char *fix = NULL;
	char title[64];

	verb_title(p->verb, title, sizeof(title));
	fix = str_printf("pyro%s --help", title);
	return error_set(p->err, ERROR_USAGE, NULL, fix, "%s%s%s%s%s", title[0] ? title + 1 : "",
		title[0] ? ": " : "", what, value ? " " : "", value ? value : "");
}

/* Reports a missing word. If a flag took a word as its value, the fix leaves out the flag. */
static int missing(const struct parser *p, const char *what)
{
	_cleanup_free_ char *fix = NULL;
	const char *flag = p->argv[p->took_at], *value = p->argv[p->took_at + 1];
	char title[64];

	if (p->took_at > 0)
		fix = correct_line(p->argc, p->argv, p->took_at, p->took_at + 1, NULL);
	if (!fix)
		return options_usage(p, "missing", what);
	verb_title(p->verb, title, sizeof(title));
	return error_set(p->err, ERROR_USAGE, NULL, fix,
		"%s: missing %s; %s has taken '%.*s' as its value", title + 1, what, flag,
		utf8_cut(value, VALUE_SHOWN), value);
}

/* Reports a global flag after the command. The fix is the line in its right order. */
static int misplaced(const struct parser *p, const char *flag)
{
	const char *word = p->argv[p->at];
	/* At the end of the line --socket has no value: the fix leaves it out. */
	bool whole = !streq(word, "--socket") || p->i - p->at == 2;
	_cleanup_free_ char *fix = whole ? suggest_moved(p->argc, p->argv, p->at, p->i)
					 : correct_line(p->argc, p->argv, p->at, p->i, NULL);
	char title[64];

	verb_title(p->verb, title, sizeof(title));
	return error_set(p->err, ERROR_USAGE, "it says which daemon to use, as with systemctl",
		fix ? fix : "pyro --help", "%s: %s belongs before the command",
		p->verb ? title + 1 : p->noun, flag);
}

/* Ignores a docker flag, or refuses it. The fix is the line without it, or with pyro's flag. */
static int take_foreign(const struct parser *p, const struct foreign_flag *f, const char *value)
{
	_cleanup_free_ char *fix = NULL, *word = NULL, *ours = NULL;
	bool cluster = p->argv[p->at][1] != '-' && p->argv[p->at][2] && !f->takes_value;
	char title[64];

	if (!f->cause && !f->means)
		return 0;
	if (f->means) {
		word = shell_quote(value);
		ours = word ? str_printf("%s %s", f->means, word) : NULL;
	}
	if (!cluster && !f->fix && (ours || !f->means))
		fix = correct_line(p->argc, p->argv, p->at, p->i, ours);
	if (!fix && !f->fix)
		fix = str_printf("leave out %s", f->name);
	verb_title(p->verb, title, sizeof(title));
	return error_set(p->err, ERROR_USAGE, f->cause, f->fix ? f->fix : fix,
		"%s: unknown option %s%s%s%s", title + 1, f->name,
		f->means ? "; did you mean " : "", f->means ? f->means : "", f->means ? "?" : "");
}

static int unknown_option(const struct parser *p, const char *name)
{
	_cleanup_free_ char *fix = NULL, *with_value = NULL;
	struct suggestion s = SUGGESTION(name);
	const char *eq = strchr(p->argv[p->at], '=');
	char known[16][FLAG_NAME_MAX], title[64];
	size_t n = 0;

	for (const struct api_field *f = p->fields; name[1] == '-' && f && f->name; f++)
		for (size_t i = 0; n < ARRAY_SIZE(known) && field_flag(f, i, known[n]); i++) {
			const char *best = s.best;

			suggest_try(&s, known[n]);
			n += s.best != best; /* s.best points to it: keep it */
		}
	for (size_t i = 0; name[1] == '-' && i < ARRAY_SIZE(global_flags); i++) {
		if (n == ARRAY_SIZE(known) || (p->verb && global_flags[i].first))
			continue;
		(void)snprintf(known[n], FLAG_NAME_MAX, "--%s", global_flags[i].name);
		const char *best = s.best;

		suggest_try(&s, known[n]);
		n += s.best != best;
	}
	if (!s.best)
		return options_usage(p, "unknown option", name);
	with_value = eq ? str_printf("%s%s", s.best, eq) : NULL;
	fix = correct_line(p->argc, p->argv, p->at, p->at + 1, with_value ? with_value : s.best);
	verb_title(p->verb, title, sizeof(title));
	return error_set(p->err, ERROR_USAGE, NULL, fix ? fix : "pyro --help",
		"%s%sunknown option %s; did you mean %s?", title[0] ? title + 1 : "",
		title[0] ? ": " : "", name, s.best);
}

/*
 * True if a word taken as a flag's value belongs to the verb, because the value was forgotten. An
 * environment is recognized by its colon, a machine by its id.
 */
bool options_is_own_word(const struct parser *p, const char *word)
{
	struct flag f;

	if (streq(word, "--"))
		return true;
	if (word[0] == '-')
		return word[1] && strcspn(word + 1, "0123456789") > 0 && find_flag(p, word, &f);
	for (const struct api_field *a = p->fields; a && a->name; a++)
		if ((streq(a->name, "environment") && strchr(word, ':') && word[0] > '9') ||
			((a->type == API_ID || a->type == API_REF) &&
				startswith(word, api_id_prefix(a->names[0]))))
			return true;
	return false;
}

static int set_mode(struct parser *p, enum pyro_mode mode)
{
	if (p->cli->mode != PYRO_AUTO && p->cli->mode != mode)
		return options_usage(p, "--user and --system exclude each other", NULL);
	p->cli->mode = mode;
	return 0;
}

static int take_global(struct parser *p, int global, const char *value)
{
	switch ((enum global)global) {
	case GLOBAL_SOCKET:
		if (value[0] == '\0')
			return options_refuse(p, "--socket", NULL, NULL,
				"--socket: '' is not allowed: it is empty");
		p->cli->socket = value;
		return 0;
	case GLOBAL_USER: return set_mode(p, PYRO_USER);
	case GLOBAL_SYSTEM: return set_mode(p, PYRO_SYSTEM);
	case GLOBAL_JSON: p->cli->json = true; return 0;
	case GLOBAL_QUIET: p->cli->quiet = true; return 0;
	case GLOBAL_HELP: p->line->extra |= EXTRA_HELP; return 0;
	case GLOBAL_VERSION: p->line->extra |= EXTRA_VERSION; return 0;
	}
	return -EINVAL;
}

/* Applies one flag. value: the text after '=' or in the same word; NULL: in the next word. */
static int take_flag(struct parser *p, const char *name, const char *value, bool attached)
{
	struct flag f;

	if (!find_flag(p, name, &f))
		return unknown_option(p, name);
	if (f.global >= 0 && global_flags[f.global].first && (p->verb || p->noun)) {
		p->i += global_flags[f.global].takes_value && !attached && p->i < p->argc;
		return misplaced(p, name);
	}
	if (!flag_takes_value(&f)) {
		if (attached)
			return options_usage(p, "this option takes no value:", name);
	} else if (!value) {
		if (p->i >= p->argc)
			return options_usage(p, "this option needs a value:", name);
		value = p->argv[p->i++];
		if (p->verb && options_is_own_word(p, value) &&
			strlen(name) == strlen(p->argv[p->i - 2]))
			p->took_at = p->i - 2;
	}
	if (f.field)
		return options_take_field(p, f.field, name, value);
	if (f.extra) {
		p->line->extra |= f.extra->bit;
		return f.extra->fills ? options_take_file(p, f.extra, name, value) : 0;
	}
	if (f.foreign)
		return take_foreign(p, f.foreign, value);
	return take_global(p, f.global, value);
}

static int take_long(struct parser *p, const char *word)
{
	const char *eq = strchr(word, '=');
	_cleanup_free_ char *name = eq ? strndup(word, (size_t)(eq - word)) : strdup(word);

	if (!name)
		return -ENOMEM;
	return take_flag(p, name, eq ? eq + 1 : NULL, eq);
}

/* Reads "-it", "-m2G", "-m 2G". */
static int take_short(struct parser *p, const char *word)
{
	int r = 0;

	for (const char *c = word + 1; *c && r >= 0; c++) {
		char name[3] = { '-', *c, '\0' };
		struct flag f;

		if (find_flag(p, name, &f) && flag_takes_value(&f))
			return take_flag(p, name, c[1] ? c + 1 : NULL, c[1]);
		r = take_flag(p, name, NULL, false);
	}
	return r;
}

static bool is_option(const char *word)
{
	return word[0] == '-' && word[1] != '\0';
}

/* Returns the index in argv of the n-th positional word. */
static int index_of(const struct parser *p, size_t n)
{
	int i = p->argc;

	while (i > 0 && (i == p->argc || p->argv[i] != p->words[n]))
		i--;
	return i;
}

static int take_words(struct parser *p)
{
	bool rest = ends_in_rest(p->fields), words_only = false;
	int r;

	while (p->i < p->argc) {
		char *word = p->argv[p->i];

		p->from = p->i++;
		if (!words_only && streq(word, "--")) {
			words_only = true;
			continue;
		}
		if (!words_only && is_option(word)) {
			p->at = p->i - 1;
			r = word[1] == '-' ? take_long(p, word) : take_short(p, word);
			if (r < 0)
				return r;
			continue;
		}
		p->words[p->n_words++] = word;
		if (rest && p->n_words > 1)
			words_only = true;
	}
	return 0;
}

/* Refuses a word that JSON cannot carry. The fix sends the command to a guest shell by stdin. */
static int not_utf8_word(const struct parser *p, size_t from, size_t n, const char *command)
{
	_cleanup_free_ char *fix = NULL;
	const char *word = p->words[from + n];
	int shown = (int)MIN_OF(strlen(word), (size_t)VALUE_SHOWN);

	if (!p->cli->json && !json_get_bool(p->line->params, "interactive", false))
		fix = correct_by_stdin(p->argv, p->verb_end, index_of(p, from), command);
	return error_set(p->err, ERROR_INVALID_ARGUMENT, "requests are JSON, which is UTF-8 text",
		fix ? fix
		    : "name such bytes in one quoted word, as the shell's \"$(printf '\\351')\"",
		"word %zu of the command is not UTF-8: '%.*s'", n + 1, shown, word);
}

static int take_rest(struct parser *p, const struct api_field *f, size_t from)
{
	_cleanup_free_ char *command = NULL;
	int r;

	if (from >= p->n_words)
		return missing(p, "CMD, the command");
	r = shell_join(p->words + from, p->n_words - from, &command);
	if (r < 0)
		return r;
	p->from = index_of(p, from);
	p->to = p->argc;
	if (command[0] == '\0')
		return options_refuse(p, "the command", "true", NULL, "the command is empty");
	if (f->max > 0 && strlen(command) > (size_t)f->max)
		return error_set(p->err, ERROR_INVALID_ARGUMENT, NULL,
			"put it into a file and pass that to the guest's shell: with -i, the command sh and < FILE",
			"the command is %zu bytes long, at most %lld are allowed", strlen(command),
			(long long)f->max);
	for (size_t i = from; i < p->n_words; i++)
		if (!text_is_utf8(p->words[i]))
			return not_utf8_word(p, from, i - from, command);
	return options_take_field(p, f, "the command", command);
}

/* Keeps the words, each of which names an object. */
static int take_several(struct parser *p)
{
	struct cmdline *line = p->line;

	line->words = calloc(p->n_words, sizeof(*line->words));
	if (!line->words)
		return -ENOMEM;
	memcpy(line->words, p->words, p->n_words * sizeof(*line->words));
	line->n_words = p->n_words;
	return 0;
}

static int take_positionals(struct parser *p)
{
	size_t used = 0;
	int r;

	if (p->line->extra & EXTRA_ALL)
		return p->n_words > 0 ? options_usage(p, "--all takes no", "WORKSPACE") : 0;
	for (const struct api_field *f = p->fields; f->name; f++) {
		char name[FLAG_NAME_MAX];

		field_metavar(f, name);
		if (f->flags & API_REST) {
			r = take_rest(p, f, used);
			used = p->n_words;
		} else if (!(f->flags & API_POSITIONAL)) {
			if (!(f->flags & API_REQUIRED) || json_get(p->line->params, f->name))
				continue;
			(void)field_flag(f, f->cli ? 1 : 0, name);
			return missing(p, name);
		} else if (used < p->n_words) {
			p->from = index_of(p, used);
			p->to = p->from + 1;
			r = options_take_field(p, f, name, p->words[used++]);
		} else {
			r = f->flags & API_REQUIRED ? missing(p, name) : 0;
		}
		if (r < 0)
			return r;
	}
	if (used > 0 && p->verb->several)
		return take_several(p);
	return used < p->n_words ? options_usage(p, "unexpected word", p->words[used]) : 0;
}

/* Refuses features of later versions before anything is connected. */
static int refuse_unsupported(struct parser *p)
{
	if (p->line->extra & EXTRA_TTY)
		return error_set(p->err, ERROR_UNSUPPORTED,
			"this version runs commands without a terminal",
			"leave out -t; -i passes stdin on", "-t is not supported yet");
	if (json_get_bool(p->line->params, "network", false))
		return error_set(p->err, ERROR_UNSUPPORTED,
			"this version gives machines no network", "leave out --network",
			"--network is not supported yet");
	if (json_get_bool(p->line->params, "allow_host_compat", false))
		return error_set(p->err, ERROR_UNSUPPORTED,
			"this version runs commands in machines only",
			"leave out --allow-host-compat",
			"--allow-host-compat is not supported yet");
	return 0;
}

int globals_parse(struct cli *cli, const char *noun, int argc, char **argv, int *i,
	unsigned *ret_extra, struct error *err)
{
	struct cmdline line = { .extra = *ret_extra };
	struct parser p = { .cli = cli,
		.noun = noun,
		.line = &line,
		.argc = argc,
		.argv = argv,
		.i = *i,
		.err = err };
	int r;

	while (p.i < argc && is_option(argv[p.i])) {
		const char *word = argv[p.i++];

		p.at = p.from = p.i - 1;
		r = word[1] == '-' ? take_long(&p, word) : take_short(&p, word);
		if (r < 0)
			return r;
	}
	*i = p.i;
	*ret_extra = line.extra;
	return 0;
}

int cmdline_parse(struct cmdline *ret, struct cli *cli, const struct verb *v, int argc, char **argv,
	int i, struct error *err)
{
	_cleanup_free_ char **words = calloc((size_t)argc + 1, sizeof(*words));
	struct parser p = { .cli = cli,
		.verb = v,
		.fields = verb_fields(v),
		.line = ret,
		.argc = argc,
		.argv = argv,
		.i = i,
		.verb_end = i,
		.words = words,
		.err = err };
	int r;

	*ret = (struct cmdline){ .verb = v, .params = json_object_new_object() };
	if (!words || !ret->params)
		return -ENOMEM;
	r = take_words(&p);
	if (r < 0 || (ret->extra & (EXTRA_HELP | EXTRA_VERSION)))
		return r;
	r = take_positionals(&p);
	if (r < 0)
		return r;
	r = refuse_unsupported(&p);
	if (r < 0)
		return r;
	if (ret->extra & EXTRA_ALL)
		return 0; /* cmdline_aim checks them */
	return api_check_params(p.fields, ret->params, 0, &ret->checked, err);
}

int cmdline_aim(struct cmdline *line, const char *word, struct error *err)
{
	const struct api_field *f = verb_fields(line->verb);

	json_object_object_del(line->params, f->name);
	json_object_put(line->checked);
	line->checked = NULL;
	if (json_add_str(line->params, f->name, word) < 0)
		return error_no_memory(err, "out of memory");
	return api_check_params(f, line->params, 0, &line->checked, err);
}

void cmdline_done(struct cmdline *line)
{
	if (line->params)
		json_object_put(line->params);
	if (line->checked)
		json_object_put(line->checked);
	free(line->words);
	*line = (struct cmdline){ 0 };
}
