/* SPDX-License-Identifier: MIT */
/*
 * The engine that takes a machine up its steps (start.c) and down again. Called by machine.c, start.c's
 * events, agent.c and recover.c.
 *
 * What must stay true: going down undoes the steps begun in reverse order, whichever of them was half
 * done, to the floor: the ground for a deletion or a first start that failed, the steps of a machine that
 * does not run for a stop, a failed boot or a guest that ended. A step that cannot be undone leaves the
 * machine `unknown` with everything below it still in place. The engine runs only in a turn of the loop
 * of its own, so that no callback sees its object freed under it. Who waits is told after the commit of
 * what he is told.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/crash.h"
#include "daemon/log.h"

static void kick(struct machine *mc)
{
	(void)sd_event_source_set_enabled(mc->work, SD_EVENT_ONESHOT);
}

bool machine_goes_down(const struct machine *mc)
{
	return mc->engine == ENGINE_TURN || mc->engine == ENGINE_DOWN;
}

void machine_undo(struct machine *mc, const struct error *why)
{
	if (machine_goes_down(mc))
		return;
	(void)error_copy(&mc->failure, why);
	mc->engine = ENGINE_TURN;
	kick(mc);
}

void machine_land(struct machine *mc, enum machine_state landing, const struct error *why)
{
	if (machine_goes_down(mc))
		return; /* perhaps further: a deletion is not taken back */
	mc->floor = mc->owner->remains == REMAINS_NOTHING ? 0 : machine_steps_created();
	mc->landing = landing;
	machine_undo(mc, why);
}

void machine_go_up(struct machine *mc)
{
	mc->target = machine_steps();
	mc->floor = machine_steps_created();
	mc->landing = MACHINE_FAILED;
	mc->waiting = false;
	mc->engine = ENGINE_UP;
	kick(mc);
}

void machine_continue(struct machine *mc, const struct error *err)
{
	if (mc->engine == ENGINE_UP && err) {
		if (mc->vmm) { /* it was launched: the start that failed is a boot */
			machine_has_failed(mc);
			mc->boot_failed = true;
		}
		machine_undo(mc, err);
		return;
	}
	/* What happens during the commit of a deletion is seen by the steps that follow. */
	if (!mc->waiting || mc->telling || mc->engine == ENGINE_TURN)
		return;
	if (err)
		(void)error_copy(&mc->stuck, err);
	mc->waiting = false;
	kick(mc);
}

static void tell_started(struct machine *mc, const struct error *err)
{
	struct machine_callbacks cb = mc->cb;

	mc->cb.on_started = NULL;
	if (cb.on_started)
		cb.on_started(mc, err, mc->userdata);
	machine_tell(mc, WAIT_STARTED, err);
}

/* Nothing is left of it. */
static void gone(struct machine *mc)
{
	_cleanup_(machine_freep) struct machine *last = mc;

	crash_point();
	LIST_REMOVE(mc, entry);
	mc->entry.le_prev = NULL;
	if (last->row.env_digest)
		environments_release(last->machines->m->environments, last->row.env_digest);
	tell_started(last, &last->failure);
	machine_tell(last, WAIT_BOOT, &last->failure);
	machine_tell(last, WAIT_STOPPED, &last->failure);
	machine_tell(last, WAIT_GONE, NULL);
	last->owner->on_state(last, true);
}

/* Something of it cannot be removed: it is kept, and a later deletion begins here again. */
static void get_stuck(struct machine *mc, int r)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_fix(mc, "delete");
	const char *why = mc->stuck.message ? mc->stuck.message : strerror(-r);

	error_set(&err, ERROR_INTERNAL, why, mc->stuck.fix ? mc->stuck.fix : fix,
		"machine %s cannot be %s", mc->row.id, mc->floor > 0 ? "stopped" : "removed");
	log_uid(LOG_ERR, 0, mc->row.owner_uid, "%s: step \"%s\" cannot be undone: %s", mc->row.id,
		machine_step(mc->step - 1)->name, why);
	free(mc->row.last_error);
	mc->row.last_error = strdup(why);
	mc->engine = ENGINE_IDLE;
	machine_set_state(mc, MACHINE_UNKNOWN);
	machine_save(mc);
	error_clear(&mc->failure);
	error_clear(&mc->stuck);
	tell_started(mc, &err);
	machine_tell(mc, WAIT_BOOT, &err);
	machine_tell(mc, WAIT_STOPPED, &err);
	machine_tell(mc, WAIT_GONE, &err);
}

/* Who asked for a boot on the way down waits for it from now on. */
static bool boot_is_wanted(struct machine *mc)
{
	struct machine_waiter *w;
	bool wanted = false;

	TAILQ_FOREACH (w, &mc->waiters, entry)
		if (w->what == WAIT_BOOT) {
			w->what = WAIT_STARTED;
			w->late = sd_event_source_disable_unref(w->late);
			wanted = true;
		}
	return wanted;
}

/* It stands where it shall: the row says so. A deletion that came meanwhile takes it further. */
static void stand(struct machine *mc)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	crash_point();
	error_move(&why, &mc->failure);
	mc->engine = ENGINE_IDLE;
	tell_started(mc, &why);
	machine_tell(mc, WAIT_STOPPED, NULL);
	if (mc->engine == ENGINE_IDLE && boot_is_wanted(mc))
		machine_go_up(mc);
	mc->owner->on_state(mc, false);
}

