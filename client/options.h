/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The command line of one verb, read by its method's table: flags become members of the params object,
 * words its positional members. Global flags stand anywhere before the words that end the options.
 */

#include "client/cli.h"

struct api_field;

/* Flags that are no parameter. */
enum {
	EXTRA_TTY = 1 << 0, /* -t */
	EXTRA_HELP = 1 << 1,
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
 * Takes the global flags at the beginning of argv; *i is the first word that is none. EXTRA_HELP and
 * --version are reported by ret_help and ret_version.
 */
int globals_parse(struct cli *cli, int argc, char **argv, int *i, bool *ret_help, bool *ret_version,
	struct error *err);

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
