/* SPDX-License-Identifier: MIT */
/*
 * A machine whose VMM has stopped its vCPUs, because reserve.c asked for it or because a write to
 * its disk failed. After a full disk they resume when there is room again; after another error they
 * stay stopped, since the disk's contents cannot be trusted. Called by events.c.
 *
 * What must stay true: the deadlines of a paused machine's commands and agent do not run; it can be
 * deleted. The kernel has no event for "there is room": a timer looks, at least every
 * LOOK_MAX_USEC.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/deadline.h"

#define LOOK_MIN_USEC (500 * USEC_PER_MSEC)
#define LOOK_MAX_USEC (10 * USEC_PER_SEC)

static void hold(struct machine *mc, bool held)
{
	struct exec *x;
	struct file *f;

	for (x = LIST_FIRST(&mc->guest.execs); x; x = exec_list_next(x))
		exec_hold(x, held);
	for (f = LIST_FIRST(&mc->guest.files); f; f = file_list_next(f))
		file_hold(f, held);
	if (mc->guest.link)
		link_hold(mc->guest.link, held);
}

static void report(struct machine *mc, const char *reason)
{
	_cleanup_free_ char *text = reason ? str_printf("paused: %s", reason) : NULL;

	machine_set_last_error(mc, text);
	machine_save(mc);
}

/*
 * Counts how long a VMM claims a full disk that has room, and kills it after DEADLINE_PAUSE in
 * total, since the claim suspends its commands' deadlines. A disk that is full resets the count.
 */
static void count_idle(struct machine *mc)
{
	struct pause *p = mc->hold.pause;
	uint64_t now = now_usec();

	if (!p->disk_full)
		return;
	if (p->room_usec > 0)
		mc->hold.idle_usec += now - p->room_usec;
	p->room_usec = machines_have_room(mc->machines) ? now : 0;
	if (p->room_usec == 0)
		mc->hold.idle_usec = 0;
	if (mc->hold.idle_usec < deadline_usec(DEADLINE_PAUSE))
		return;
	log_uid(LOG_ERR, 0, mc->row.owner_uid,
		"%s: killed: its VMM reported a full disk for %u s, but the disk had space",
		mc->row.id, (unsigned)(deadline_usec(DEADLINE_PAUSE) / USEC_PER_SEC));
	mc->hold.idle_usec = 0;
	vmm_stop(mc->process.vmm);
}

static int on_look(sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine *mc = userdata;
	struct pause *p = mc->hold.pause;
	int r = sd_event_source_set_time_relative(source, p->wait_usec);

	if (r >= 0)
		r = sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid, "%s: cannot check the free space again",
			mc->row.id);
	p->wait_usec = MIN_OF(2 * p->wait_usec, LOOK_MAX_USEC);
	count_idle(mc);
	if (p->room_usec > 0)
		vmm_resume(mc->process.vmm); /* machine_unpaused follows, or the next look */
	return 0;
}

void machine_paused(struct machine *mc, const char *reason)
{
	int r;

	if (mc->hold.pause || machine_goes_down(mc))
		return;
	log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: paused: %s", mc->row.id, reason);
	mc->hold.pause = calloc(1, sizeof(*mc->hold.pause));
	if (!mc->hold.pause) {
		log_uid(LOG_ERR, 0, mc->row.owner_uid, "%s: stays paused: out of memory",
			mc->row.id);
		return;
	}
	mc->hold.pause->reason = reason;
	mc->hold.asked_usec = 0;
	mc->hold.pause->disk_full = streq(reason, "disk_full");
	mc->hold.pause->wait_usec = LOOK_MIN_USEC;
	hold(mc, true);
	report(mc, reason);
	mc->owner->on_pause(mc);
	count_idle(mc);
	if (!mc->hold.pause->disk_full)
		return;
	r = sd_event_add_time_relative(mc->machines->m->event, &mc->hold.pause->timer,
		CLOCK_MONOTONIC, LOOK_MIN_USEC, 0, on_look, mc);
	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid,
			"%s: stays paused: cannot check the free space", mc->row.id);
}

void machine_unpaused(struct machine *mc)
{
	if (!mc->hold.pause)
		return;
	if (!machine_goes_down(mc) && mc->process.vmm)
		count_idle(mc);
	sd_event_source_disable_unref(mc->hold.pause->timer);
	free(mc->hold.pause);
	mc->hold.pause = NULL;
	if (machine_goes_down(mc))
		return;
	log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: resumed", mc->row.id);
	hold(mc, false);
	report(mc, NULL);
	mc->owner->on_pause(mc);
}

const char *machine_pause_reason(const struct machine *mc)
{
	return mc->hold.pause && mc->hold.pause->disk_full ? "disk_full" : NULL;
}

const char *machine_pause_cause(const struct machine *mc)
{
	return mc->hold.pause ? mc->hold.pause->reason : NULL;
}

char *machine_pause_detail(const struct machine *mc)
{
	const struct manager *m = mc->machines->m;

	if (!mc->hold.pause)
		return str_printf("there is space on %s again", m->state_dir);
	if (!mc->hold.pause->disk_full)
		return str_printf(
			"a write to its disk failed on the host, and it cannot continue; delete "
			"it: %s delete %s",
			mc->owner->command, mc->row.id);
	return str_printf("the host's disk is %s; free space on %s and it continues",
		m->config->disk_reserve_mib > 0 ? "almost full (disk_reserve_mib)" : "full",
		m->state_dir);
}
