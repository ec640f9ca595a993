/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A tool run to its end by pyro-import (apt-get, depmod), with its output kept for the error text.
 * Blocking: never for the daemon's loop, which has jobs.
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
 * Returns the exit status, or -errno (-ETIMEDOUT after killing it, -EINTR when a signal ended it). The
 * output, stdout and stderr together, the end of it when there was more than PROGRAM_OUTPUT_MAX, is in
 * *ret_output (owned by the caller, NUL-terminated) unless the program could not be started.
 */
int program_run(const struct program *p, char **ret_output);

/* The last line of the output that starts with prefix ("E: "), else the last line that is not empty.
 * *ret is owned by the caller. */
int program_last_line(const char *output, const char *prefix, char **ret);
