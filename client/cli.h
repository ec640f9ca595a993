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

struct cmdline;

struct verb {
	const char *noun; /* NULL: the verb stands alone */
	const char *name;
	int method; /* API_M_..., whose table gives flags and help */
	/* Runs it; returns the exit status. Errors go to err and are printed by the caller. */
	int (*run)(const struct cli *cli, const struct cmdline *line, struct error *err);
	bool guest_status;   /* the exit status is the guest's: own failures are 125 */
	const char *summary; /* NULL: the method's help */
	const char *example;
};

extern const struct verb verbs[];
extern const size_t n_verbs;

DEFINE_CLEANUP(struct pyro *, pyro_free)

/* fix, where it is a `pyro ...` command with the flags that name this command line's daemon added. Owned by the
 * caller; NULL when out of memory. */
char *cli_aim_fix(const struct cli *cli, const char *fix);

/* Connects as the global flags say. */
int cli_connect(const struct cli *cli, struct pyro **ret, struct error *err);
/* To the same daemon's place as a connection that was lost. */
int cli_connect_again(const struct pyro *lost, struct pyro **ret, struct error *err);

/* Moves libpyro's error over; takes e. Returns its -errno. */
int cli_take_error(struct pyro_error *e, struct error *err);

/* The result of a call of method, which has to be an object. Owned by the caller. */
int cli_take_result(const char *text, const char *method, json_object **ret, struct error *err);

/* One call from start to end, with its result (an object) parsed. on_progress may be NULL. */
int cli_call_within(struct pyro *p, const char *method, json_object *params, int timeout_ms,
	pyro_progress_fn on_progress, void *userdata, json_object **ret, struct error *err);
/* The same without a limit of its own. */
int cli_call(struct pyro *p, const char *method, json_object *params, pyro_progress_fn on_progress,
	void *userdata, json_object **ret, struct error *err);

/* For the answer to a cancelled call: a machine's deletion. */
#define CANCEL_WAIT (15 * USEC_PER_SEC)

/* Blocks SIGINT, SIGTERM and SIGHUP and returns a descriptor that tells of them. Those that were ignored when we were
 * started (nohup, a background job) stay ignored. */
int cli_open_signals(struct error *err);
/* The time until deadline (monotonic, UINT64_MAX: none) as poll() takes it. */
int cli_poll_timeout(uint64_t deadline);
