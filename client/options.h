/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The command line of one verb, read by its method's table: flags become members of the params
 * object, words its positional members. Global flags that name the daemon are allowed only before
 * the command, other global flags anywhere before the options end.
 */

#include "client/cli.h"

/* Flags that are not parameters. */
enum {
	EXTRA_TTY = 1 << 0, /* -t */
	EXTRA_HELP = 1 << 1,
	EXTRA_VERSION = 1 << 2,
	EXTRA_ID_ONLY = 1 << 3, /* of create */
	EXTRA_ALL = 1 << 4,     /* of workspace delete: all of the caller's */
	EXTRA_CONTENT = 1 << 5, /* of workspace file read: no summary */
};

struct cmdline {
	const struct verb *verb; /* borrowed */
	json_object *params;     /* owned: only the given members */
	json_object *checked;    /* owned: params checked, with defaults */
	unsigned extra;
	char **words; /* owned array of borrowed strings: the objects of a verb that takes several */
	size_t n_words;
};

struct extra_flag {
	char letter;
	const char *name;
	unsigned bit;
	const char *help;
	const char *fills; /* takes a FILE, whose contents are this parameter; NULL: takes none */
};
/* Returns the verb's flags that are not parameters, ending with {0}; NULL if it has none. */
const struct extra_flag *verb_extra_flags(const struct verb *v);

/*
 * Takes the global flags at argv[*i] and moves *i to the first other word. noun: the noun before
 * them, after which flags that name the daemon are refused; NULL: none. ret_extra gets EXTRA_HELP
 * and EXTRA_VERSION.
 */
int globals_parse(struct cli *cli, const char *noun, int argc, char **argv, int *i,
	unsigned *ret_extra, struct error *err);

/* Reads argv[i..] for verb v. Errors are `usage` or `invalid_argument`, with value and range. */
int cmdline_parse(struct cmdline *ret, struct cli *cli, const struct verb *v, int argc, char **argv,
	int i, struct error *err);
/* Aims the line of a verb that takes several objects at one of them: params and checked name it. */
int cmdline_aim(struct cmdline *line, const char *word, struct error *err);
void cmdline_done(struct cmdline *line);
