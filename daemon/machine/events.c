/* SPDX-License-Identifier: MIT */
/*
 * Handles what a VMM reports. Called by the drivers.
 *
 * What must stay true: the exit of a VMM on the way down completes the undo that waits for it;
 * during a stop it completes the stop; any other exit is a failure with a cause.
 */

#include "daemon/machine/machine-internal.h"

#include <limits.h>

#include "daemon/crash.h"
#include "daemon/log.h"

/* Logs the cause too: nothing else reports a VMM that was killed. */
static char *exit_cause(struct machine *mc, const struct vmm_exit *e)
{
	_cleanup_free_ char *killed = NULL;
	char *cause;

	if (mc->guest.bye)
		return strdup(mc->guest.bye);
	if (e->status < 0 && e->status != INT_MIN)
		killed = str_printf(
			"the VMM was killed by signal %d (%s), perhaps by the host's OOM killer "
			"or an administrator",
			-e->status, strsignal(-e->status));
	cause = machine_death_cause(mc, e->reason        ? e->reason
					: e->guest_ended ? "the guest shut down or reset by itself"
					: killed         ? killed
							 : "the VMM ended");
	log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: %s", mc->row.id,
		cause ? cause : "its VMM ended");
	return cause;
}

static void on_pid_kept(int r, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	if (!machine_goes_up(mc) || !mc->boot)
		return;
	mc->boot->process_kept = true;
	if (r < 0)
		machine_continue(mc, err);
	else if (mc->process.up)
		machine_continue(mc, NULL);
}

static void on_vmm_launched(struct vmm *v, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r;

	if (!machine_goes_up(mc))
		return;
	crash_point();
	mc->row.vmm_pid = vmm_pid(v);
	mc->row.vmm_start_time = vmm_start_time(v);
	(void)snprintf(
		mc->row.vmm_invocation, sizeof(mc->row.vmm_invocation), "%s", vmm_invocation(v));
	r = store_vm_put(mc->machines->m->store, &mc->row, on_pid_kept, mc);
	if (r < 0) {
		error_set_errno(&err, ERROR_INTERNAL, r, NULL, "cannot save the machine's process");
		machine_continue(mc, &err);
	}
}

static void on_vmm_started(_unused_ struct vmm *v, void *userdata)
{
	struct machine *mc = userdata;

	mc->process.up = true;
	reserve_watch(mc->machines);
	/* A previous daemon ended between launch and boot. */
	if (mc->state == MACHINE_ADOPTING && !mc->guest.set_up && mc->guest.link)
		link_restart(mc->guest.link);
	if (machine_goes_up(mc) && mc->boot && mc->boot->process_kept)
		machine_continue(mc, NULL);
}

static void on_vmm_failed(_unused_ struct vmm *v, const struct error *err, void *userdata)
{
	struct machine *mc = userdata;

	if (machine_goes_up(mc))
		machine_continue(mc, err);
}

static void on_vmm_exited(_unused_ struct vmm *v, const struct vmm_exit *e, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *cause = NULL, *fix = NULL;

	mc->process.ended = true;
	if (machine_goes_down(mc)) {
		machine_continue(mc, NULL);
		return;
	}
	if (!machine_goes_up(mc) && mc->state == MACHINE_STOPPING) {
		machine_shut_down_done(mc);
		return;
	}
	if (machine_goes_up(mc) && e->guest_ended && !mc->guest.boot_known &&
		!vmm_guest_seen(mc->process.vmm)) {
		machine_not_booted(mc, true, &err);
		machine_continue(mc, &err);
		return;
	}
	cause = exit_cause(mc, e);
	fix = machine_death_fix(mc, cause);
	if (machine_goes_up(mc)) {
		error_set(&err, ERROR_START_FAILED, cause, fix,
			"machine %s ended while it was starting", mc->row.id);
		machine_continue(mc, &err);
	} else {
		error_set(&err, ERROR_GUEST_DIED, cause, fix, "machine %s ended%s", mc->row.id,
			LIST_EMPTY(&mc->guest.execs) ? "" : " while its command ran");
		machine_fail(mc, MACHINE_FAILED, &err);
	}
}

static void on_vmm_paused(_unused_ struct vmm *v, const char *reason, void *userdata)
{
	machine_paused(userdata, reason);
}

static void on_vmm_resumed(_unused_ struct vmm *v, void *userdata)
{
	machine_unpaused(userdata);
}

static void on_vmm_agent(_unused_ struct vmm *v, int fd, void *userdata)
{
	struct machine *mc = userdata;

	if (mc->guest.link)
		link_take(mc->guest.link, fd);
	else
		(void)fd_close(fd); /* no link waits for it */
}

const struct vmm_callbacks machine_vmm_events = {
	.on_launched = on_vmm_launched,
	.on_started = on_vmm_started,
	.on_failed = on_vmm_failed,
	.on_exited = on_vmm_exited,
	.on_paused = on_vmm_paused,
	.on_resumed = on_vmm_resumed,
	.on_agent = on_vmm_agent,
};
