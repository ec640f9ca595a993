/* SPDX-License-Identifier: MIT */
/*
 * The engine of steps.h. Called by engine.c alone.
 *
 * What must stay true: the steps begun, including a half-done one, are undone in reverse order,
 * down to the goal, which only falls meanwhile. The engine runs only from its own event source.
 */

#include "daemon/machine/steps.h"

#include "daemon/crash.h"

static void schedule(struct steps *s)
{
	(void)sd_event_source_set_enabled(s->work, SD_EVENT_ONESHOT);
}

bool steps_is_going_down(const struct steps *s)
{
	return s->phase >= STEPS_REVERSING;
}

int steps_go_up(struct steps *s, size_t goal)
{
	s->goal = goal;
	s->waiting = false;
	s->phase = STEPS_UP;
	return sd_event_source_set_enabled(s->work, SD_EVENT_ONESHOT);
}

void steps_go_down(struct steps *s, size_t goal)
{
	if (steps_is_going_down(s)) {
		s->goal = MIN_OF(s->goal, goal);
		return;
	}
	s->goal = goal;
	s->phase = STEPS_REVERSING;
	schedule(s);
}

void steps_begin_down(struct steps *s)
{
	if (s->phase != STEPS_COMMITTING)
		return;
	schedule(s);
	s->waiting = false;
}

void steps_continue(struct steps *s, const struct error *err)
{
	/* Ignored during the commit before the way down: the undos look at what has happened. */
	if (!s->waiting || s->phase == STEPS_COMMITTING || s->phase == STEPS_REVERSING)
		return;
	if (err)
		(void)error_copy(&s->stuck, err);
	s->waiting = false;
	schedule(s);
}

static void get_stuck(struct steps *s, int r)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	error_move(&why, &s->stuck);
	s->phase = STEPS_SETTLED;
	s->cb->on_stuck(s->machine, s->table[s->at - 1].name, r, why.set ? &why : NULL);
}

static void go_down(struct steps *s)
{
	while (s->at > s->goal) {
		int (*undo)(struct machine *) = s->table[s->at - 1].undo;
		int r = s->cb->before_undo(s->machine);

		if (r == STEP_WAIT) {
			s->waiting = true;
			s->phase = STEPS_COMMITTING;
			return;
		}
		crash_point();
		r = undo ? undo(s->machine) : 0;
		if (r < 0) {
			get_stuck(s, r);
			return;
		}
		if (r == STEP_WAIT) {
			s->waiting = true;
			return;
		}
		s->at--;
	}
	s->phase = STEPS_SETTLED;
	s->cb->on_down(s->machine);
}

static void reverse(struct steps *s)
{
	s->phase = STEPS_DOWN;
	s->waiting = false;
	s->cb->on_going_down(s->machine);
	go_down(s);
}

/* The event that an undo waited for has come. */
static void go_on_down(struct steps *s)
{
	const struct step *step = &s->table[s->at - 1];

	s->cb->on_undone(s->machine);
	if (s->stuck.set) {
		get_stuck(s, -EIO);
		return;
	}
	if (!step->undo_again || !step->undo_again(s->machine))
		s->at--;
	go_down(s);
}

static void go_up(struct steps *s)
{
	while (s->at < s->goal) {
		_cleanup_error_ struct error err = ERROR_INIT;
		const struct step *step = &s->table[s->at++];
		int r;

		crash_point();
		r = step->run ? step->run(s->machine, &err) : 0;
		if (r < 0) {
			s->cb->on_failed(s->machine, step->name, r, &err);
			reverse(s);
			return;
		}
		if (r == STEP_WAIT) {
			s->waiting = true;
			return;
		}
		if (s->phase != STEPS_UP)
			return; /* the step has called steps_go_down */
	}
	s->phase = STEPS_SETTLED;
	crash_point();
	s->cb->on_up(s->machine);
}

static int on_work(_unused_ sd_event_source *source, void *userdata)
{
	struct steps *s = userdata;

	if (s->phase == STEPS_REVERSING) {
		reverse(s);
	} else if (s->phase == STEPS_UP && !s->waiting) {
		go_up(s);
	} else if (s->phase == STEPS_COMMITTING && !s->waiting) {
		s->phase = STEPS_DOWN;
		go_down(s);
	} else if (s->phase == STEPS_DOWN && !s->waiting) {
		go_on_down(s);
	}
	return 0;
}

int steps_init(struct steps *s, sd_event *event, const struct step *table,
	const struct steps_callbacks *cb, struct machine *mc)
{
	int r;

	*s = (struct steps){ .table = table, .cb = cb, .machine = mc };
	r = sd_event_add_defer(event, &s->work, on_work, s);
	return r < 0 ? r : sd_event_source_set_enabled(s->work, SD_EVENT_OFF);
}

void steps_done(struct steps *s)
{
	s->work = sd_event_source_disable_unref(s->work);
	error_clear(&s->stuck);
}
