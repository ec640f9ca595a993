/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A list of named steps, each with its undo, and the engine that takes an object up the list and down again. It hands the
 * machine through and never looks into it.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <systemd/sd-event.h>

struct machine;

enum {
	STEP_WAIT = 1, /* steps_continue comes */
};

struct step {
	const char *name;
	int (*run)(struct machine *mc, struct error *err); /* NULL: nothing to do */
	int (*undo)(struct machine *mc);                   /* NULL: nothing to undo */
	/* May be NULL. The event the undo waited for has come: is there more of the same step to undo? */
	bool (*undo_again)(const struct machine *mc);
};

/* Each comes in a turn of the loop of its own, so that no callback of the machine's sees it freed. */
struct steps_callbacks {
	/* All steps up to the goal are done. */
	void (*on_up)(struct machine *mc);
	/* A step failed on the way up: steps_turn is called from within, and the way down begins at once. */
	void (*on_failed)(struct machine *mc, const char *step, int r, struct error *err);
	/* The way down begins. */
	void (*on_turn)(struct machine *mc);
	/* Before each undo. STEP_WAIT: something else comes first, then steps_begin_down. */
	int (*before_undo)(struct machine *mc);
	/* An undo has ended by its event. */
	void (*on_undone)(struct machine *mc);
	/* Nothing above the goal is left. The machine may be freed. */
	void (*on_down)(struct machine *mc);
	/* This step cannot be undone: it and those below it are still in place. why may be NULL. */
	void (*on_stuck)(struct machine *mc, const char *step, int r, const struct error *why);
};

enum steps_phase {
	STEPS_SETTLED, /* nothing is being done */
	STEPS_UP,
	STEPS_TURNING,    /* to go down in the next turn of the loop */
	STEPS_COMMITTING, /* what before_undo waits for */
	STEPS_DOWN,
};

struct steps {
	const struct step *table;         /* borrowed: static */
	const struct steps_callbacks *cb; /* borrowed: static */
	struct machine *machine;          /* borrowed: owns this */
	enum steps_phase phase;
	size_t at;             /* steps begun: these have to be undone */
	size_t goal;           /* how many of them shall stand */
	bool waiting;          /* for the step's event */
	struct error stuck;    /* owned: why the step cannot be undone */
	sd_event_source *work; /* owned: the engine's turn */
};

/* at: what stands already. */
int steps_init(struct steps *s, sd_event *event, const struct step *table,
	const struct steps_callbacks *cb, struct machine *mc);
void steps_done(struct steps *s);
/* Settled only. */
int steps_go_up(struct steps *s, size_t goal);
/* The way down from wherever it is, in a later turn of the loop; or, once that has begun, to a lower goal. */
void steps_turn(struct steps *s, size_t goal);
/* What before_undo waited for has come. */
void steps_begin_down(struct steps *s);
/* The event a step waited for; err: it failed. On the way up a failure is the caller's to turn by. */
void steps_continue(struct steps *s, const struct error *err);
bool steps_go_down(const struct steps *s);
