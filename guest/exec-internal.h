/* SPDX-License-Identifier: MIT */
#pragma once

/* What exec.c (the commands and the host) and exec-run.c (the commands and their processes) share.
 */

#include "guest/exec.h"
#include "guest/login.h"
#include "guest/spawn.h"
#include "guest/stream.h"

enum exec_state {
	EXEC_LOGIN,    /* waits for the login environment */
	EXEC_SPAWNED,  /* forked; whether the program runs is not known yet */
	EXEC_RUNNING,  /* the program runs */
	EXEC_DRAINING, /* it has ended; what it and its children printed is collected */
	EXEC_EXITED,   /* the totals are fixed; EXIT is due until EXIT_ACK */
	EXEC_FAILED,   /* it never ran: STARTED says why, then it is forgotten */
};

struct exec {
	TAILQ_ENTRY(exec) entry;
	struct execs *execs; /* borrowed: the collection */
	uint32_t channel;
	struct msg_start start; /* owned */
	enum exec_state state;

	struct user user; /* owned */
	char *cwd;        /* owned: absolute */
	struct login_wait wait;
	struct env env;    /* owned */
	char **argv;       /* owned */
	const char *shell; /* static, or NULL */

	struct child child;
	int status_fd; /* owned: spawn's */
	struct source status_source;
	int cgroup_fd, events_fd; /* owned; -EBADF without cgroups */
	struct source events_source;
	struct timer timeout, drain;
	struct out_stream out[2]; /* STREAM_STDOUT, STREAM_STDERR */
	struct in_stream in;

	uint64_t started_at, drain_end; /* CLOCK_MONOTONIC usec */
	struct msg_exit exit;
	int error;      /* errno of EXEC_FAILED */
	char *what;     /* owned */
	bool resumed;   /* by START or RESUME on this connection: may send */
	bool forgotten; /* EXIT_ACK came: lives on only for its processes */
	bool started_due, end_sent[2], exit_sent;
};

TAILQ_HEAD(exec_list, exec);

struct execs {
	struct execs_params p;
	struct logins *logins; /* owned */
	int disk_fd;           /* owned: the workspace's, on the own disk; -EBADF: there is none */
	uint32_t pids_max;     /* of each command; 0: no limit */
	struct exec_list list; /* owned */
	size_t n_held, n_lingering;
};

#define EXEC_STREAMS 2
static inline struct out_stream *exec_out(struct exec *x, uint8_t stream)
{
	return stream == STREAM_STDOUT || stream == STREAM_STDERR ? &x->out[stream - STREAM_STDOUT]
								  : NULL;
}

/* exec-run.c */
void exec_run(struct exec *x);  /* from START on; ends in EXEC_FAILED or in a process */
void exec_fill(struct exec *x); /* reads on after room was made */
void exec_kill_all(struct exec *x);
void exec_fail(struct exec *x, int r, char *what /* owned */);
bool exec_is_gone(struct exec *x); /* no process and no open pipe is left */
void exec_release(struct exec *x); /* everything but the struct itself */

/* exec.c: the state has changed; frees x when nothing holds it any more. Only as a callback's last
 * act. */
void exec_changed(struct exec *x);
