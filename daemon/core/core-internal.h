/* SPDX-License-Identifier: MIT */
#pragma once

/* The internals of struct core, for the files of core/ only. */

#include "daemon/core/core.h"
#include "daemon/machine/machine.h"

struct run;
LIST_HEAD(run_list, run);
struct creation;
LIST_HEAD(creation_list, creation);
struct commands;
LIST_HEAD(commands_list, commands);
struct command_put;
LIST_HEAD(command_put_list, command_put);
struct listener;
LIST_HEAD(listener_list, listener);
TAILQ_HEAD(listener_queue, listener);
struct workspace;
LIST_HEAD(workspace_list, workspace);
struct operation;
LIST_HEAD(operation_list, operation);
struct workspace_failure;
TAILQ_HEAD(workspace_failures, workspace_failure);

struct core {
	struct run_list runs;               /* borrowed: exec.signal finds them here */
	struct creation_list creations;     /* borrowed: each frees itself when it has ended */
	struct workspace_list workspaces;   /* owned: before their machines exist, and as long */
	struct workspace_failures failures; /* owned: the last failed creations */
	struct operation_list operations;   /* borrowed: on files; each waits for a start */
	struct commands_list commands;      /* owned: the history of each workspace */
	struct command_put_list puts;       /* owned: rows of commands that are being committed */
	struct listener_list listeners;     /* owned: of all commands */
	uid_t collected_uid;                /* whose output was collected last */
	struct listener_queue collectors;   /* borrowed: one at a time collects output */
	sd_event_source *reaper;            /* owned: timer of the next expiry */
	sd_event_source *changed;           /* owned: notifies the waiters for workspaces' states */
	bool ending;                        /* the daemon ends: nothing is deleted any more */
};

/* The owners of machines. */
extern const struct machine_owner vm_owner;        /* vm.c: stays until it is deleted */
extern const struct machine_owner run_owner;       /* run-attach.c: deleted with its only command */
extern const struct machine_owner workspace_owner; /* workspace.c: has a name and a history */

/* run.c: reports to the command's caller that mc was paused or resumed. */
void run_on_pause(struct machine *mc);
/* Frees the runs without a caller at the daemon's end. */
void runs_end(struct core *core);
struct command_params;
struct exec_callbacks;
/* command.c: the exec of a command with these parameters, which are copied. */
int command_exec_new(sd_event *event, const struct command_params *p,
	const struct exec_callbacks *cb, void *userdata, struct exec **ret);
/* command.c: frees the commands at the daemon's end. */
void commands_end(struct core *core);
/* listener.c: frees the listeners, after that. */
void listeners_end(struct core *core);
/* create.c: ends each pending creation with an error at the daemon's end. */
void creations_end(struct core *core);

/* workspace.c: loads the workspaces, before their machines and commands. */
int workspaces_load(struct manager *m, struct error *err);
/* Connects each with its machine. */
int workspaces_join(struct manager *m, struct error *err);
/* Frees them after their machines, at the daemon's end. */
void workspaces_free(struct core *core);

/* reaper.c */
int reaper_new(struct manager *m, sd_event_source **ret);
/* Sets the timer again after a change that affects the next expiry. */
void reaper_update(struct manager *m);
/* on_state of every owner. */
void reaper_on_state(struct machine *mc, bool deleted);

/* run-attach.c: adopt_exec of vm and run: makes the run, without a caller, of a command that a
 * previous daemon started in mc. */
int run_adopt(struct machine *mc, const struct exec_row *row);
