/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The command line of one verb, read by its method's table: flags become members of the params object,
 * words its positional members. Those global flags that say which daemon stand before the command alone, the others anywhere
 * before the words that end the options.
 */

#include "client/cli.h"

struct api_field;

/* Flags that are no parameter. */
enum {
	EXTRA_TTY = 1 << 0, /* -t */
	EXTRA_HELP = 1 << 1,
	EXTRA_VERSION = 1 << 2,
	EXTRA_ID_ONLY = 1 << 3, /* of create */
};

struct cmdline {
	const struct verb *verb; /* borrowed */
	json_object *params;     /* owned: only what was given */
	json_object *checked;    /* owned: the same, checked, with the defaults */
	unsigned extra;
};

struct extra_flag {
	char letter;
	const char *name;
	unsigned bit;
	const char *help;
};
/* NULL for verbs without such flags; ends with {0}. */
const struct extra_flag *verb_extra_flags(const struct verb *v);

/*
 * Takes the global flags at argv[*i]; *i is then the first word that is none. noun: the word of the command that stands
 * before them, after which some are refused; NULL: none. ret_extra gets EXTRA_HELP and EXTRA_VERSION.
 */
int globals_parse(struct cli *cli, const char *noun, int argc, char **argv, int *i,
	unsigned *ret_extra, struct error *err);

/* Reads argv[i..] for verb v. Errors are `usage` or `invalid_argument`, naming the value and the range. */
int cmdline_parse(struct cmdline *ret, struct cli *cli, const struct verb *v, int argc, char **argv,
	int i, struct error *err);
void cmdline_done(struct cmdline *line);

/* The next flag name of a field: writes "--mem-mib", "-m", ... to ret for index 0, 1, ...; false when
 * there are no more, or the field is no flag. */
#define FLAG_NAME_MAX 64
bool field_flag(const struct api_field *f, size_t index, char ret[FLAG_NAME_MAX]);
/* "VM_ID" for a positional field. */
void field_metavar(const struct api_field *f, char ret[FLAG_NAME_MAX]);
bool field_takes_value(const struct api_field *f);
