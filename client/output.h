/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What `pyro` prints: data on stdout, everything else on stderr, nothing from outside unescaped.
 */

#include "client/cli.h"

/*
 * Makes stdout one that waits for slow readers whatever the descriptor's flags are. *ret_error is 0 until something
 * cannot be written, then the -errno of the first failure; it has to live as long as stdout.
 */
int out_begin(int *ret_error);

/* The error on stderr as message, cause and fix; with --json as an object on stdout. */
void out_error(const struct cli *cli, const struct error *err);

/* A fix as this user runs it: root needs no sudo, and a host may have none. NULL when out of memory.
 * Owned by the caller. */
char *out_fix(const char *fix);

/* The --json form. NULL when out of memory. Owned by the caller. */
json_object *out_error_json(const struct error *err);

/* JSON on stdout: on a terminal indented, and with what could play with it as \uNNNN; else one line. */
void out_json(json_object *o);

/* One "[verb] …" line on stderr unless -q. Strings in it must be escaped with out_text. */
void out_note(const struct cli *cli, const char *fmt, ...) _printf_(2, 3);

/* Prints s escaped to f; "-" for NULL. */
void out_text(FILE *f, const char *s);

/* "Label: value" for each member of an object, labels made from the names. */
void out_object(json_object *o);

struct out_column {
	const char *heading, *key;
};
/* Rows as a table with its heading on a terminal, else as key=value lines; with -q the first column alone, which is the
 * id. Without rows a line on stderr. */
void out_list(const struct cli *cli, json_object *rows, const struct out_column *columns, size_t n,
	const char *when_empty);

/* A string member for printing: "" when absent. Borrowed. Any type but a string is as absent. */
const char *out_member(json_object *o, const char *key);

/* A whole number, true or false; dflt when absent or of another type. */
int64_t out_int(json_object *o, const char *key, int64_t dflt);
bool out_bool(json_object *o, const char *key, bool dflt);

/* An array or object member; NULL when absent or of another type. Borrowed. */
json_object *out_array(json_object *o, const char *key);
json_object *out_sub(json_object *o, const char *key);

/*
 * Progress of a pull or a machine: a phase line when the phase changes; for a pull on a terminal a bar instead, unless
 * NO_COLOR is set or TERM is dumb.
 */
struct out_progress {
	const struct cli *cli;   /* borrowed */
	const char *environment; /* borrowed */
	char phase[32];
	bool drawn; /* a bar stands on the terminal */
	/* Where lines are printed: when the pull began, and what the last of them said, when. */
	uint64_t begin_usec, said_usec;
	char step[32];
	int percent;
};
/* Shows a pull's phase, "ready" at its end; percent < 0: unknown. A bar on a terminal; elsewhere a line for each step,
 * then one for each ten percent or, when it is called, ten seconds. */
void out_pull_phase(struct out_progress *p, const char *phase, int percent);
/* Wipes the bar. */
void out_progress_end(struct out_progress *p);
