/* SPDX-License-Identifier: MIT */
/*
 * Prints help texts. They are made from the verb table and the interface table, so that they match
 * the parser. Called by main.c. Every level ends with an example.
 */
#include "cmd.h"

#include <ctype.h>

#include "client/field.h"
#include "proto/api.h"

#define COLUMN 28

static const char *const noun_help[][2] = {
	{ "env", "Environments: what machines are made from." },
	{ "vm", "Machines." },
	{ "workspace", "Workspaces: machines that stay and have a name. `ws` for short." },
	{ "workspace file", "Files of a workspace. A stopped workspace is started." },
};

static const char *const noun_example[][2] = {
	{ "env", "  pyro env pull debian:12" },
	{ "vm", "  pyro vm list" },
	{ "workspace file", "  pyro ws file read build src/calc.py" },
	{ "workspace", "  pyro ws create --name build debian:12\n"
		       "  pyro ws exec build -- git --version" },
};

static const char global_help[] =
	"Before the command:\n"
	"  --socket PATH             use the daemon that listens there (PYRO_SOCKET)\n"
	"  --user, --system          your own daemon, or the system's (PYRO_SCOPE=user|system)\n"
	"Anywhere:\n"
	"  --json                    print the result, or {\"ok\": false, \"error\": ...}, as JSON\n"
	"  -q, --quiet               no phases, no summary; lists show only ids or names\n"
	"  -h, --help                this text\n"
	"  --version                 the versions of client and daemon\n";

static const char *summary(const struct verb *v)
{
	return v->summary ? v->summary : api_methods[v->method].help;
}

static const char *look_up(const char *const (*table)[2], size_t n, const char *key)
{
	for (size_t i = 0; i < n; i++)
		if (streq(table[i][0], key))
			return table[i][1];
	return "";
}

static void print_row(const char *left, const char *right)
{
	if (strlen(left) < COLUMN - 2)
		printf("  %-*s%s\n", COLUMN - 2, left, right);
	else
		printf("  %s\n%*s%s\n", left, COLUMN, "", right);
}

static const char *value_name(const struct api_field *f)
{
	switch (f->type) {
	case API_INT: return "N";
	case API_OBJECT: return streq(f->name, "env") ? "K[=V]" : "K=V";
	case API_ENUM: return "WORD";
	case API_ARRAY: return f->sub->type == API_ENUM ? "WORD" : "TEXT";
	default: return "TEXT";
	}
}

/* Prints "--mem-mib N, --memory N, -m N" and the field's help with default and range. */
static void print_flag(const struct verb *v, const struct api_field *f)
{
	/* `workspace exec` sends 0 where the method's own default is for programs. */
	bool no_timeout = v->method == API_M_workspace_exec && streq(f->name, "timeout_seconds");
	const char *dflt = no_timeout ? "0" : f->dflt;
	char name[FLAG_NAME_MAX], left[256] = "", right[512];
	size_t n = 0;

	for (size_t i = 0; field_flag(f, i, name); i++) {
		int k = snprintf(left + n, sizeof(left) - n, "%s%s%s%s", i ? ", " : "", name,
			field_takes_value(f) ? " " : "", field_takes_value(f) ? value_name(f) : "");

		if (k < 0 || (size_t)k >= sizeof(left) - n)
			return;
		n += (size_t)k;
	}
	if (n == 0)
		return;
	n = (size_t)snprintf(right, sizeof(right), "%s%s", f->flags & API_NEGATED ? "Do not " : "",
		f->help ? f->help : "");
	/* The help says what the field does; a negated flag turns that off. */
	if (f->flags & API_NEGATED)
		right[strlen("Do not ")] = (char)tolower((unsigned char)right[strlen("Do not ")]);
	for (size_t i = 0; f->type == API_ENUM && f->names[i] && n < sizeof(right); i++)
		n += (size_t)snprintf(
			right + n, sizeof(right) - n, "%s%s", i ? "|" : " ", f->names[i]);
	if (dflt && field_takes_value(f) && !streq(dflt, "{}") && n < sizeof(right))
		n += (size_t)snprintf(right + n, sizeof(right) - n, " (%s)", dflt);
	if (f->type == API_INT && f->max > f->min && n < sizeof(right))
		(void)snprintf(right + n, sizeof(right) - n, " %lld-%lld", (long long)f->min,
			(long long)f->max);
	print_row(left, right);
}

