/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The only place where a command of `pyro` waits for the daemon. A command is a verb with its
 * struct waiting. session_run() connects, makes the verb's call, carries live stdio, shows
 * progress, handles signals, reconnects to a command after its daemon was lost, and prints the
 * result.
 */

#include <signal.h>

#include "client/options.h"
#include "client/output.h"
#include "client/relay.h"
#include "proto/api.h"

struct session;

/* What a signal does to a running command. Before it runs, the call is cancelled. */
enum on_signal {
	SIGNAL_ENDS, /* SIGINT goes to the command; a second one, or another signal, ends it */
	SIGNAL_INTERRUPTS, /* SIGINT goes to the command; a second one, or another signal, detaches */
	SIGNAL_DETACHES,   /* any signal detaches */
	SIGNAL_DETACHES_WELL, /* likewise, with exit status 0 */
};

/* How a verb waits. Every member may be left out. */
struct waiting {
	const char *tag; /* the beginning of its phase lines: "run" for [run] */
	bool live;       /* carries stdin, stdout and stderr live; not with --json */
	int timeout_sec; /* 0: none */
	enum on_signal on_signal;
	/* Changes or refuses the call's parameters before anything is connected. */
	int (*prepare)(struct session *s, json_object *params, struct error *err);
	/* Phases that are shown before the call and after its success. */
	const char *first_phase, *last_phase;
	/* Shows a phase. progress: from the daemon; NULL for those above. Left out: no output. */
	void (*on_phase)(struct session *s, const char *phase, json_object *progress);
	/*
	 * For a call that makes something: the text that is printed when its deletion is not
	 * confirmed. The command waits for the answer of a cancelled call. Left out: a signal ends
	 * the command at once.
	 */
	const char *unconfirmed;
	/* For a machine made before the cancellation: the id's member, and the deleting method. */
	const char *made, *undo;
	/* Makes a result from the error `why` if the call failed. NULL when out of memory. */
	json_object *(*without)(struct session *s, const struct error *why);
	/* Makes what --json prints from the result, which it owns. NULL on failure. Left out: the
	 * result itself. */
	json_object *(*to_json)(struct session *s, json_object *result);
	/* Prints the result as text; not called with --json. */
	void (*print)(struct session *s, json_object *result);
	/* Returns the exit status, after print. Left out: 0. */
	int (*conclude)(struct session *s, json_object *result);
};

/* The state of one command. The functions above may read the public members. */
struct session {
	const struct cli *cli;                         /* borrowed */
	const struct cmdline *line;                    /* borrowed */
	struct out_progress progress;                  /* for on_phase */
	char vm_id[API_ID_SIZE], exec_id[API_ID_SIZE]; /* from the daemon; else empty */
	struct error failed;                           /* why the call failed */
	const char *method; /* borrowed: to call; prepare may change it */

	/* Private to session.c. */
	const struct waiting *wait; /* borrowed */
	struct pyro *pyro;          /* owned */
	struct relay *relay;        /* owned; NULL unless live */
	int signals;                /* owned */
	sigset_t blocked_before;
	json_object *params; /* owned */
	int64_t id;          /* of the call */
	json_object *result; /* owned */
	struct error own;    /* a failure of the client: stdin, stdout, session_ask() */
	bool more;           /* events may be buffered that poll() does not report */
	bool redialling;     /* the daemon is lost: reconnecting */
	bool attached;       /* reconnected at least once */
	bool cancelled, undoing, done;
	bool detached; /* cancelled here; the command continues */
	bool unsure;   /* the command should have been ended, but no daemon was connected */
	uint64_t redial_by, deadline; /* monotonic; UINT64_MAX: none */
	int ended_by;                 /* signal; 0: none */
	uint64_t int_at;              /* monotonic: the last SIGINT to the guest; 0: none */
	bool paused, pause_reported;  /* the machine's state; the state last printed */
	char *pause_detail;           /* owned or NULL */
	uint64_t pause_note_at;       /* monotonic: the next line about it */
};

/* Runs the verb of line. Returns its exit status, or -errno with err set. */
int session_run(const struct cli *cli, const struct cmdline *line, struct error *err);

/* For on_phase: shows a phase of a pull as a bar or in lines. */
void session_pull_phase(struct session *s, const char *phase, json_object *progress);
/* For print and conclude: makes one more call. *ret (an object) is owned by the caller. */
int session_ask(struct session *s, const char *method, json_object *params, json_object **ret);
/* For conclude: ends an unfinished line, so that the next text on stderr begins a line. */
void session_end_line(struct session *s);
