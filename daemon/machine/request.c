/* SPDX-License-Identifier: MIT */
/*
 * Requests to a machine: delete, boot, stop, stop now. Called by core/ and rpc/, and by recover.c.
 *
 * What must stay true: a deletion is never refused, in any state, and never taken back; a boot
 * requested on the way to a resting state comes after it; a request for what is under way waits for
 * the same end.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/deadline.h"

int machine_delete(struct machine *mc, const char *reason, machine_done_fn done, void *userdata)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *became =
		str_printf("%s; its processes have ended and its disk is deleted", reason);
	_cleanup_free_ char *fix =
		str_printf("%s create ENVIRONMENT, for a new machine", mc->owner->command);
	int r = machine_wait(mc, WAIT_DELETED, 0, done, userdata);

	if (r < 0)
		return r;
	if (mc->owner->remains > REMAINS_NOTHING)
		log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: deletion: %s", mc->row.id, reason);
	/* Waiters for a start or stop get this error too. */
	error_set(&why, ERROR_CANCELLED, became, fix, "machine %s was deleted", mc->row.id);
	if (machine_goes_down(mc) && mc->failure.set && mc->failure.code == ERROR_CANCELLED) {
		error_clear(&mc->failure);
		(void)error_copy(&mc->failure, &why);
	}
	machine_fall(mc, LEVEL_DELETED, mc->resting, &why);
	machine_skip_reading(mc);
	return 0;
}

static int wrong_state(struct machine *mc, const char *verb, const char *fix, struct error *err)
{
	return error_set(err, ERROR_WRONG_STATE, mc->row.last_error, fix,
		"machine %s is %s and cannot be %s", mc->row.id, machine_state_public(mc->state),
		verb);
}

/* True on the way to a state that can be booted: the boot comes then. */
static bool comes_to_rest(const struct machine *mc)
{
	if (machine_goes_down(mc))
		return mc->desired > LEVEL_DELETED;
	return machine_is_settled(mc) && mc->state == MACHINE_STOPPING;
}

/* Waits, up to DEADLINE_ADOPT_CALL, for the outcome of the adoption. */
static int boot_unadopted(struct machine *mc, machine_done_fn done, void *userdata)
{
	int r = machine_readopt(mc);

	if (r < 0)
		return r;
	return machine_wait(mc, mc->desired < LEVEL_UP ? WAIT_BOOT : WAIT_STARTED,
		deadline_usec(DEADLINE_ADOPT_CALL), done, userdata);
}

int machine_boot(struct machine *mc, machine_done_fn done, void *userdata, struct error *err)
{
	_cleanup_free_ char *status = machine_fix(mc, "status");
	int r;

	machine_used(mc);
	if (machine_is_settled(mc) && mc->state == MACHINE_STARTED)
		return 1;
	if (comes_to_rest(mc)) {
		r = machine_wait(mc, WAIT_BOOT, 0, done, userdata);
	} else if (machine_is_unadopted(mc)) {
		r = boot_unadopted(mc, done, userdata);
	} else {
		if (!machine_goes_up(mc) || mc->desired < LEVEL_UP) {
			if (!machine_is_down(mc))
				return wrong_state(mc, "started", status, err);
			machine_want(mc, LEVEL_UP);
		}
		r = machine_wait(mc, WAIT_STARTED, 0, done, userdata);
	}
	return r < 0 ? error_no_memory(err, "cannot wait for machine %s", mc->row.id) : 0;
}

/* True if it leaves nothing, or something of it may be missing. */
static bool can_only_be_deleted(const struct machine *mc)
{
	if (mc->steps.at < mc->machines->plan->n_created)
		return true;
	return machine_goes_up(mc) ? machine_rest_level(mc) == LEVEL_DELETED
				   : machine_goes_down(mc) && mc->desired == LEVEL_DELETED;
}

int machine_stop(struct machine *mc, const char *reason, machine_done_fn done, void *userdata,
	struct error *err)
{
	_cleanup_free_ char *deletion = machine_fix(mc, "delete");
	int r;

	machine_used(mc);
	if (machine_is_down(mc))
		return 1;
	if (can_only_be_deleted(mc))
		return wrong_state(mc, "stopped", deletion, err);
	if (machine_goes_up(mc))
		return wrong_state(mc, "stopped while it is being started",
			"the same call again, when it has started", err);
	r = machine_wait(mc, WAIT_STOPPED, 0, done, userdata);
	if (r < 0)
		return error_no_memory(err, "cannot wait for machine %s", mc->row.id);
	machine_set_stop_reason(mc, reason);
	if (machine_is_unadopted(mc) && machine_readopt(mc) >= 0)
		mc->guest.stop_asked = true;
	if (machine_is_settled(mc))
		machine_want(mc, LEVEL_STOPPED);
	return 0;
}

void machine_stop_now(struct machine *mc)
{
	if (machine_is_settled(mc) && mc->state == MACHINE_STOPPING)
		machine_shut_down_done(mc);
}
