/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of pyro-import as a job: its progress, and in the end its result or its error. What it
 * prints is checked: it parses what came from the network.
 */

#include "daemon/manager.h"
#include <json-c/json.h>

struct import_job;

/* Whom pyro-import runs as: user pyro-import when we are root, or start units, and it exists, else ourselves (0, 0).
 * Looks the user up (NSS): only before the loop runs. */
void import_job_user(struct manager *m);

/*
 * Makes the new folder PARENT/NAME, which belongs to whom pyro-import runs as. *ret_fd, the folder, is
 * owned by the caller: whoever pyro-import runs as need not be able to reach PARENT, since it gets the
 * folder as its working directory.
 */
#define IMPORT_STAGING      ".staging-" /* what NAME begins with */
#define IMPORT_STAGING_SIZE 32
int import_staging_make(struct manager *m, const char *parent, char ret_name[IMPORT_STAGING_SIZE],
	int *ret_fd, struct error *err);

#define IMPORT_PHASE_MAX  32
#define IMPORT_DETAIL_MAX 256
#define IMPORT_INPUT      "/proc/self/fd/4"
#define IMPORT_AGAIN      "Pull again; check the network and the load of this host."

struct import_job_spec {
	const char *const *args; /* verb and options, NULL-terminated; copied by the start */
	int dir_fd;   /* borrowed until the start has returned; the folder it works in, "." to it */
	int input_fd; /* borrowed like it; a folder to read, IMPORT_INPUT to it; -EBADF = none */
	bool unit; /* it needs a network or set-id programs: a unit of its own where pyrod is one */
	uint64_t timeout_usec;
	enum error_code
		failure;   /* what an end is that it does not explain itself: killed, or too late */
	const char *again; /* ... and what its user does then; static */
	/* phase and detail are bounded, percent is -1..100; may be NULL. */
	void (*on_progress)(const char *phase, int percent, const char *detail, void *userdata);
	/* Exactly once; result (borrowed) or err is set. The job is freed afterwards. */
	void (*on_done)(json_object *result, const struct error *err, void *userdata);
	void *userdata;
};

int import_job_start(struct manager *m, const struct import_job_spec *spec, struct import_job **ret,
	struct error *err);
/* Kills it; on_done is not called. Takes NULL. */
struct import_job *import_job_cancel(struct import_job *j);

/* Checked members of what a process printed or a file holds: absent or of another type is NULL, -1. */
const char *import_str(json_object *o, const char *key);
int64_t import_int(json_object *o, const char *key);