static void on_landed(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid,
			"cannot keep that machine %s does not run: %s", mc->row.id,
			err && err->cause ? err->cause : "the store refused it");
	machine_continue(mc, NULL);
}

/* NULL when out of memory: the row then says no reason. */
static char *sentence(const struct error *err)
{
	return str_printf(
		"%s%s%s", err->message, err->cause ? ": " : "", err->cause ? err->cause : "");
}

static void land(struct machine *mc)
{
	int r;

	machine_set_state(mc, mc->landing);
	mc->row.vmm_pid = 0;
	mc->row.vmm_start_time = 0;
	mc->row.vmm_invocation[0] = '\0';
	free(mc->row.last_error);
	mc->row.last_error = mc->landing == MACHINE_FAILED && mc->failure.message
				     ? sentence(&mc->failure)
				     : NULL;
	mc->at_floor = true;
	mc->waiting = true;
	r = store_vm_put(mc->machines->m->store, &mc->row, on_landed, mc);
	if (r < 0)
		on_landed(r, NULL, mc);
}

static void on_intent(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	/* It goes on all the same: a full disk must not be in the way of what makes room. */
	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid,
			"cannot keep that machine %s is being deleted: %s", mc->row.id,
			err && err->cause ? err->cause : "the store refused it");
	mc->waiting = false;
	kick(mc);
}

/* Before anything of it goes the row says that it will: else a daemon that ends meanwhile leaves a machine that
 * seems whole. True: that is being committed. */
static bool intent_is_due(struct machine *mc)
{
	int r;

	if (mc->floor > 0 || mc->state == MACHINE_DELETING)
		return false;
	machine_set_state(mc, MACHINE_DELETING);
	/* Where nothing is to remain the next daemon removes it whatever its row says. */
	if (mc->owner->remains == REMAINS_NOTHING || mc->step <= 1)
		return false;
	mc->telling = true;
	mc->waiting = true;
	r = store_vm_put(mc->machines->m->store, &mc->row, on_intent, mc);
	if (r < 0)
		on_intent(r, NULL, mc);
	return true;
}

static void go_down(struct machine *mc)
{
	if (intent_is_due(mc))
		return;
	while (mc->step > mc->floor) {
		int (*undo)(struct machine *) = machine_step(mc->step - 1)->undo;
		int r;

		crash_point();
		r = undo ? undo(mc) : 0;
		if (r < 0) {
			get_stuck(mc, r);
			return;
		}
		if (r == STEP_WAIT) {
			mc->waiting = true;
			return;
		}
		mc->step--;
	}
	if (mc->floor == 0)
		gone(mc);
	else
		land(mc);
}

static void turn_down(struct machine *mc)
{
	mc->engine = ENGINE_DOWN;
	mc->waiting = mc->adopting = mc->stop_wanted = mc->stop_asked = false;
	mc->deadline = sd_event_source_disable_unref(mc->deadline);
	machine_unpaused(mc);
	machine_fail_execs(mc, &mc->failure);
	/* Not a step's undo: one that could not be ended has none of that step, but may have been asked again. */
	machine_link_close(mc);
	go_down(mc);
}

/* A step on the way down, or the commit at the floor, has ended by its event. */
static void go_on_down(struct machine *mc)
{
	mc->deadline = sd_event_source_disable_unref(mc->deadline);
	if (mc->stuck.set) {
		get_stuck(mc, -EIO);
		return;
	}
	if (mc->telling) {
		mc->telling = false;
	} else if (mc->at_floor) {
		mc->at_floor = false;
		if (mc->floor == mc->step) {
			stand(mc);
			return;
		}
	} else {
		const struct step *step = machine_step(mc->step - 1);

		if (!step->undo_again || !step->undo_again(mc))
			mc->step--;
	}
	go_down(mc);
}

static void go_up(struct machine *mc)
{
	while (mc->step < mc->target) {
		const struct step *step = machine_step(mc->step++);
		int r;

		crash_point();
		r = step->run(mc, &mc->failure);

		if (r < 0) {
			error_set_errno(&mc->failure, ERROR_START_FAILED, r,
				error_errno_fix(r) ? NULL : "pyro doctor",
				"step \"%s\" of the machine's start failed", step->name);
			turn_down(mc);
			return;
		}
		if (r == STEP_WAIT) {
			mc->waiting = true;
			return;
		}
	}
	mc->engine = ENGINE_IDLE;
	crash_point();
	tell_started(mc, NULL);
	if (mc->engine == ENGINE_IDLE && LIST_EMPTY(&mc->execs))
		machine_expect_command(mc);
	mc->owner->on_state(mc, false);
}

static int on_work(_unused_ sd_event_source *source, void *userdata)
{
	struct machine *mc = userdata;

	if (mc->engine == ENGINE_TURN)
		turn_down(mc);
	else if (mc->engine == ENGINE_UP && !mc->waiting)
		go_up(mc);
	else if (mc->engine == ENGINE_DOWN && !mc->waiting)
		go_on_down(mc);
	return 0;
}

int machine_add_engine(struct machine *mc)
{
	int r = sd_event_add_defer(mc->machines->m->event, &mc->work, on_work, mc);

	return r < 0 ? r : sd_event_source_set_enabled(mc->work, SD_EVENT_OFF);
}
