/* SPDX-License-Identifier: MIT */
#pragma once

/* Shared by exec.c (commands and the host) and exec-run.c (commands and their processes). */

#include "guest/exec.h"
#include "guest/login.h"
#include "guest/spawn.h"
#include "guest/stream.h"

enum exec_state {
	EXEC_LOGIN,    /* waits for the login environment */
	EXEC_SPAWNED,  /* forked, execve not confirmed yet */
	EXEC_RUNNING,  /* the program runs */
	EXEC_DRAINING, /* it has exited; its output and its children's is collected */
	EXEC_EXITED,   /* the totals are final; EXIT is sent until EXIT_ACK */
	EXEC_FAILED,   /* it never ran: STARTED reports why, then it is forgotten */
};

struct exec {
	TAILQ_ENTRY(exec) entry;
	struct execs *execs; /* borrowed: the collection */
	uint32_t channel;
	struct msg_start start; /* owned */
	unsigned streams;       /* a mask */
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
	struct out_stream out[STREAM_MAX];
	struct in_stream in;

	uint64_t started_at, drain_end; /* CLOCK_MONOTONIC usec */
	struct msg_exit exit;
	int error;      /* errno of EXEC_FAILED */
	char *what;     /* owned */
	bool resumed;   /* START or RESUME arrived on this connection: it may send */
	bool forgotten; /* EXIT_ACK arrived: kept only for its processes */
	bool started_due, exit_sent;
};

TAILQ_HEAD(exec_list, exec);

struct execs {
	struct execs_params p;
	struct logins *logins; /* owned */
	int disk_fd;           /* owned: of the workspace on the own disk; -EBADF: none */
	uint32_t pids_max;     /* of each command; 0: no limit */
	struct exec_list list; /* owned */
	size_t n_held, n_lingering;
};

#define EXEC_FOREACH_OUTPUT(x, i) STREAM_FOREACH (i, (x)->streams & STREAMS_OUTPUT)

/* exec-run.c */
void exec_run(struct exec *x);  /* starts it: becomes EXEC_FAILED or a process */
void exec_fill(struct exec *x); /* continues to read after the host made room */
void exec_kill_all(struct exec *x);
void exec_fail(struct exec *x, int r, char *what /* owned */);
bool exec_is_released(struct exec *x); /* has no process and no open pipe */
void exec_release(struct exec *x);     /* frees all members, but not x */

/* exec.c: handles a change of state; frees x if it is no longer needed. Call only as the last act
 * of a callback. */
void exec_changed(struct exec *x);
