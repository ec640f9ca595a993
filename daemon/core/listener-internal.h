/* SPDX-License-Identifier: MIT */
#pragma once

/* The internals of a listener, for listener.c, listener-read.c and listener-write.c. */

#include "daemon/agent/capture.h"
#include "daemon/agent/stdio.h"
#include "daemon/core/command-internal.h"
#include "proto/buf.h"

enum listener_kind { LISTENER_WAITS, LISTENER_ATTACHED, LISTENER_READS, LISTENER_WRITES };

/* From `at` on, the text's bytes have consecutive cursors that begin with `cursor`. */
struct text_jump {
	size_t at;
	uint64_t cursor;
};

struct listener {
	LIST_ENTRY(listener) entry;      /* of its command */
	LIST_ENTRY(listener) all;        /* of core */
	TAILQ_ENTRY(listener) collector; /* of core, while collecting */
	struct command *command;         /* borrowed; NULL when it is done with it */
	uid_t owner_uid;                 /* of the command */
	struct core *core;               /* borrowed */
	struct receivers *receivers;     /* borrowed: the manager's */
	enum listener_kind kind;
	struct listener_callbacks cb;
	void *userdata;
	bool left;                            /* its caller has left: nothing is reported */
	bool finished;                        /* result or err is set; on_later reports it */
	sd_event_source *later;               /* owned */
	sd_event_source *timer;               /* owned or NULL: wait_ms */
	json_object *result;                  /* owned */
	struct error err;                     /* owned */
	struct transcript_reader *readers[2]; /* owned; a WAITS or READS has the first alone */

	enum command_state until; /* WAITS */
	struct capture out[2];    /* stdout, stderr */
	bool collecting;

	struct attach_params attach; /* ATTACHED; its stdio_fd: owned until stdio is made */
	struct stdio *stdio;         /* owned */
	uint64_t have[2];            /* offset of the next byte for the caller, by stream */
	uint64_t skip[2];            /* bytes that it had from a previous daemon's memory */
	uint64_t allowed[2];         /* offset to which the reader has credit */
	bool ended[2], drained;

	struct buf text; /* READS: the bytes read; WRITES, ATTACHED: its input */
	bool eof;        /* the input ends after it */
	size_t accepted; /* WRITES: bytes that the guest has */

	struct read_params read; /* READS */
	struct text_jump *jumps; /* owned */
	size_t n_jumps;
	bool begun;         /* from is known; WRITES: the input was sent */
	uint64_t from, gap; /* the first cursor, bytes left out before it; WRITES: its offset */
	bool more;          /* it stopped at its limit */
	uint64_t stop;      /* it stopped before a gap: the cursor there; 0: it did not */
	bool at_end;        /* all output was read before the command's end is committed */
};

/* listener.c */
int listener_new(struct command *c, enum listener_kind kind, const struct listener_callbacks *cb,
	void *userdata, struct listener **ret, struct error *err);
/* Its outcome is reported from the loop; the first one counts. Takes over result. */
void listener_finish(struct listener *l, json_object *result);
void listener_fail(struct listener *l, const struct error *err);
void listener_no_memory(struct listener *l);
/* Ends the wait after wait_ms; negative: never. */
int listener_set_timer(struct listener *l, int64_t wait_ms);
/* Removes a listener whose construction failed. */
void listener_discard(struct listener *l);

/* listener-read.c */
void read_late(struct listener *l);

/* listener-result.c: the result; with the output if it has been collected. */
int listener_result(struct listener *l, bool output, json_object **ret);

/* listener-write.c: sends the input; the guest has accepted some; time is over; the command has
 * ended. */
int write_begin(struct listener *l, struct error *err);
void write_progress(struct listener *l);
void write_late(struct listener *l);
void write_ended(struct listener *l);
