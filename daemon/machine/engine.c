/* SPDX-License-Identifier: MIT */
/*
 * Takes a machine from its observed state to its desired level by the steps of plan.c, up or down.
 * Called by request.c and by every event.
 *
 * What must stay true: the desired level falls at any time and rises only in a resting state, so
 * that a deletion is never taken back; the first reason to go down is the one that is reported; a
 * step that cannot be undone leaves the machine `unknown` with all steps before it in place.
 * Waiters are notified after the commit of what they are told.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/crash.h"
#include "daemon/log.h"

static size_t steps_of(const struct machine *mc, enum machine_level level)
{
	const struct plan *plan = mc->machines->plan;

	return level == LEVEL_UP ? plan->n : level == LEVEL_STOPPED ? plan->n_created : 0;
}

enum machine_level machine_rest_level(const struct machine *mc)
{
	return mc->owner->remains == REMAINS_NOTHING || mc->starter.cb.on_started ? LEVEL_DELETED
										  : LEVEL_STOPPED;
}

void machine_next(struct machine *mc)
{
	if (!machine_is_settled(mc))
		return;
	switch (mc->state) {
	case MACHINE_STARTED:
	case MACHINE_SUSPENDED:
	case MACHINE_UNKNOWN:
		if (mc->desired < LEVEL_UP)
			machine_shut_down(mc);
		break;
	case MACHINE_PREPARING:
	case MACHINE_CREATED:
	case MACHINE_STOPPED:
	case MACHINE_FAILED:
		if (steps_of(mc, mc->desired) > mc->steps.at)
			(void)steps_go_up(&mc->steps, steps_of(mc, mc->desired));
		break;
	default: break; /* an event of its guest or VMM follows */
	}
}

void machine_want(struct machine *mc, enum machine_level level)
{
	mc->desired = level;
	if (level == LEVEL_UP)
		mc->resting = MACHINE_FAILED;
	machine_next(mc);
}

void machine_fall(struct machine *mc, enum machine_level to, enum machine_state resting,
	const struct error *why)
{
	if (machine_goes_down(mc)) {
		mc->desired = MIN_OF(mc->desired, to);
	} else {
		mc->desired = to;
		mc->resting = resting;
		(void)error_copy(&mc->failure, why);
	}
	steps_go_down(&mc->steps, steps_of(mc, mc->desired));
}

void machine_come_to_rest(struct machine *mc, enum machine_state resting, const struct error *why)
{
	if (!machine_goes_down(mc))
		machine_fall(mc, machine_rest_level(mc), resting, why);
}

static void log_failed_start(const struct machine *mc, const struct error *why)
{
	if (why->code != ERROR_CANCELLED)
		log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: its start failed: %s (%s)",
			mc->row.id, why->message ? why->message : "?",
			why->cause ? why->cause : "no cause");
}

void machine_continue(struct machine *mc, const struct error *err)
{
	if (!machine_goes_up(mc) || !err) {
		steps_continue(&mc->steps, err);
		return;
	}
	if (mc->process.vmm) { /* launched: the failed start is a boot */
		log_failed_start(mc, err);
		machine_has_failed(mc);
		if (mc->boot)
			mc->boot->failed = true;
	}
	machine_come_to_rest(mc, mc->resting, err);
}

void machine_fail(struct machine *mc, enum machine_state state, const struct error *err)
{
	if (!machine_is_settled(mc))
		return;
	if (!machine_successor(mc->state, state))
		return; /* it has failed already */
	machine_set_state(mc, state);
	machine_set_last_error(mc, err->message);
	machine_save(mc);
	machine_fail_execs(mc, err);
	if (state == MACHINE_FAILED)
		machine_come_to_rest(mc, MACHINE_FAILED, err); /* the VMM is not needed any more */
}

/* What the steps report */

static void report_started(struct machine *mc, const struct error *err)
{
	struct machine_callbacks cb = mc->starter.cb;

	mc->starter.cb = (struct machine_callbacks){ NULL, NULL }; /* a later boot is not its */
	if (cb.on_started)
		cb.on_started(mc, err, mc->starter.userdata);
	machine_notify(mc, WAIT_STARTED, err);
}

static void on_up(struct machine *mc)
{
	machine_boot_free(mc);
	report_started(mc, NULL);
	if (machine_is_settled(mc) && LIST_EMPTY(&mc->guest.execs))
		machine_expect_command(mc);
	mc->owner->on_state(mc, false);
}

