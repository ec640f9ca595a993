/* SPDX-License-Identifier: MIT */
/*
 * The waiters of a machine. Called by the engine, adopt.c, talk.c and request.c.
 *
 * What must stay true: each waiter is notified once, after the commit of what it is told, or
 * removed by machine_unwait.
 */

#include "daemon/machine/machine-internal.h"

struct machine_waiter {
	TAILQ_ENTRY(machine_waiter) entry;
	struct machine *machine; /* borrowed: whose list this is in */
	enum machine_wait what;
	sd_event_source *late; /* owned or NULL: ends the wait */
	machine_done_fn done;
	void *userdata;
};

static void notify(struct machine_waiter *w, const struct error *err)
{
	TAILQ_REMOVE(&w->machine->waiters, w, entry);
	sd_event_source_disable_unref(w->late);
	w->done(err, w->userdata);
	free(w);
}

/* At the daemon's end the connections are closed, but done still frees its caller's record. */
void machine_end_waits(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct machine_waiter *w = TAILQ_FIRST(&mc->waiters);

	if (w)
		error_cancelled(&err, "pyrod is stopping", "waiting for machine %s was cancelled",
			mc->row.id);
	while ((w = TAILQ_FIRST(&mc->waiters)))
		notify(w, &err);
}

static int on_wait_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine_waiter *w = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_fix(w->machine, "status");

	error_set(&err, ERROR_GUEST_UNRESPONSIVE,
		"pyrod has asked it since pyrod started, and keeps asking", fix,
		"the guest of machine %s has not answered yet", w->machine->row.id);
	notify(w, &err);
	return 0;
}

int machine_wait(struct machine *mc, enum machine_wait what, uint64_t late_usec,
	machine_done_fn done, void *userdata)
{
	struct machine_waiter *w;
	int r;

	if (!done)
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	*w = (struct machine_waiter){
		.machine = mc, .what = what, .done = done, .userdata = userdata
	};
	if (late_usec > 0) {
		r = sd_event_add_time_relative(mc->machines->m->event, &w->late, CLOCK_MONOTONIC,
			late_usec, 0, on_wait_late, w);
		if (r < 0) {
			free(w);
			return r;
		}
	}
	TAILQ_INSERT_TAIL(&mc->waiters, w, entry);
	return 0;
}

void machine_unwait(struct machine *mc, const void *userdata)
{
	struct machine_waiter *w, *next;

	for (w = TAILQ_FIRST(&mc->waiters); w; w = next) {
		next = TAILQ_NEXT(w, entry);
		if (w->userdata != userdata)
			continue;
		TAILQ_REMOVE(&mc->waiters, w, entry);
		sd_event_source_disable_unref(w->late);
		free(w);
	}
}

static struct machine_waiter *next_waiter(struct machine *mc, enum machine_wait what)
{
	struct machine_waiter *w;

	TAILQ_FOREACH (w, &mc->waiters, entry)
		if (w->what == what)
			return w;
	return NULL;
}

void machine_notify(struct machine *mc, enum machine_wait what, const struct error *err)
{
	struct machine_waiter *w;

	while ((w = next_waiter(mc, what)))
		notify(w, err);
}

bool machine_boot_is_wanted(struct machine *mc)
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
