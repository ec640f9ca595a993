/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Runs a tool (apt-get, depmod) until it exits and keeps its output for the error text. Blocks: for
 * pyro-import only; the daemon uses jobs.
 */

#include "proto/base.h"

#define PROGRAM_OUTPUT_MAX (256 * 1024)

struct program {
	const char *const *argv; /* argv[0] absolute */
	const char *cwd;         /* NULL = / */
	int stdin_fd;            /* borrowed; -EBADF = /dev/null */
	uint64_t timeout_usec;
};

/*
 * Returns the exit status, or -errno (-ETIMEDOUT after killing it, -EINTR when a signal ended it).
 * *ret_output is its stdout and stderr together, of more than PROGRAM_OUTPUT_MAX only the end
 * (NUL-terminated, owned by the caller); not set when the program could not be started.
 */
int program_run(const struct program *p, char **ret_output);

/*
 * Finds the last line of the output that starts with prefix ("E: "), else the last line that is not
 * empty. *ret is owned by the caller.
 */
int program_last_line(const char *output, const char *prefix, char **ret);
