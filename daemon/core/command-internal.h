/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The internals of a command, for command.c (its life), command-row.c (its row and JSON),
 * listener.c (callers that wait or attach), listener-read.c and listener-write.c.
 */

#include "daemon/agent/exec.h"
#include "daemon/agent/transcript.h"
#include "daemon/core/command.h"
#include "daemon/core/core-internal.h"
#include "daemon/store/store.h"

struct command {
	TAILQ_ENTRY(command) entry;
	struct commands *commands; /* borrowed */
	struct exec_row row;       /* owned; row.state follows state */
	enum command_state state;
	struct exec *exec;             /* owned; NULL once it has ended */
	struct transcript *transcript; /* owned; NULL: an ended one that nobody reads */
	bool opened;                   /* the transcript's sizes are known */
	bool cancelled;                /* it is not started any more */
	bool settled;                  /* its end is in its row */
	struct error err;              /* owned: why it is lost, in the words of this daemon */
	struct listener_list listeners;
	struct listener *input;  /* borrowed: whose stdio is its input */
	struct listener *holder; /* borrowed: whose stdio holds output back */
	sd_event_source *later;  /* owned: settles what a callback may not */
	sd_event_source *again;  /* owned or NULL: saves its end again */
	int open_error;          /* why its transcript cannot be read; 0: none */
};
TAILQ_HEAD(command_queue, command);

/* The history of one machine, oldest first. */
struct commands {
	LIST_ENTRY(commands) entry;
	struct machine *machine; /* borrowed */
	struct core *core;       /* borrowed */
	struct command_queue queue;
	char *dir; /* owned: of the transcripts */
};

/* command.c */
/* Sets how far the guest may send: a window beyond what is kept, unless the holder is behind. */
void command_allow(struct command *c, uint8_t stream);
/* Opens the transcript of an ended command again. */
int command_open(struct command *c);
/* A listener has left: closes the transcript of an ended command that nobody reads. */
void command_settle(struct command *c);

/* Its output and input can go on now: it is not being adopted. */
bool command_is_ready(const struct command *c);

/* command-row.c */
void command_set_state(struct command *c, enum command_state state);
int command_fill_row(struct command *c, const struct command_params *p);
int command_copy_row(struct command *c, const struct exec_row *row); /* with its state */
void command_note_machine(struct command *c);
void command_note_exit(struct command *c, const struct msg_exit *e);
void command_note_lost(struct command *c, const struct error *err);
/* Commits the row; done gets c. -ESTALE: the machine's rows are being deleted. */
int command_put(struct command *c, store_done_fn done);
/* Commits go on; nothing is reported any more. */
void command_forget_puts(struct command *c);
void command_puts_end(struct core *core);
/* Why its end is not known; for the callers of a lost command. Returns as error_set does. */
int command_lost_error(const struct command *c, struct error *err);
/* Adds what exec.list, exec.wait and a live result have in common. */
int command_add_json(const struct command *c, json_object *o);
/* Adds the command itself, cut for lists; its exit code, null until its end is committed. */
int command_add_shown(const struct command *c, json_object *o);
json_object *command_exit_code(const struct command *c);
/* Its state for callers: it runs until its end is committed. */
enum command_state command_shown(const struct command *c);

/* listener.c */
/* Bytes of output that the listener's caller does not have yet. */
uint64_t listener_lag(const struct listener *l);
void listeners_started(struct command *c);
/* Output and input of an adopted command can go on, or the output of an ended one be read. */
void listeners_ready(struct command *c);
/* Its transcript cannot be opened. */
void listeners_unreadable(struct command *c, const struct error *err);
/* The guest has accepted input below upto. */
void listeners_on_stdin(struct command *c, uint64_t upto);
/* Its end is committed (or it is lost). */
void listeners_ended(struct command *c);
void listeners_paused(struct command *c);
/* Each listener fails with err. */
void listeners_fail(struct command *c, const struct error *err);
