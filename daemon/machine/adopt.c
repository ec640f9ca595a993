/* SPDX-License-Identifier: MIT */
/*
 * Adopts a machine of the previous daemon. Called by recover.c at start, by requests for a machine
 * that has not answered, and by talk.c when the guest's agent has.
 *
 * What must stay true: a machine is `adopting` until its agent has said which machine it is. If the
 * agent does not answer within DEADLINE_ADOPT the machine is `unknown` and its commands fail; the
 * next call that needs the guest asks the agent again. An interrupted boot continues where it was.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/deadline.h"

int machine_adopt(struct machine *mc, struct error *err)
{
	/* The guest may still be booting and not know its SYNC yet. */
	const bool starting = mc->state == MACHINE_STARTING;
	const struct vmm_adoption a = {
		.driver = vmm_driver_find(mc->row.driver),
		.id = mc->row.id,
		.owner_uid = mc->row.owner_uid,
		.pid = mc->row.vmm_pid,
		.start_time = mc->row.vmm_start_time,
		.invocation = mc->row.vmm_invocation,
		.pidfd = mc->process.pidfd,
		.run_dir = mc->paths.run_dir,
	};
	int r = vmm_adopt(mc->machines->m, &a, &machine_vmm_events, mc, &mc->process.vmm, err);

	if (r < 0)
		return r;
	mc->process.pidfd = -EBADF;
	vmm_boot(mc->process.vmm); /* the previous daemon may have died before it did */
	r = machine_link_open(
		mc, starting ? deadline_usec(DEADLINE_BOOT) : deadline_usec(DEADLINE_ADOPT));
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot reach the guest");
	link_set_sync(mc->guest.link, mc->row.sync, !starting);
	mc->process.up = true;
	reserve_watch(mc->machines);
	mc->guest.set_up = !starting;
	mc->desired = mc->state == MACHINE_STOPPING ? LEVEL_STOPPED : LEVEL_UP;
	machine_set_state(mc, MACHINE_ADOPTING);
	return 0;
}

/* Makes the agent end and forget the commands that this daemon does not know, or no longer. */
int machine_forget_strays(struct machine *mc, const struct msg_welcome *w)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < w->n_held; i++) {
		r = machine_note_channel(mc, w->held[i].channel);
		if (r >= 0 && !exec_list_find(&mc->guest.execs, w->held[i].channel))
			r = frame_put(link_control(mc->guest.link), FRAME_EXIT_ACK,
				w->held[i].channel, NULL, 0);
	}
	return r;
}

void machine_adopt_done(struct machine *mc)
{
	log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: adopted, its VMM is pid %d", mc->row.id,
		(int)mc->row.vmm_pid);
	machine_set_state(mc, MACHINE_STARTED);
	machine_save(mc);
	machine_next(mc);
}

int machine_adopted(struct machine *mc, const struct msg_welcome *w)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = NULL;

	if (!machine_is_same(mc, w)) {
		fix = machine_again_fix(mc);
		error_set(&err, ERROR_GUEST_DIED, "its guest is not the one that pyrod set up", fix,
			"machine %s cannot be adopted", mc->row.id);
		machine_fail(mc, MACHINE_FAILED, &err);
		return 0;
	}
	machine_adopt_done(mc);
	return 0;
}

void machine_adopt_failed(struct machine *mc, const struct error *err)
{
	/* An unadopted machine is killed only if a client of this daemon asked for the stop. */
	const bool stop = mc->guest.stop_asked;

	log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: its agent does not answer", mc->row.id);
	machine_set_state(mc, MACHINE_UNKNOWN);
	machine_set_last_error(mc, err->message);
	machine_save(mc);
	machine_fail_execs(mc, err);
	machine_notify(mc, WAIT_STARTED, err);
	if (!stop)
		machine_notify(mc, WAIT_BOOT, err);
	if (machine_is_settled(mc))
		machine_want(mc, stop ? LEVEL_STOPPED : LEVEL_UP);
}

int machine_readopt(struct machine *mc)
{
	int r;

	if (mc->state == MACHINE_ADOPTING)
		return 0;
	mc->guest.link = link_free(mc->guest.link);
	r = machine_link_open(mc, deadline_usec(DEADLINE_ADOPT));
	if (r < 0)
		return r;
	link_set_sync(mc->guest.link, mc->row.sync, mc->guest.set_up);
	machine_set_state(mc, MACHINE_ADOPTING);
	return 0;
}
