/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Starts a child process: with a pidfd, only the named descriptors, default signal mask and
 * dispositions, and no shell.
 */

#include "proto/base.h"
#include <sys/types.h>

struct child_spec {
	/* to exec; argv[0] is an absolute path; NULL: call fn in the child */
	const char *const *argv;
	const char *const *env; /* for exec; NULL: our PATH, HOME, TMPDIR, *_proxy; LANG=C.UTF-8 */
	/* Called in the child if argv is NULL; only async-signal-safe calls, since the process has
	 * threads. Its result, or the errno of a step that fails before it, is the exit status.
	 * When child_spawn returns, the child may not yet lead its process group. */
	int (*fn)(void *arg);
	void *arg;
	int stdin_fd, stdout_fd, stderr_fd; /* borrowed; -EBADF = /dev/null */
	const int *fds;                     /* borrowed; become 3, 4, ... in the child */
	size_t n_fds;
	uid_t uid; /* switch to this uid (with its gid, no supplementary groups); 0: keep */
	gid_t gid;
	const char *cwd;      /* NULL = / */
	bool die_with_parent; /* SIGKILL when pyrod dies (jobs; never a VMM) */
	/* for exec: if possible, the program is pid 1 of a new PID namespace; the returned pid is
	 * the one outside. Unless pyrod is root, it has no capability there. */
	bool pid_namespace;
};

/* Returns 0 with the child's pid and pidfd (owned by the caller), or -errno. Waits for the result
 * of exec, but not for fn. */
int child_spawn(const struct child_spec *spec, pid_t *ret_pid, int *ret_pidfd);
