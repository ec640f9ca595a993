/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands: how each waits and prints (client/session.h), named by main.c's verb table. Also
 * those that do not wait: help, completion and doctor's own checks.
 */

#include "client/session.h"

extern const struct waiting wait_run, wait_doctor;
extern const struct waiting wait_env_list, wait_env_pull, wait_env_prune;
extern const struct waiting wait_workspace_create, wait_workspace_delete, wait_workspace_list,
	wait_workspace_share, wait_workspace_state, wait_workspace_update, wait_workspace_wait;
extern const struct waiting wait_file_list, wait_file_read, wait_file_written;
extern const struct waiting wait_vm_create, wait_vm_exec, wait_vm_list, wait_vm_state, wait_vm_stop,
	wait_vm_delete, wait_vm_reap;
extern const struct waiting wait_exec, wait_exec_list, wait_exec_read, wait_exec_write,
	wait_exec_signal, wait_exec_wait, wait_exec_attach, wait_workspace_logs;
/* The flags and words of verbs that do not have all of their method's, or others. */
extern const struct api_field exec_attach_fields[], exec_read_fields[], workspace_logs_fields[];
/* For conclude: reports the timeout or limit that ended the command, and begins a new line for what
 * follows. Returns the exit status. */
int command_report_end(struct session *s);
/* For a method without a format of its own: prints its result as "Label: value" lines. */
extern const struct waiting wait_plain;

/* For the phase "start" of a machine, with the daemon's progress: notes on stderr that it is
 * emulated, every time if the CPU could do better, else the first time. */
void note_emulation(const struct session *s, json_object *progress);

/* Makes the checks that need no daemon, in the form of system.doctor's result (doctor-local.c).
 * why: the failure to reach the daemon of cli. Owned by the caller; NULL when out of memory. */
json_object *doctor_local(const struct cli *cli, const struct error *why);

/* Prints help for everything (v and noun NULL), for a noun, or for a verb. */
void help_print(const char *noun, const struct verb *v);
void help_completion(void);
/* Prints the completion script for a shell. NULL or an unknown shell is an error. */
int completion_print(const char *shell, struct error *err);
/* Prints what may follow the words typed so far, one candidate per line, for shell completion. */
void complete_print(int n, char **words);
