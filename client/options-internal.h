/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The internals of the command line's parser, for options.c (words and flags) and options-value.c
 * (their values).
 */

#include "client/options.h"

#define VALUE_SHOWN 60 /* bytes of a refused value */

struct parser {
	struct cli *cli;
	const struct verb *verb;
	const char *noun;               /* a noun read without its verb; NULL: none */
	const struct api_field *fields; /* NULL: only global flags */
	struct cmdline *line;
	int argc;
	char **argv;
	int i;
	int at;       /* index of the flag being read */
	char **words; /* owned array of borrowed strings */
	size_t n_words;
	int from, to; /* the words being read: argv[from..to), or argv[from..i) if to is 0 */
	int verb_end; /* index of the first word after the verb */
	int took_at;  /* index of a flag that took a word of the verb as its value; 0: none */
	struct error *err;
};

/* options.c */
int options_usage(const struct parser *p, const char *what, const char *value);
/* True if a word taken as a flag's value belongs to the verb, because the value was forgotten. */
bool options_is_own_word(const struct parser *p, const char *word);

/* options-value.c */
/* Refuses the words being read. The fix has `good` (quoted) as their value; NULL: leaves them
 * out. */
int options_refuse(const struct parser *p, const char *flag, const char *good, const char *cause,
	const char *message);
/* Takes the value of a field. */
int options_take_field(
	struct parser *p, const struct api_field *f, const char *flag, const char *value);
/* Takes the contents of the file of a flag. */
int options_take_file(
	struct parser *p, const struct extra_flag *e, const char *flag, const char *path);
