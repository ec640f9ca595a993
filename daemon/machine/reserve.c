/* SPDX-License-Identifier: MIT */
/*
 * Keeps disk_reserve_mib of the disks' file system free while machines run: at the reserve it
 * pauses the machines whose disks have grown since the last look (pause.c resumes them). Called by
 * events.c and adopt.c when a VMM runs.
 *
 * What must stay true: the next look comes before writes at FILL_RATE can use up the space above
 * the reserve, but not more often than every LOOK_MIN_USEC; what is written in one such interval,
 * and until QEMU has stopped, is taken from the reserve. A machine that writes nothing is never
 * paused. The kernel has no event for low space: a timer looks while a VMM runs.
 */

#include "daemon/machine/machine-internal.h"

#include "daemon/log.h"
#include "proto/deadline.h"
#include "proto/host.h"

#include <sys/stat.h>

#define FILL_RATE     (1024 * MIB) /* bytes a second that all machines together may write */
#define LOOK_MIN_USEC (50 * USEC_PER_MSEC)
#define LOOK_MAX_USEC USEC_PER_SEC
#define ACCURACY_USEC (5 * USEC_PER_MSEC)
#define AGAIN_USEC    (5 * USEC_PER_SEC) /* until the next request to pause */
#define ROOM_MIB      16                 /* less would be full again at once */

static uint64_t reserve_bytes(const struct machines *ms)
{
	return (uint64_t)ms->m->config->disk_reserve_mib * MIB;
}

int machines_free_bytes(const struct machines *ms, uint64_t *ret)
{
	return host_free_bytes(ms->m->state_dir, ret);
}

bool machines_have_room(const struct machines *ms)
{
	uint64_t reserve = reserve_bytes(ms), free_bytes;

	return machines_free_bytes(ms, &free_bytes) >= 0 &&
	       free_bytes >= MAX_OF(reserve + reserve / 10, ROOM_MIB * MIB);
}

/* Whether its disk has more blocks than at the last look; the first look only counts them. */
static bool has_grown(struct machine *mc)
{
	uint64_t before = mc->hold.blocks;
	struct stat st;

	if (stat(mc->paths.disk, &st) < 0)
		return false;
	mc->hold.blocks = (uint64_t)st.st_blocks;
	return before > 0 && mc->hold.blocks > before;
}

/* Kills a VMM that still writes after DEADLINE_PAUSE: its guest has taken it over, or it hangs. */
static void pause_machine(struct machine *mc)
{
	uint64_t now = now_usec();

	if (mc->hold.asked_usec == 0)
		mc->hold.asked_usec = mc->hold.again_usec = now;
	if (now - mc->hold.asked_usec >= deadline_usec(DEADLINE_PAUSE)) {
		log_uid(LOG_ERR, 0, mc->row.owner_uid,
			"%s: killed: its VMM still wrote %u s after it was asked to pause",
			mc->row.id, (unsigned)(deadline_usec(DEADLINE_PAUSE) / USEC_PER_SEC));
		vmm_stop(mc->process.vmm);
	} else if (now >= mc->hold.again_usec) {
		mc->hold.again_usec = now + AGAIN_USEC;
		vmm_pause(mc->process.vmm);
	}
}

static bool runs(const struct machine *mc)
{
	return mc->process.vmm && mc->process.up && !mc->process.ended && !machine_goes_down(mc);
}

/* Returns whether any VMM runs. */
static bool look_at_machines(struct machines *ms, bool short_of)
{
	struct machine *mc;
	bool any = false;

	LIST_FOREACH (mc, &ms->list, entry) {
		if (!runs(mc))
			continue;
		any = true;
		if (!short_of)
			mc->hold.asked_usec = 0;
		if (has_grown(mc) && short_of && !mc->hold.pause)
			pause_machine(mc);
	}
	return any;
}

/* Microseconds until the reserve could be reached. */
static uint64_t next_look(uint64_t above)
{
	return MIN_OF(MAX_OF(above * USEC_PER_SEC / FILL_RATE, LOOK_MIN_USEC), LOOK_MAX_USEC);
}

static int on_look(sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machines *ms = userdata;
	uint64_t reserve = reserve_bytes(ms), free_bytes, above = UINT32_MAX;
	int r = machines_free_bytes(ms, &free_bytes);

	if (r < 0)
		log_warning_errno(r, "cannot read the free space of %s", ms->m->state_dir);
	else
		above = free_bytes > reserve ? MIN_OF(free_bytes - reserve, above) : 0;
	if (!look_at_machines(ms, above == 0 && reserve > 0))
		return 0;
	r = sd_event_source_set_time_relative(source, next_look(above));
	if (r >= 0)
		r = sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	if (r < 0)
		log_error_errno(r, "the free space is no longer watched for disk_reserve_mib");
	return 0;
}

int reserve_new(struct machines *ms)
{
	int r = sd_event_add_time(
		ms->m->event, &ms->reserve, CLOCK_MONOTONIC, 0, ACCURACY_USEC, on_look, ms);

	return r < 0 ? r : sd_event_source_set_enabled(ms->reserve, SD_EVENT_OFF);
}

void reserve_watch(struct machines *ms)
{
	int enabled, r = sd_event_source_get_enabled(ms->reserve, &enabled);

	if (r >= 0 && enabled == SD_EVENT_OFF) {
		r = sd_event_source_set_time_relative(ms->reserve, 0);
		if (r >= 0)
			r = sd_event_source_set_enabled(ms->reserve, SD_EVENT_ONESHOT);
	}
	if (r < 0)
		log_error_errno(r, "cannot watch the free space for disk_reserve_mib");
}
