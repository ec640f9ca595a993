/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands, one function each; main.c's verb table names them. Each returns the exit status, or
 * -errno with err set.
 */

#include "client/cli.h"
#include "client/options.h"

int cmd_run(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_doctor(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_env_list(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_env_pull(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_env_prune(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_vm_create(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_vm_list(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_vm_state(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_vm_delete(const struct cli *cli, const struct cmdline *line, struct error *err);
int cmd_vm_reap(const struct cli *cli, const struct cmdline *line, struct error *err);
/* A machine as its lines of "Label: value". */
void cmd_vm_print(json_object *vm);
/* pyro_progress_fn of calls that may pull; userdata is a struct out_progress. */
void cmd_on_pull(const char *json, void *userdata);
/* Any method without a form of its own: its result as "Label: value" lines. */
int cmd_plain(const struct cli *cli, const struct cmdline *line, struct error *err);

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
