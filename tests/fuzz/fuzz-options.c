/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the command line: NUL-separated words; after the global flags comes a method's
 * name, which selects the verb. A refusal has a message; an accepted line has checked parameters; a
 * shell line made of several words splits into the same words again; accepted sizes and durations
 * have the value of their text.
 */

#include "client/options.h"
#include "client/text.h"

#include "proto/api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS_MAX = 40 };

/* Returns the verb of a method, whether it has a CLI command or not; vm.run for an unknown word. */
static struct verb verb_of(const char *name)
{
	struct verb v = { NULL, "run", API_M_vm_run, NULL, true, false, NULL, NULL };

	for (int i = 0; i < API_M_MAX; i++)
		if (streq(api_methods[i].name, name))
			v = (struct verb){ "noun", name, i, NULL, false,
				i == API_M_workspace_delete || i == API_M_workspace_update, NULL,
				NULL };
	return v;
}

/* Takes one word of a shell line that contains only plain words and shell_join's quoting. */
static const char *check_word(const char *line, const char *word)
{
	while (*line && *line != ' ') {
		if (*line == '\\') {
			line++;
		} else if (*line == '\'') {
			for (line++; *line != '\''; line++, word++)
				if (!*line || *line != *word)
					abort();
			line++;
			continue;
		} else if (strchr("\"$`;&|<>(){}[]*?!#~^\n\t", *line)) {
			abort(); /* the shell's grammar, unquoted */
		}
		if (*line++ != *word++)
			abort();
	}
	if (*word)
		abort();
	return line;
}

static void check_join(char *const *words, size_t n)
{
	_cleanup_free_ char *line = NULL;

	if (n < 2)
		return;
	if (shell_join(words, n, &line) < 0)
		abort();
	const char *p = line;
	for (size_t i = 0; i < n; i++) {
		p = check_word(p, words[i]);
		if (i + 1 < n && *p++ != ' ')
			abort();
	}
	if (*p)
		abort();
}

static void check_numbers(const char *word)
{
	uint64_t mib = 0, seconds = 0;
	int64_t i = 0;

	(void)parse_size_mib(word, &mib);
	(void)parse_duration_seconds(word, &seconds);
	if (parse_i64(word, &i) >= 0) {
		char *end;

		errno = 0;
		if (strtoll(word, &end, 10) != i || *end || errno)
			abort();
	}
}

static void check_verb(struct cli *cli, int argc, char **argv, int i)
{
	_cleanup_(cmdline_done) struct cmdline line = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const struct verb v = verb_of(argv[i]);

	if (cmdline_parse(&line, cli, &v, argc, argv, i + 1, &err) < 0) {
		if (!err.set || !err.message)
			abort();
	} else if (!(line.extra & (EXTRA_HELP | EXTRA_VERSION | EXTRA_ALL)) && !line.checked) {
		abort();
	}
	for (size_t k = 0; k < line.n_words; k++) {
		_cleanup_error_ struct error why = ERROR_INIT;

		if (cmdline_aim(&line, line.words[k], &why) < 0 ? !why.set : !line.checked)
			abort();
	}
}

static void check_line(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct cli cli = { 0 };
	unsigned extra = 0;
	int i = 0;

	if (globals_parse(&cli, NULL, argc, argv, &i, &extra, &err) < 0) {
		if (!err.set)
			abort();
	} else if (i > argc) {
		abort();
	} else if (i < argc) {
		check_verb(&cli, argc, argv, i);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *argv[WORDS_MAX + 1];
	int argc = 0;

	_cleanup_free_ char *text = malloc(size + 1);
	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	for (char *p = text; p < text + size && argc < WORDS_MAX; p += strlen(p) + 1)
		argv[argc++] = p;
	argv[argc] = NULL;
	check_line(argc, argv);
	check_join(argv, (size_t)argc);
	for (int i = 0; i < argc; i++)
		check_numbers(argv[i]);
	return 0;
}
