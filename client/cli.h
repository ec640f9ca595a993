/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the commands of `pyro` share: the global flags, the verb table's row, exit statuses.
 */

#include "client/pyro.h"
#include "proto/base.h"
#include "proto/error.h"

#include <json-c/json.h>

enum {
	EXIT_USAGE = 2,
	EXIT_TIMEOUT = 124,
	EXIT_PYRO = 125, /* a failure of pyro's own, where other statuses are the guest's */
	EXIT_INTERRUPTED = 130,
	EXIT_NO_STDOUT = 141,
};

/* The global flags. */
struct cli {
	const char *socket; /* borrowed: argv */
	enum pyro_mode mode;
	bool json;
	bool quiet;
};

struct api_field;
struct waiting;

struct verb {
	const char *noun; /* NULL: a verb without a noun */
	const char *name;
	int method;                 /* API_M_...; its table gives flags and help */
	const struct waiting *wait; /* how it waits and prints: session.h */
	bool guest_status;          /* the exit status is the guest's; own failures are 125 */
	bool several;               /* takes several objects, one call for each */
	const char *summary;        /* NULL: the method's help */
	const char *example;
	const struct api_field *fields; /* NULL: the method's parameters (verb_fields) */
};

extern const struct verb verbs[];
extern const size_t n_verbs;

/* Returns the noun that the word is or stands for (ws: workspace); NULL: none. */
const char *cli_noun(const char *word);
/* Returns the noun of two words ("workspace file") of which noun is the first and word the second;
 * NULL: none. */
const char *cli_noun_below(const char *noun, const char *word);

DEFINE_CLEANUP(struct pyro *, pyro_free)

/* Returns a copy of fix. A `pyro ...` command gets the flags that name this command line's daemon.
 * Owned by the caller; NULL when out of memory. */
char *cli_aim_fix(const struct cli *cli, const char *fix);

/* Connects as the global flags say. */
int cli_connect(const struct cli *cli, struct pyro **ret, struct error *err);

/* Converts libpyro's error to *err and frees e. Returns its -errno. */
int cli_take_error(struct pyro_error *e, struct error *err);

/* Parses the result of method, which must be an object. *ret is owned by the caller. */
int cli_take_result(const char *text, const char *method, json_object **ret, struct error *err);

/* Calls a method that the daemon answers at once; waits without a limit. *ret, an object, is owned
 * by the caller. */
int cli_call(struct pyro *p, const char *method, json_object *params, json_object **ret,
	struct error *err);
