/* SPDX-License-Identifier: MIT */
#pragma once

/* Starts one program: in its cgroup, its session, as its user, with three descriptors and no other.
 */

#include "guest/user.h"
#include "proto/base.h"

struct spawn_params {
	const char *path;      /* absolute, or a name looked up in path_dirs */
	const char *path_dirs; /* "a:b", used when path has no slash */
	char *const *argv;     /* NULL-terminated */
	char *const *env;      /* NULL-terminated */
	const struct user *user;
	const char *cwd;
	int fds[3];    /* borrowed: stdin, stdout, stderr; stdin -EBADF is /dev/null */
	int cgroup_fd; /* borrowed; -EBADF: none */
};

/*
 * Forks. What happens in the child until its execve comes by *ret_status_fd (owned, non-blocking,
 * close-on-exec): end of file when the program runs, else spawn_status.
 */
int spawn(const struct spawn_params *p, pid_t *ret_pid, int *ret_status_fd);

/*
 * 0: the program runs; -EAGAIN: not known yet; else -errno of the child's failed step, with
 * *ret_what (owned) saying which.
 */
int spawn_status(int status_fd, const struct spawn_params *p, char **ret_what);
