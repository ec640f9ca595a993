/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The inside of a run, for run.c (the flow), run-result.c (what its caller is told) and run-attach.c (its
 * row, and callers that come again).
 */

#include "daemon/agent/capture.h"
#include "daemon/agent/exec.h"
#include "daemon/agent/stdio.h"
#include "daemon/core/core-internal.h"
#include "daemon/core/run.h"
#include "daemon/image/environment.h"
#include "daemon/machine/limit.h"
#include "daemon/store/store.h"

struct attach;

enum run_phase {
	RUN_PULLING,
	RUN_STARTING,  /* the machine's on_started will come */
	RUN_EXECUTING, /* the exec's on_exit or on_failed will come */
	RUN_DELETING, /* the deletion's done will come, of the machine or of a row in one that stays */
	RUN_DRAINING, /* the machine is gone, stdio has bytes left */
	RUN_DONE,
};

struct run {
	LIST_ENTRY(run) entry;
	struct manager *m; /* borrowed */
	struct run_callbacks cb;
	void *userdata;
	enum run_phase phase;
	bool abandoned; /* nobody waits for its result */
	bool drained;
	bool entering; /* the row of a command in a machine that is there is being committed, */
	bool unwanted; /* ... and the end was asked for meanwhile */
	bool entered;
	bool live; /* its caller takes the output by offset, so that another may go on */
	bool with_stdin;
	uint32_t channel; /* of its command, in its row */

	struct machine_spec spec;    /* environment is owned */
	char *environment, *command; /* owned */
	char *input;                 /* owned or NULL: what its stdin is, n_input bytes */
	size_t n_input, n_fed;       /* of which the exec has so many */
	char *environment_version;   /* owned or NULL: not known */
	struct environment *env;     /* borrowed: the catalog's */
	struct pull_wait *pull;      /* owned */
	struct machine *machine;     /* borrowed: NULL before it is made and when it is gone */
	struct exec *exec;           /* owned */
	struct stdio *stdio;         /* owned or NULL */
	struct attach *attach;       /* owned: a caller that waits for the guest's agent */
	sd_event_source *later;      /* owned: the answer, in a turn of its own */
	sd_event_source *grace;      /* owned: after the caller has gone */

	struct capture out[2]; /* stdout, stderr, without stdio */
	uint64_t bytes[2];
	struct msg_exit exit;
	struct limit limit;
	bool exited;
	bool deleted;
	struct error err; /* owned: why it failed */
	char vm_id[16], execution_mode[32], accelerator[16], start_mode[16];
};

/* run.c */
struct run *run_new(
	struct manager *m, const struct run_callbacks *cb, void *userdata, struct error *err);
void run_progress(struct run *r, const char *phase);
/* The run whose command has mc, or NULL. */
struct run *run_of(const struct machine *mc);
/* If its machine stands still now. */
void run_report_paused(struct run *r);
void run_fail(struct run *r, const struct error *err);
/* Deletes its machine unless a caller is there again within DEADLINE_GRACE. */
void run_begin_grace(struct run *r);
extern const struct exec_callbacks run_exec_events;
extern const struct stdio_callbacks run_stdio_events;

int run_add_later(struct run *r);

/* run-result.c */
/* Its machine is there: what is told of it when it is gone. */
int run_note_machine(struct run *r);
int run_result(struct run *r, json_object **ret);

/* run-attach.c */
int run_keep_row(struct run *r, store_done_fn done);
void run_on_held(struct exec *x, void *userdata);
struct attach *attach_free(struct attach *a);