static void on_failed(struct machine *mc, const char *step, int r, struct error *err)
{
	error_set_errno(err, ERROR_START_FAILED, r, error_errno_fix(r) ? NULL : "pyro doctor",
		"step \"%s\" of the machine's start failed", step);
	machine_fall(mc, machine_rest_level(mc), mc->resting, err);
}

static void on_going_down(struct machine *mc)
{
	mc->guest.stop_asked = false;
	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
	machine_unpaused(mc);
	machine_fail_execs(mc, &mc->failure);
	/* Not in an undo: a machine stuck below "agent" may have a link of a later adoption. */
	machine_link_close(mc);
}

static void log_intent(struct machine *mc, int r, const struct error *err)
{
	log_uid(LOG_ERR, r, mc->row.owner_uid, "cannot save that machine %s is being deleted: %s",
		mc->row.id, err && err->cause ? err->cause : "the store refused the write");
}

static void on_intent(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	/* The deletion goes on all the same: a full disk must not stop what frees space. */
	if (r < 0)
		log_intent(mc, r, err);
	steps_begin_down(&mc->steps);
}

/* Commits the deletion before anything is removed: else a daemon that ends meanwhile leaves a
 * machine that seems intact. */
static int before_undo(struct machine *mc)
{
	int r;

	if (mc->desired > LEVEL_DELETED || mc->state == MACHINE_DELETING)
		return 0;
	machine_set_state(mc, MACHINE_DELETING);
	/* The next daemon removes a machine that leaves nothing, whatever its row says. */
	if (mc->owner->remains == REMAINS_NOTHING || mc->steps.at <= 1)
		return 0;
	r = store_vm_put(mc->machines->m->store, &mc->row, on_intent, mc);
	if (r < 0)
		log_intent(mc, r, NULL);
	return r < 0 ? 0 : STEP_WAIT;
}

static void on_undone(struct machine *mc)
{
	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
}

/* Nothing is left of it. */
static void deleted(struct machine *mc)
{
	_cleanup_(machine_freep) struct machine *last = mc;
	struct machines *ms = mc->machines;

	crash_point();
	LIST_REMOVE(last, entry);
	last->entry.le_prev = NULL;
	if (last->row.env_digest)
		environments_release(ms->m->environments, last->row.env_digest);
	report_started(last, &last->failure);
	machine_notify(last, WAIT_BOOT, &last->failure);
	machine_notify(last, WAIT_STOPPED, &last->failure);
	machine_notify(last, WAIT_DELETED, NULL);
	last->owner->on_state(last, true);
}

/* The machine is in a resting state, and its row is committed. */
static void rest(struct machine *mc)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	crash_point();
	error_move(&why, &mc->failure);
	report_started(mc, &why);
	machine_notify(mc, WAIT_STOPPED, NULL);
	if (machine_is_settled(mc) && machine_boot_is_wanted(mc))
		machine_want(mc, LEVEL_UP);
	mc->owner->on_state(mc, false);
}

static void on_down(struct machine *mc)
{
	if (mc->desired == LEVEL_DELETED)
		deleted(mc);
	else
		rest(mc);
}

/* Keeps the machine; a later deletion begins at this step again. */
static void on_stuck(struct machine *mc, const char *step, int r, const struct error *why)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_fix(mc, "delete");
	const char *cause = why && why->message ? why->message : strerror(-r);

	error_set(&err, ERROR_INTERNAL, cause, why && why->fix ? why->fix : fix,
		"machine %s cannot be %s", mc->row.id,
		mc->desired > LEVEL_DELETED ? "stopped" : "removed");
	log_uid(LOG_ERR, 0, mc->row.owner_uid, "%s: step \"%s\" cannot be undone: %s", mc->row.id,
		step, cause);
	machine_set_last_error(mc, cause);
	mc->desired = LEVEL_UP; /* waiters for less get the error */
	machine_set_state(mc, MACHINE_UNKNOWN);
	machine_save(mc);
	error_clear(&mc->failure);
	report_started(mc, &err);
	machine_notify(mc, WAIT_BOOT, &err);
	machine_notify(mc, WAIT_STOPPED, &err);
	machine_notify(mc, WAIT_DELETED, &err);
}

int machine_add_engine(struct machine *mc)
{
	static const struct steps_callbacks cb = {
		.on_up = on_up,
		.on_failed = on_failed,
		.on_going_down = on_going_down,
		.before_undo = before_undo,
		.on_undone = on_undone,
		.on_down = on_down,
		.on_stuck = on_stuck,
	};

	return steps_init(&mc->steps, mc->machines->m->event, mc->machines->plan->steps, &cb, mc);
}
