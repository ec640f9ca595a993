/* SPDX-License-Identifier: MIT */
#pragma once

/* From a shell line to an argument list: which shell, how it is called, and the environment it
 * starts from. */

#include "guest/environ.h"
#include "guest/user.h"

/* "/bin/bash", else "/bin/sh", else NULL: the environment has no shell. */
const char *command_shell(void);

/*
 * The argument list that runs line. With a shell: SHELL -c LINE, or -lc when login; a LINE that would
 * be read as an option has a blank before it. A profile run
 * by a login shell may set any variable anew; of those a caller gave, PATH alone is put back behind
 * it (path_again, may be NULL), since a PATH asked for by name must be the one that is used.
 * Without a shell the line is split into words; -ENOEXEC when it needs a shell. *ret_argv is owned
 * (command_free_argv).
 */
int command_argv(
	const char *shell, bool login, const char *line, const char *path_again, char ***ret_argv);
void command_free_argv(char **argv);

/* Splits on blanks; '...', "..." without $ ` \, and \c quote. -ENOEXEC for anything else a shell
 * would act on. */
int command_words(const char *line, char ***ret_argv);

/* HOME, USER, LOGNAME, SHELL, PATH, LANG. */
int command_base_env(const struct user *u, const char *shell, struct env *e);
