/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A list of named steps, each with its undo, and the engine that takes a machine up the list and
 * down again. The engine passes the machine through and never looks into it.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <systemd/sd-event.h>

struct machine;

enum {
	STEP_WAIT = 1, /* not done yet: steps_continue follows */
};

struct step {
	const char *name;
	int (*run)(struct machine *mc, struct error *err); /* NULL: nothing to do */
	int (*undo)(struct machine *mc);                   /* NULL: nothing to undo */
	/* May be NULL. Called after the event of an undo: true if the undo must run again. */
	bool (*undo_again)(const struct machine *mc);
};

/* Called from the engine's own event source, so that no callback of the machine sees it freed. */
struct steps_callbacks {
	/* All steps up to the goal are done. */
	void (*on_up)(struct machine *mc);
	/* A step failed on the way up. Must call steps_go_down; the way down begins at once. */
	void (*on_failed)(struct machine *mc, const char *step, int r, struct error *err);
	/* The way down begins. */
	void (*on_going_down)(struct machine *mc);
	/* Called before each undo. STEP_WAIT: the undo waits for steps_begin_down. */
	int (*before_undo)(struct machine *mc);
	/* The event that an undo waited for has come. */
	void (*on_undone)(struct machine *mc);
	/* All steps above the goal are undone. The callback may free the machine. */
	void (*on_down)(struct machine *mc);
	/* This step cannot be undone: it and the steps before it stay in place. why may be NULL. */
	void (*on_stuck)(struct machine *mc, const char *step, int r, const struct error *why);
};

enum steps_phase {
	STEPS_SETTLED, /* no step is being taken or undone */
	STEPS_UP,
	STEPS_REVERSING,  /* goes down in the next iteration of the loop */
	STEPS_COMMITTING, /* waits for steps_begin_down */
	STEPS_DOWN,
};

struct steps {
	const struct step *table;         /* borrowed: static */
	const struct steps_callbacks *cb; /* borrowed: static */
	struct machine *machine;          /* borrowed: owns this */
	enum steps_phase phase;
	size_t at;             /* steps begun: these have to be undone */
	size_t goal;           /* how many of them are wanted */
	bool waiting;          /* for the step's event */
	struct error stuck;    /* owned: why the step cannot be undone */
	sd_event_source *work; /* owned: runs the engine */
};

/* Settled, and no step is taken. */
int steps_init(struct steps *s, sd_event *event, const struct step *table,
	const struct steps_callbacks *cb, struct machine *mc);
void steps_done(struct steps *s);
/* Only while settled. */
int steps_go_up(struct steps *s, size_t goal);
/* Goes down to goal from any phase, in a later iteration of the loop. If it is going down
 * already, only the goal falls. */
void steps_go_down(struct steps *s, size_t goal);
/* Continues after the event that before_undo waits for. */
void steps_begin_down(struct steps *s);
/* Reports the event that a step waits for; err: an undo failed. A step that fails on the way up
 * calls steps_go_down instead. */
void steps_continue(struct steps *s, const struct error *err);
bool steps_is_going_down(const struct steps *s);
