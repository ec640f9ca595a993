/* SPDX-License-Identifier: MIT */
#pragma once

/* The inside of struct core, for the files of core/ alone. */

#include "daemon/core/core.h"
#include "daemon/machine/machine.h"

struct run;
LIST_HEAD(run_list, run);
struct creation;
LIST_HEAD(creation_list, creation);

struct core {
	struct run_list runs;           /* borrowed: exec.signal finds them here */
	struct creation_list creations; /* borrowed: each frees itself when it has ended */
	sd_event_source *reaper;        /* owned: the next expiry */
};

/* The owners of machines. */
extern const struct machine_owner vm_owner;  /* vm.c: stays until it is deleted */
extern const struct machine_owner run_owner; /* run-attach.c: goes with its only command */

/* run.c: mc was paused, or goes on: the caller of its command is told. */
void run_on_pause(struct machine *mc);
/* Frees the runs nobody waits for; the daemon is ending. */
void runs_end(struct core *core);
/* create.c: the daemon ends. Each creation that still waits ends with an error to its caller. */
void creations_end(struct core *core);

/* reaper.c */
int reaper_new(struct manager *m, sd_event_source **ret);
/* Something that decides the next expiry has changed. */
void reaper_update(struct manager *m);
/* on_state of every owner. */
void reaper_on_state(struct machine *mc, bool deleted);

/* run-attach.c: the run of a command that an earlier daemon started in mc, without a caller. */
int run_adopt(struct machine *mc, const struct exec_row *row);