static bool has_command(const struct verb *v)
{
	for (const struct api_field *f = verb_fields(v); f->name; f++)
		if (f->flags & API_REST)
			return true;
	return false;
}

static void print_verb(const struct verb *v)
{
	const struct api_field *fields = verb_fields(v);

	printf("Usage: pyro %s%s%s [OPTIONS]", v->noun ? v->noun : "", v->noun ? " " : "", v->name);
	for (const struct api_field *f = fields; f->name; f++) {
		char name[FLAG_NAME_MAX];

		field_metavar(f, name);
		if (f->flags & API_REST)
			printf(" [--] %s...", name);
		else if (f->flags & API_POSITIONAL)
			printf(f->flags & API_REQUIRED ? " %s%s" : " [%s%s]", name,
				v->several ? "..." : "");
	}
	printf("\n\n%s\n\nOptions:\n", summary(v));
	for (const struct api_field *f = fields; f->name; f++)
		print_flag(v, f);
	for (const struct extra_flag *e = verb_extra_flags(v); e && e->name; e++) {
		char left[FLAG_NAME_MAX];

		if (e->letter)
			(void)snprintf(left, sizeof(left), "-%c, --%s", e->letter, e->name);
		else
			(void)snprintf(
				left, sizeof(left), "--%s%s", e->name, e->fills ? " FILE" : "");
		print_row(left, e->help);
	}
	if (v->guest_status && !has_command(v))
		printf("\nExit status: the command's, 125 for a failure of pyro's own.\n");
	if (has_command(v)) {
		char first[FLAG_NAME_MAX];

		field_metavar(&fields[0], first);
		printf("\nSizes may be written 512M or 2G, durations 90 or 5m. -e K takes K from your "
		       "environment.\n"
		       "Options end at -- or at the first word after %s. Several words are quoted and joined\n"
		       "into one shell line, a single word passes as it is. After `%s%s%s`, --user names the\n"
		       "guest's user. Exit status: the command's; 128+N for signal N, 124 timed out, 130 after\n"
		       "Ctrl-C, 125 for a failure of pyro's own.\n",
			first, v->noun ? v->noun : "", v->noun ? " " : "", v->name);
	}
	printf("\n%s\nExample:\n%s\n", global_help, v->example);
}

static void print_noun(const char *noun)
{
	printf("Usage: pyro %s VERB [OPTIONS] [ARGUMENTS]\n\n%s\n\n", noun,
		look_up(noun_help, ARRAY_SIZE(noun_help), noun));
	for (size_t i = 0; i < n_verbs; i++) {
		const char *of = verbs[i].noun;
		char name[64];

		if (!of || !startswith(of, noun) || (of[strlen(noun)] && of[strlen(noun)] != ' '))
			continue;
		(void)snprintf(name, sizeof(name), "%s%s%s",
			of + strlen(noun) + (of[strlen(noun)] == ' '), of[strlen(noun)] ? " " : "",
			verbs[i].name);
		print_row(name, summary(&verbs[i]));
	}
	printf("\n%s\nExample:\n%s\n", global_help,
		look_up(noun_example, ARRAY_SIZE(noun_example), noun));
}

static void print_all(void)
{
	fputs("Usage: pyro COMMAND [OPTIONS] [ARGUMENTS]\n\n"
	      "Runs commands in microVMs: a whole Linux machine of their own.\n\n",
		stdout);
	for (size_t i = 0; i < n_verbs; i++) {
		char name[64];

		(void)snprintf(name, sizeof(name), "%s%s%s", verbs[i].noun ? verbs[i].noun : "",
			verbs[i].noun ? " " : "", verbs[i].name);
		print_row(name, summary(&verbs[i]));
	}
	print_row("completion", "Print a completion script for bash, zsh or fish.");
	printf("\n%s\nExample:\n  pyro run debian:12 -- git --version\n", global_help);
}

void help_print(const char *noun, const struct verb *v)
{
	if (v)
		print_verb(v);
	else if (noun)
		print_noun(noun);
	else
		print_all();
}

void help_completion(void)
{
	printf("Usage: pyro completion SHELL\n\n"
	       "Print a completion script for bash, zsh or fish.\n\n%s\nExample:\n"
	       "  source <(pyro completion bash)\n",
		global_help);
}
