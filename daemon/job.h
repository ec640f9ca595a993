/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A child process for work that would block the loop: a pidfd watches it, stdout is read as lines
 * (a line above 64 KiB kills the job, and the stderr tail says so), and the last 4 KiB of stderr
 * are kept for the error text. The caller of job_start owns the job; it ends with one call of
 * on_done, or by job_cancel (also from within on_line). The end of the process kills its process
 * group.
 */

#include "daemon/child.h"
#include "proto/error.h"
#include <systemd/sd-event.h>

struct job;
struct launcher;

/* Receives a line of the child's stdout, without newline, NUL-terminated at line[n]. */
typedef void (*job_line_fn)(struct job *job, const char *line, size_t n, void *userdata);

/* status: >= 0 exit status, < 0: -signal that killed it, INT_MIN: killed by its timeout.
 * stderr_tail is NUL-terminated and not escaped. The job is freed after the callback returns. */
typedef void (*job_done_fn)(struct job *job, int status, const char *stderr_tail, void *userdata);

struct job_spec {
	const char *name;        /* for logs */
	struct child_spec child; /* leave stdout_fd and stderr_fd 0: the job sets them */
	/* Not NULL: run as a unit, TEMPLATE@im-....service, which receives argv and fds (at most
	 * 2); leading assignments from argv[1] on become its environment. Other members of child
	 * are ignored. */
	struct launcher *launcher;
	const char *template;
	uint64_t timeout_usec; /* 0 = none */
	job_line_fn on_line;   /* may be NULL */
	job_done_fn on_done;
	void *userdata;
};

int job_start(sd_event *event, const struct job_spec *spec, struct job **ret);

/* Returns within on_done why a unit never ran, else NULL. */
const struct error *job_error(const struct job *job);

/* Kills the child's process group and frees the job; on_done is not called. Accepts NULL. */
struct job *job_cancel(struct job *job);
