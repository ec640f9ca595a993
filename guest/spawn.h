/* SPDX-License-Identifier: MIT */
#pragma once

/* Starts a program in its cgroup and session, as its user, with three descriptors only. */

#include "guest/user.h"
#include "proto/base.h"

struct spawn_params {
	const char *path;      /* absolute, or a name looked up in path_dirs */
	const char *path_dirs; /* "a:b", used when path has no slash */
	char *const *argv;     /* NULL-terminated */
	char *const *env;      /* NULL-terminated */
	const struct user *user;
	const char *cwd;
	bool cwd_or_root; /* run in "/" if cwd cannot be entered */
	int fds[3];       /* borrowed: stdin, stdout, stderr; stdin -EBADF is /dev/null */
	int cgroup_fd;    /* borrowed; -EBADF: none */
};

/*
 * Forks. *ret_status_fd (owned, non-blocking, close-on-exec) reports the child's progress: EOF if
 * the program runs, else see spawn_status.
 */
int spawn(const struct spawn_params *p, pid_t *ret_pid, int *ret_status_fd);

/*
 * Returns 0 if the program runs, -EAGAIN if unknown yet, else -errno of the child's failed step,
 * named by *ret_what (owned).
 */
int spawn_status(int status_fd, const struct spawn_params *p, char **ret_what);
