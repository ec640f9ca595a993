/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands: how each waits and prints (client/session.h); main.c's verb table names them. And those that do not.
 */

#include "client/session.h"

extern const struct waiting wait_run, wait_doctor;
extern const struct waiting wait_env_list, wait_env_pull, wait_env_prune;
extern const struct waiting wait_vm_create, wait_vm_exec, wait_vm_list, wait_vm_state, wait_vm_stop,
	wait_vm_delete, wait_vm_reap;
/* Any method without a form of its own: its result as "Label: value" lines. */
extern const struct waiting wait_plain;

/* The checks that need no daemon, in the shape of system.doctor's result (doctor-local.c). why is the
 * error that kept us from asking the daemon that cli means. NULL when out of memory. */
json_object *doctor_local(const struct cli *cli, const struct error *why);

/* Help for everything (v NULL, noun NULL), a noun, or a verb. */
void help_print(const char *noun, const struct verb *v);
void help_completion(void);
/* The completion script for a shell; NULL is an error, as is one that is not known. */
int completion_print(const char *shell, struct error *err);
/* What may follow the words typed so far, one a line, for shell completion. */
void complete_print(int n, char **words);
