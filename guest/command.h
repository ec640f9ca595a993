/* SPDX-License-Identifier: MIT */
#pragma once

/* Turns a shell line into an argument list: the shell, its options, and the base environment. */

#include "guest/environ.h"
#include "guest/user.h"

/* Returns "/bin/bash", else "/bin/sh", else NULL if the environment has no shell. */
const char *command_shell(void);

/*
 * Makes the argument list that runs line. With a shell: SHELL -c LINE, or -lc if login; a LINE that
 * looks like an option gets a blank before it. A login shell's profile may change any variable;
 * path_again (may be NULL) sets PATH after it, since a PATH given by the caller must be used.
 * Without a shell the line is split into words; -ENOEXEC if it needs a shell. *ret_argv is owned
 * (command_free_argv).
 */
int command_argv(
	const char *shell, bool login, const char *line, const char *path_again, char ***ret_argv);
void command_free_argv(char **argv);

/* Splits at blanks; '...', "..." without $ ` \, and \c quote. -ENOEXEC for any other shell
 * syntax. */
int command_words(const char *line, char ***ret_argv);

/* Sets HOME, USER, LOGNAME, SHELL, PATH, LANG and the like. */
int command_base_env(const struct user *u, const char *shell, struct env *e);
