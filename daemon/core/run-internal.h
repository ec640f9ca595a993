/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The internals of a run, for run.c (the flow), run-result.c (the result) and run-attach.c (its
 * row, and callers that attach again).
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
	RUN_STARTING,  /* waits for the machine's on_started */
	RUN_EXECUTING, /* waits for the exec's on_exit or on_failed */
	RUN_DELETING,  /* waits for the deletion of the machine, or of the row in one that stays */
	RUN_DRAINING,  /* the machine is deleted, stdio has bytes left */
	RUN_DONE,
};

struct run {
	LIST_ENTRY(run) entry;
	struct manager *m; /* borrowed */
	struct run_callbacks cb;
	void *userdata;
	enum run_phase phase;
	bool abandoned; /* no caller waits for its result */
	bool drained;
	bool entering; /* its row in an existing machine is being committed */
	bool unwanted; /* its end was requested while entering */
	bool entered;
	bool live; /* its caller reads output by offset, so that another may continue */
	bool with_stdin;
	uint32_t channel; /* of its command, in its row */

	struct machine_spec spec;    /* its environment is the next member */
	char *environment, *command; /* owned */
	char *environment_version;   /* owned or NULL: not known */
	struct environment *env;     /* borrowed: the catalog's */
	struct pull_wait *pull;      /* owned */
	struct machine *machine;     /* borrowed; NULL before it is made and after its deletion */
	struct exec *exec;           /* owned */
	struct stdio *stdio;         /* owned or NULL */
	struct attach *attach;       /* owned: a caller that waits for the guest's agent */
	sd_event_source *later;      /* owned: answers from the loop */
	sd_event_source *grace;      /* owned: deadline after the caller has disconnected */

	struct capture out[2]; /* stdout, stderr; used without stdio */
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
/* The run whose command uses mc, or NULL. */
struct run *run_of(const struct machine *mc);
/* Reports a pause if its machine is paused now. */
void run_report_paused(struct run *r);
void run_fail(struct run *r, const struct error *err);
/* Deletes its machine unless a caller attaches within DEADLINE_GRACE. */
void run_begin_grace(struct run *r);
extern const struct exec_callbacks run_exec_events;
extern const struct stdio_callbacks run_stdio_events;

int run_add_later(struct run *r);

/* run-result.c */
/* Copies from the machine what the result needs after its deletion. */
int run_note_machine(struct run *r);
int run_result(struct run *r, json_object **ret);

/* run-attach.c */
int run_keep_row(struct run *r, store_done_fn done);
void run_on_held(struct exec *x, void *userdata);
struct attach *attach_free(struct attach *a);
