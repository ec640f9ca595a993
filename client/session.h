/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The one place where a command of `pyro` waits for the daemon. A command is a verb and what the verb table says of its
 * waiting; session_run connects, makes the verb's call, carries live stdio, shows what the daemon tells meanwhile, hears
 * signals, goes back to a command whose daemon was lost, and prints what comes of it.
 */

#include <signal.h>

#include "client/options.h"
#include "client/output.h"
#include "client/relay.h"
#include "proto/api.h"

struct session;

/* How a verb waits. All members may be left out. */
struct waiting {
	const char *tag; /* what the lines of its phases begin with: "run" for [run] */
	bool live;       /* carries stdin, stdout and stderr as they come; not with --json */
	int timeout_sec; /* 0: none */
	/* Phases that are shown before the call and after it has worked. */
	const char *first_phase, *last_phase;
	/* Shows what the daemon tells of a phase, as an object; NULL of those above. Left out: nothing is shown. */
	void (*on_phase)(struct session *s, const char *phase, json_object *progress);
	/*
	 * Something is being made. A call that is cancelled, by a signal or because nobody reads stdout, is waited for, and this
	 * is said when it is not known whether that is gone. Left out: a signal ends the command at once, whatever the daemon does.
	 */
	const char *unconfirmed;
	/* A machine that was made although the call was cancelled: the member with its id, and the method that deletes it. */
	const char *made, *undo;
	/* In place of the result, when there is none: why. NULL when out of memory. */
	json_object *(*without)(struct session *s, const struct error *why);
	/* The result for people; --json prints it as it is. */
	void (*print)(struct session *s, json_object *result);
	/* After that: the exit status; left out: 0. */
	int (*conclude)(struct session *s, json_object *result);
};

/* Of one command. What is public may be read by the functions above. */
struct session {
	const struct cli *cli;                         /* borrowed */
	const struct cmdline *line;                    /* borrowed */
	struct out_progress progress;                  /* for on_phase */
	char vm_id[API_ID_SIZE], exec_id[API_ID_SIZE]; /* as told by the daemon; else empty */
	struct error failed;                           /* why there is no result */

	/* session.c's alone */
	const struct waiting *wait; /* borrowed */
	struct pyro *pyro;          /* owned */
	struct relay *relay;        /* owned; NULL unless live */
	int signals;                /* owned */
	sigset_t blocked_before;
	int64_t id;          /* of the call */
	json_object *result; /* owned */
	struct error own;    /* what failed on our side: stdin, stdout, session_ask */
	bool more;           /* events may be here that poll() does not tell of */
	bool redialling;     /* the daemon is lost, its machine is not */
	bool attached;       /* came back at least once */
	bool cancelled, undoing, done;
	uint64_t redial_by, deadline; /* monotonic; UINT64_MAX: none */
	int ended_by;                 /* signal, 0 */
	uint64_t int_at;              /* when the last SIGINT went to the guest, 0 */
	bool paused, pause_told;      /* the machine stands still; a line says so */
	char *pause_detail;           /* owned or NULL */
	uint64_t pause_note_at;       /* monotonic: the next line about it */
};

/* Runs the verb of line from its call to its exit status, which is returned; or -errno with err set. */
int session_run(const struct cli *cli, const struct cmdline *line, struct error *err);

/* For on_phase: a phase of a pull, as a bar or in lines. */
void session_pull_phase(struct session *s, const char *phase, json_object *progress);
/* For print and conclude: one more call, whose result (an object, owned by the caller) is at hand. */
int session_ask(struct session *s, const char *method, json_object **ret);
/* For conclude: what follows on stderr begins a line. */
void session_end_line(struct session *s);
