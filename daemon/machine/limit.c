/* SPDX-License-Identifier: MIT */
/*
 * Tells which limit ended a command. Called by run.c at EXIT while the machine still exists, and by
 * death.c.
 *
 * What must stay true: the guest is hostile, so its report only chooses between our words; a
 * command that succeeded was ended by no limit; the flag raises the limit and is accepted on this
 * host, or is empty.
 */

#include "daemon/machine/limit.h"

#include "daemon/machine/machine-internal.h"
#include "proto/host.h"
#include "proto/json.h"

#include <signal.h>

enum {
	STATUS_KILLED = 128 + SIGKILL, /* of a shell whose child was killed */
	TIMEOUT_FACTOR = 10,
	MEMORY_STEP_MIB = 64,
	PIDS_PER_MIB = 2, /* the guest allows more if memory is what bounds it */
};

static void timeout_flag(uint64_t seconds, char ret[32])
{
	static const struct {
		unsigned seconds;
		char unit;
	} units[] = { { 3600, 'h' }, { 60, 'm' }, { 1, 's' } };
	uint64_t more = seconds * TIMEOUT_FACTOR;
	size_t i = 0;

	if (more > TIMEOUT_SECONDS_MAX) {
		(void)snprintf(ret, 32, "--timeout 0");
		return;
	}
	while (more % units[i].seconds != 0)
		i++;
	(void)snprintf(
		ret, 32, "--timeout %u%c", (unsigned)(more / units[i].seconds), units[i].unit);
}

/* Doubles value, or returns max if that is at least a quarter more, else 0. */
static uint64_t more_of(uint64_t value, uint64_t max, uint64_t step)
{
	if (max >= 2 * value)
		return 2 * value;
	max -= max % step;
	return max >= value + value / 4 ? max : 0;
}

void limit_more_memory(struct machine *mc, char ret[32])
{
	uint64_t mib = more_of(mc->row.mem_mib, machine_memory_max(mc), MEMORY_STEP_MIB);

	ret[0] = '\0';
	if (mib > 0 && mib % 1024 == 0)
		(void)snprintf(ret, 32, "-m %lluG", (unsigned long long)(mib / 1024));
	else if (mib > 0)
		(void)snprintf(ret, 32, "-m %lluM", (unsigned long long)mib);
}

static void of_memory(struct machine *mc, struct limit *ret)
{
	ret->name = "mem_mib";
	ret->value = (int64_t)mc->row.mem_mib;
	limit_more_memory(mc, ret->flag);
}

static void of_pids(struct machine *mc, uint32_t pids_max, struct limit *ret)
{
	ret->name = "pids";
	ret->value = pids_max;
	if (pids_max >= PIDS_PER_MIB * mc->row.mem_mib)
		limit_more_memory(mc, ret->flag);
}

static void of_disk(struct machine *mc, struct limit *ret)
{
	uint64_t mib = more_of(mc->row.disk_mib, machine_disk_max(mc), 1);

	ret->name = "disk_mib";
	ret->value = (int64_t)mc->row.disk_mib;
	if (mib > 0)
		(void)snprintf(
			ret->flag, sizeof(ret->flag), "--disk-mib %llu", (unsigned long long)mib);
}

static void of_timeout(uint64_t usec, struct limit *ret)
{
	ret->ended_by = "timeout";
	ret->name = "timeout_seconds";
	ret->value = (int64_t)(usec / USEC_PER_SEC);
	timeout_flag(usec / USEC_PER_SEC, ret->flag);
}

void limit_of(struct machine *mc, const struct limit_end *e, struct limit *ret)
{
	static const struct agent_ended untold;
	const struct agent_ended *ended = e->ended ? e->ended : &untold;
	const struct msg_exit *x = e->exit;
	bool by_kill = x->signal == SIGKILL || (x->signal == 0 && x->code == STATUS_KILLED);
	bool failed = x->signal == 0 && x->code != 0;

	*ret = (struct limit){ .ended_by = x->signal ? "signal" : NULL };
	if (x->timed_out) {
		of_timeout(e->timeout_usec, ret);
	} else if (by_kill && !e->killed && (ended->flags & ENDED_OOM_KILL)) {
		ret->ended_by = "memory";
		of_memory(mc, ret);
	} else if (failed && (ended->flags & ENDED_PIDS) && ended->pids_max > 0) {
		ret->ended_by = "pids";
		of_pids(mc, ended->pids_max, ret);
	} else if ((failed || x->signal == SIGBUS) && (ended->flags & ENDED_DISK_FULL)) {
		ret->ended_by = "disk";
		of_disk(mc, ret);
	} else if (failed && (ended->flags & ENDED_OOM_KILL)) {
		/* A process of it was killed, and it failed, as make does: only limit is set. */
		of_memory(mc, ret);
	}
}

static int add_limit(const struct limit *l, json_object *o)
{
	_cleanup_json_ json_object *limit = NULL;
	int r;

	if (!l->name)
		return json_add(o, "limit", NULL);
	limit = json_object_new_object();
	r = limit ? json_add_str(limit, "name", l->name) : -ENOMEM;
	if (r >= 0)
		r = json_add_int(limit, "value", l->value);
	if (r >= 0)
		r = json_add_str(limit, "flag", l->flag[0] ? l->flag : NULL);
	return r < 0 ? r : json_add(o, "limit", TAKE_PTR(limit));
}

int limit_json(const struct limit *l, const struct agent_ended *ended, json_object *o)
{
	int r = json_add_str(o, "ended_by", l->ended_by);

	if (r >= 0)
		r = add_limit(l, o);
	if (r < 0)
		return r;
	return ended ? json_add_bool(o, "background_left", ended->flags & ENDED_LEFT)
		     : json_add(o, "background_left", NULL);
}
