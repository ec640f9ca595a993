/* SPDX-License-Identifier: MIT */
/*
 * Deletes machines past their time to live: one timer for the next expiry, and vm.reap_expired.
 * Called by rpc/vm.c, and as on_state of each owner.
 *
 * What must stay true: no machine is deleted while its command runs; a machine of a previous daemon
 * stays for DEADLINE_EXPIRED after this one's start (its owner may have been waiting for the host
 * to come back).
 */

#include "daemon/core/core-internal.h"
#include "daemon/core/vm.h"
#include "daemon/log.h"
#include "daemon/store/store.h"
#include "proto/deadline.h"
#include "proto/json.h"

struct reap {
	json_object *deleted; /* owned */
	struct error err;     /* owned: the first failure */
	unsigned pending;
	reap_done_fn done;
	void *userdata;
};

struct reap_one {
	struct reap *reap; /* borrowed */
	char id[16];
};

/* When the machine may be deleted, in wall-clock microseconds; 0: never. */
static uint64_t due(const struct machine *mc)
{
	uint64_t expires = machine_row(mc)->expires_usec;
	uint64_t up = now_usec() - machine_manager(mc)->started_usec;
	uint64_t kept = deadline_usec(DEADLINE_EXPIRED);

	if (expires == 0 || machine_goes_down(mc)) /* 0 also for every workspace */
		return 0;
	if (!machine_is_new(mc) && up < kept)
		return MAX_OF(expires, wall_usec() + kept - up);
	return expires;
}

static void on_reaped(const struct error *err, _unused_ void *userdata)
{
	if (err && err->code != ERROR_CANCELLED)
		log_error(
			"cannot delete an expired machine: %s", err->message ? err->message : "?");
}

static int on_timer(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct manager *m = userdata;
	struct machine *mc;
	uint64_t now = wall_usec();

	for (mc = machines_next(m->machines, NULL); mc; mc = machines_next(m->machines, mc)) {
		uint64_t at = due(mc);

		if (at != 0 && at <= now && !machine_busy(mc))
			(void)machine_delete(mc, "its ttl_seconds have passed", on_reaped, NULL);
	}
	reaper_update(m);
	return 0;
}

int reaper_new(struct manager *m, sd_event_source **ret)
{
	int r = sd_event_add_time(m->event, ret, CLOCK_REALTIME, 0, USEC_PER_SEC, on_timer, m);

	return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

void reaper_update(struct manager *m)
{
	uint64_t next = UINT64_MAX;
	struct machine *mc;

	for (mc = machines_next(m->machines, NULL); mc; mc = machines_next(m->machines, mc)) {
		uint64_t at = due(mc);

		/* Skips busy machines: this runs again when one becomes idle. */
		if (at != 0 && !machine_busy(mc))
			next = MIN_OF(next, at);
	}
	(void)sd_event_source_set_time(m->core->reaper, next);
	(void)sd_event_source_set_enabled(
		m->core->reaper, next == UINT64_MAX ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
}

void reaper_on_state(struct machine *mc, _unused_ bool deleted)
{
	reaper_update(machine_manager(mc));
}

static void reap_finish(struct reap *reap)
{
	_cleanup_json_ json_object *o = NULL;
	int r = -ENOMEM;

	if (--reap->pending > 0)
		return;
	o = json_object_new_object();
	if (o)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(reap->deleted));
	if (r >= 0)
		r = json_add(o, "deleted_vm_ids", TAKE_PTR(reap->deleted));
	if (r < 0)
		error_no_memory(&reap->err, "cannot make the reply");
	reap->done(reap->err.set ? NULL : TAKE_PTR(o), reap->err.set ? &reap->err : NULL,
		reap->userdata);
	error_clear(&reap->err);
	json_object_put(reap->deleted);
	free(reap);
}

static void on_one(const struct error *err, void *userdata)
{
	_cleanup_free_ struct reap_one *one = userdata;
	struct reap *reap = one->reap;

	if (err && !reap->err.set)
		(void)error_copy(&reap->err, err);
	else if (!err)
		(void)json_object_array_add(reap->deleted, json_object_new_string(one->id));
	reap_finish(reap);
}

static int reap_one(struct reap *reap, struct machine *mc)
{
	struct reap_one *one = calloc(1, sizeof(*one));
	int r;

	if (!one)
		return -ENOMEM;
	one->reap = reap;
	memcpy(one->id, machine_row(mc)->id, sizeof(one->id));
	r = machine_delete(mc, "its ttl_seconds have passed", on_one, one);
	if (r < 0)
		free(one);
	else
		reap->pending++;
	return r;
}

static int on_nothing(sd_event_source *source, void *userdata)
{
	sd_event_source_unref(source);
	reap_finish(userdata);
	return 0;
}

int vm_reap_expired(struct manager *m, uid_t uid, reap_done_fn done, void *userdata)
{
	struct reap *reap = calloc(1, sizeof(*reap));
	sd_event_source *later = NULL;
	struct machine *mc;
	int r = reap ? 0 : -ENOMEM;

	if (r >= 0) {
		reap->deleted = json_object_new_array();
		r = reap->deleted ? sd_event_add_defer(m->event, &later, on_nothing, reap)
				  : -ENOMEM;
	}
	if (r < 0) {
		if (reap)
			json_object_put(reap->deleted);
		free(reap);
		return r;
	}
	reap->done = done;
	reap->userdata = userdata;
	reap->pending = 1; /* done is never called from within this call */
	for (mc = machines_next(m->machines, NULL); mc; mc = machines_next(m->machines, mc)) {
		uint64_t at = due(mc);

		if (machine_row(mc)->owner_uid != uid || at == 0 || at > wall_usec() ||
			machine_busy(mc))
			continue;
		r = reap_one(reap, mc);
		if (r < 0)
			error_no_memory(&reap->err, "cannot delete %s", machine_row(mc)->id);
	}
	return 0;
}
