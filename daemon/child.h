/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The one way a child process starts: a pidfd, only the descriptors that are named, default signal
 * mask and dispositions, no shell.
 */

#include "proto/base.h"
#include <sys/types.h>

struct child_spec {
	const char *const *argv; /* exec: argv[0] is an absolute path; NULL: run fn in the child */
	const char *const *env;  /* exec: NULL = our PATH, HOME, TMPDIR, *_proxy; LANG=C.UTF-8 */
	/* Runs in the child when argv is NULL; the process has threads, so only async-signal-safe
	 * calls. Its result is the exit status, and so is the errno of a step that fails before it
	 * runs. It may not lead its own process group yet when child_spawn returns. */
	int (*fn)(void *arg);
	void *arg;
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed; -EBADF = /dev/null */
	const int *fds;                     /* borrowed; become 3, 4, ... in the child */
	size_t n_fds;
	uid_t uid; /* become this user (with its gid, no supplementary groups); 0 = stay */
	gid_t gid;
	const char *cwd;      /* NULL = / */
	bool die_with_parent; /* SIGKILL when pyrod dies (jobs; never a VMM) */
	/* exec: where it can be had, the program is PID 1 of a namespace, with the pid that is returned outside. It has no
	 * capability there unless we are root. */
	bool pid_namespace;
};

/* Returns 0 and the child's pid and pidfd (owned by the caller), or -errno, also for a failed exec: for that it
 * waits, for a function it does not. */
int child_spawn(const struct child_spec *spec, pid_t *ret_pid, int *ret_pidfd);
