/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Work that would block the loop, done by a child process: the pid is watched by pidfd, stdout is
 * read as lines (a longer line than 64 KiB ends the job: killed, and the stderr tail says so), the
 * end of stderr (4 KiB) is kept for the error text. A job is owned by whoever started it; it ends
 * by its callback exactly once, or by job_cancel (also from within on_line). With its process its
 * process group ends.
 */

#include "daemon/child.h"
#include "proto/error.h"
#include <systemd/sd-event.h>

struct job;
struct launcher;

/* One line of the child's stdout, without newline, NUL-terminated at line[n]. */
typedef void (*job_line_fn)(struct job *job, const char *line, size_t n, void *userdata);

/* status: >= 0 exit status, < 0: -signal that ended it, INT_MIN: timed out and killed. stderr_tail
 * is NUL-terminated and unescaped. The job is freed after the callback returns. */
typedef void (*job_done_fn)(struct job *job, int status, const char *stderr_tail, void *userdata);

struct job_spec {
	const char *name;        /* for logs */
	struct child_spec child; /* stdout_fd and stderr_fd are the job's own: leave them 0 */
	/* Not NULL where it is to be a unit, TEMPLATE@im-....service, which is handed argv and fds (at most 2) and whose
	 * environment begins with argv[1] and on as long as they are assignments. Nothing else of child counts then. */
	struct launcher *launcher;
	const char *template;
	uint64_t timeout_usec; /* 0 = none */
	job_line_fn on_line;   /* may be NULL */
	job_done_fn on_done;
	void *userdata;
};

int job_start(sd_event *event, const struct job_spec *spec, struct job **ret);

/* Within on_done, of a unit that never ran: why. Else NULL. */
const struct error *job_error(const struct job *job);

/* Kills the child's process group and frees the job; on_done is not called. Takes NULL. */
struct job *job_cancel(struct job *job);
