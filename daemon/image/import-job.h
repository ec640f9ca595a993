/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of pyro-import as a job: its progress, then its result or its error. Its output is
 * checked, since it parses data from the network.
 */

#include "daemon/manager.h"
#include <json-c/json.h>

struct import_job;

/*
 * Sets the user that pyro-import runs as: user pyro-import if it exists and pyrod is root or starts
 * units, else pyrod's own (0, 0). Looks the user up (NSS): only before the loop runs.
 */
void import_job_user(struct manager *m);

/*
 * Makes the new folder PARENT/NAME, owned by the user that pyro-import runs as. That user need not
 * be able to reach PARENT: it gets the folder, *ret_fd, as its working directory. *ret_fd is owned
 * by the caller.
 */
#define IMPORT_STAGING      ".staging-" /* the prefix of NAME */
#define IMPORT_STAGING_SIZE 32
int import_staging_make(struct manager *m, const char *parent, char ret_name[IMPORT_STAGING_SIZE],
	int *ret_fd, struct error *err);

#define IMPORT_PHASE_MAX  32
#define IMPORT_DETAIL_MAX 256
#define IMPORT_INPUT      "/proc/self/fd/4"
#define IMPORT_AGAIN      "Pull again; check the network and the load of this host."

struct import_job_spec {
	const char *const *args; /* verb and options, NULL-terminated; copied by the start */
	int dir_fd;              /* borrowed by import_job_start; its working directory */
	int input_fd; /* borrowed likewise; a folder to read as IMPORT_INPUT; -EBADF = none */
	bool unit; /* it needs a network or set-id programs: a unit of its own where pyrod is one */
	uint64_t timeout_usec;
	enum error_code
		failure;   /* code when it was killed or timed out without an error of its own */
	const char *again; /* the fix then; static */
	/* phase and detail are bounded, percent is -1..100; may be NULL. */
	void (*on_progress)(const char *phase, int percent, const char *detail, void *userdata);
	/* Called exactly once; result (borrowed) or err is set. The job is freed afterwards. */
	void (*on_done)(json_object *result, const struct error *err, void *userdata);
	void *userdata;
};

int import_job_start(struct manager *m, const struct import_job_spec *spec, struct import_job **ret,
	struct error *err);
/* Kills it; on_done is not called. Takes NULL. */
struct import_job *import_job_cancel(struct import_job *j);

/* Return a member of an object from outside; NULL or -1 when absent or of another type. */
const char *import_str(json_object *o, const char *key);
int64_t import_int(json_object *o, const char *key);
