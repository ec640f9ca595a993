/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What `pyro` prints: data on stdout, everything else on stderr. Text from outside is escaped.
 */

#include "client/cli.h"

/*
 * Replaces stdout by a stream that waits for slow readers, whatever the descriptor's flags are.
 * *ret_error is 0 until a write fails, then the -errno of the first failure. It must live as long
 * as stdout.
 */
int out_begin(int *ret_error);

/* Prints the error on stderr as message, cause and fix; with --json as an object on stdout. */
void out_error(const struct cli *cli, const struct error *err);

/* Returns the fix as this user runs it: for root without sudo, which a host may lack. Owned by the
 * caller; NULL when out of memory. */
char *out_fix(const char *fix);

/* Returns the error's --json form. Owned by the caller; NULL when out of memory. */
json_object *out_error_json(const struct error *err);

/* Prints JSON on stdout: one line; on a terminal indented, with unsafe characters as \uNNNN. */
void out_json(json_object *o);

/* Prints one "[verb] ..." line on stderr unless -q. Text from outside must be escaped already. */
void out_note(const struct cli *cli, const char *fmt, ...) _printf_(2, 3);

/* Prints s escaped to f; "-" for NULL. */
void out_text(FILE *f, const char *s);

/* Prints "Label: value", escaped; "-" for an empty value. */
void out_line(const char *label, const char *value);

/* Prints "Label: value" for each member of an object, with labels made from the names. */
void out_object(json_object *o);

struct out_column {
	const char *heading, *key;
};
/* Prints rows as a table with a heading on a terminal, else as key=value lines; with -q only the
 * first column, the id. Without rows prints when_empty on stderr. */
void out_list(const struct cli *cli, json_object *rows, const struct out_column *columns, size_t n,
	const char *when_empty);

/* Returns a string member for printing; "" when absent or of another type. Borrowed. */
const char *out_member(json_object *o, const char *key);

/* Return a whole number, or true or false; dflt when absent or of another type. */
int64_t out_int(json_object *o, const char *key, int64_t dflt);
bool out_bool(json_object *o, const char *key, bool dflt);

/* Return an array or object member; NULL when absent or of another type. Borrowed. */
json_object *out_array(json_object *o, const char *key);
json_object *out_sub(json_object *o, const char *key);

/*
 * Progress of a pull or a machine: a line for each new phase; for a pull on a terminal a bar
 * instead, unless NO_COLOR is set or TERM is dumb.
 */
struct out_progress {
	const struct cli *cli;   /* borrowed */
	const char *environment; /* borrowed */
	char phase[32];
	bool drawn; /* a bar is on the terminal */
	/* For lines: when the pull began (monotonic), and the last line's time, step and
	 * percent. */
	uint64_t begin_usec, printed_usec;
	char step[32];
	int percent;
};
/* Shows a pull's phase, "ready" at its end; percent < 0: unknown. Draws a bar on a terminal;
 * elsewhere prints a line for each step, then for each ten percent or ten seconds. */
void out_pull_phase(struct out_progress *p, const char *phase, int percent);
/* Wipes the bar. */
void out_progress_end(struct out_progress *p);
