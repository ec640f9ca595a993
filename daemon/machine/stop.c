/* SPDX-License-Identifier: MIT */
/*
 * Stops a machine that remains: its guest is asked to stop everything, writes back its disk, sends
 * BYE and resets, and its VMM exits. Called by the engine, talk.c and events.c.
 *
 * What must stay true: a guest that does not end within DEADLINE_STOP is killed; a guest that
 * cannot be asked (no stream, vCPUs paused) is killed at once; either way the machine is `stopped`
 * and its disk remains.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/crash.h"
#include "daemon/log.h"
#include "proto/deadline.h"

void machine_shut_down_done(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	crash_point();
	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
	error_cancelled(&err, "a stop was requested; its processes have ended",
		"machine %s was stopped", mc->row.id);
	machine_come_to_rest(mc, MACHINE_STOPPED, &err);
}

static int on_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine *mc = userdata;

	log_uid(LOG_WARNING, 0, mc->row.owner_uid,
		"%s: its guest did not stop within %u s; killing its VMM", mc->row.id,
		(unsigned)(deadline_usec(DEADLINE_STOP) / USEC_PER_SEC));
	machine_shut_down_done(mc);
	return 0;
}

int machine_shut_down_again(struct machine *mc)
{
	int r = frame_put(
		link_control(mc->guest.link), FRAME_SHUTDOWN, AGENT_CHANNEL_NONE, NULL, 0);

	if (r >= 0)
		link_schedule(mc->guest.link);
	return r;
}

static int ask(struct machine *mc)
{
	int r;

	if (!mc->guest.link || !link_is_up(mc->guest.link) || mc->hold.pause)
		return -ENOTCONN;
	mc->process.deadline = sd_event_source_disable_unref(mc->process.deadline);
	r = sd_event_add_time_relative(mc->machines->m->event, &mc->process.deadline,
		CLOCK_MONOTONIC, deadline_usec(DEADLINE_STOP), 0, on_late, mc);
	return r < 0 ? r : machine_shut_down_again(mc);
}

void machine_shut_down(struct machine *mc)
{
	bool running = mc->state == MACHINE_STARTED || mc->state == MACHINE_SUSPENDED;

	if (running) {
		machine_set_state(mc, MACHINE_STOPPING);
		machine_save(mc);
	}
	if (!running || ask(mc) < 0)
		machine_shut_down_done(mc);
}
