/* SPDX-License-Identifier: MIT */
/*
 * The machine object: its states and their table, what others may know of it, who waits for it, what can be asked of
 * it. Called by core/ and rpc/.
 *
 * What must stay true: only machine_set_state changes a state, along the table of successors; a machine is freed by the engine after its last step down and by nothing
 * else while the loop runs.
 */

#include "daemon/machine/machine.h"

#include <assert.h>

#include "daemon/machine/machine-internal.h"
#include "daemon/log.h"
#include "daemon/unit.h"
#include "proto/deadline.h"

static const char *const state_names[] = {
/* NOLINTNEXTLINE(bugprone-macro-parentheses): an initialiser */
#define X(sym, name) [MACHINE_##sym] = name,
	MACHINE_STATES(X)
#undef X
};
static_assert(ARRAY_SIZE(state_names) == MACHINE_STATE_MAX, "a name for each state");

#define TO(s) (1U << MACHINE_##s)
static const unsigned successors[] = {
	[MACHINE_PREPARING] = TO(CREATED) | TO(STARTING) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_CREATED] = TO(STARTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STARTING] = TO(STARTED) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STARTED] = TO(SUSPENDED) | TO(STOPPING) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_SUSPENDED] = TO(STARTED) | TO(STOPPING) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STOPPING] = TO(STOPPED) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STOPPED] = TO(STARTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_FAILED] = TO(STARTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_UNKNOWN] = TO(STARTED) | TO(STOPPED) | TO(FAILED) | TO(DELETING),
	[MACHINE_DELETING] = TO(UNKNOWN),
};
#undef TO
static_assert(ARRAY_SIZE(successors) == MACHINE_STATE_MAX, "successors of each state");

const char *machine_state_name(enum machine_state s)
{
	return state_names[s];
}

const char *machine_state_public(enum machine_state s)
{
	switch (s) {
	case MACHINE_STARTING: return "preparing";
	case MACHINE_STOPPING:
	case MACHINE_DELETING: return "stopped";
	default: return state_names[s];
	}
}

bool machine_successor(enum machine_state from, enum machine_state to)
{
	return (successors[from] & (1U << to)) != 0;
}

void machine_set_state(struct machine *mc, enum machine_state state)
{
	char field[32];

	if (mc->state == state)
		return;
	assert(machine_successor(mc->state, state));
	(void)snprintf(field, sizeof(field), "%s=%s", mc->owner->log_field, mc->row.id);
	log_full(LOG_DEBUG, 0, field, "%s: %s -> %s", mc->row.id, state_names[mc->state],
		state_names[state]);
	mc->state = state;
	(void)snprintf(mc->row.state, sizeof(mc->row.state), "%s", state_names[state]);
}

static void on_saved(int r, const struct error *err, _unused_ void *userdata)
{
	if (r < 0)
		log_error_errno(r, "cannot keep a machine's state: %s",
			err && err->cause ? err->cause : "the store refused it");
}

void machine_save(struct machine *mc)
{
	int r = store_vm_put(mc->machines->m->store, &mc->row, on_saved, NULL);

	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid, "%s: cannot keep its state", mc->row.id);
}

void machine_used(struct machine *mc)
{
	mc->row.active_usec = wall_usec();
}

void machine_set_stop_reason(struct machine *mc, const char *reason)
{
	(void)snprintf(mc->row.stop_reason, sizeof(mc->row.stop_reason), "%s", reason);
}

bool machine_busy(const struct machine *mc)
{
	return mc->engine != ENGINE_IDLE || mc->state == MACHINE_STOPPING ||
	       !LIST_EMPTY(&mc->execs);
}

static int make_paths(struct machine *mc)
{
	struct manager *m = mc->machines->m;

	mc->state_dir = str_printf("%s/machines/%s", m->state_dir, mc->row.id);
	mc->run_dir = str_printf("%s/vm/%s", m->runtime_dir, mc->row.id);
	mc->disk_path = str_printf("%s/machines/%s/disk.ext4", m->state_dir, mc->row.id);
	return mc->state_dir && mc->run_dir && mc->disk_path ? 0 : -ENOMEM;
}

/* A state of an earlier daemon's row: what that daemon knew of a running machine is not known any more. */
static enum machine_state state_from_row(const struct vm_row *row)
{
	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++)
		if (streq(row->state, state_names[i]))
			return i;
	return MACHINE_UNKNOWN;
}

int machine_new(struct machines *ms, const struct machine_owner *owner, const struct vm_row *row,
	struct machine **ret)
{
	_cleanup_(machine_freep) struct machine *mc = calloc(1, sizeof(*mc));
	int r;

	if (!mc)
		return -ENOMEM;
	mc->machines = ms;
	mc->owner = owner;
	mc->image_fd = mc->own_fd = mc->pidfd = -EBADF;
	mc->kernel = (struct kernel_files)KERNEL_FILES_INIT;
	TAILQ_INIT(&mc->waiters);
	LIST_INIT(&mc->execs);
	mc->state = state_from_row(row);
	mc->wanted = ACCELERATOR_AUTO;
	r = vm_row_copy(&mc->row, row);
	if (r >= 0)
		r = make_paths(mc);
	if (r >= 0)
		r = machine_add_engine(mc);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&ms->list, mc, entry);
	*ret = TAKE_PTR(mc);
	return 0;
}

static void free_world(struct machine *mc)
{
	sd_event_source_disable_unref(mc->work);
	sd_event_source_disable_unref(mc->pid_event);
	unit_free(mc->unit);
	sd_event_source_disable_unref(mc->deadline);
	machine_unpaused(mc);
	machine_link_close(mc);
	vmm_free(mc->vmm);
	disk_op_free(mc->disk_op);
	disk_op_free(mc->remove_op);
	machine_forget_images(mc);
	fd_close(mc->pidfd);
}

static void waiter_tell(struct machine_waiter *w, const struct error *err)
{
	TAILQ_REMOVE(&w->machine->waiters, w, entry);
	sd_event_source_disable_unref(w->late);
	w->done(err, w->userdata);
	free(w);
}

/* The daemon ends: the connections are closed, but what the callers' records hold is theirs to free. */
static void end_waits(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct machine_waiter *w = TAILQ_FIRST(&mc->waiters);

	if (w)
		error_cancelled(
			&err, "pyrod stops", "machine %s is not waited for any more", mc->row.id);
	while ((w = TAILQ_FIRST(&mc->waiters)))
		waiter_tell(w, &err);
}

struct machine *machine_free(struct machine *mc)
{
	if (!mc)
		return NULL;
	if (mc->entry.le_prev)
		LIST_REMOVE(mc, entry);
	while (!LIST_EMPTY(&mc->execs))
		exec_list_remove(LIST_FIRST(&mc->execs));
	end_waits(mc);
	free_world(mc);
	error_clear(&mc->failure);
	error_clear(&mc->stuck);
	vm_row_done(&mc->row);
	free(mc->state_dir);
	free(mc->run_dir);
	free(mc->disk_path);
	free(mc->bye);
	free(mc->proof_key);
	free(mc);
	return NULL;
}

int machines_new(struct manager *m, const struct machine_owner *const *owners,
	struct machines **ret, struct error *err)
{
	struct machines *ms = calloc(1, sizeof(*ms));
	int r;

	if (!ms)
		return error_no_memory(err, "cannot load the machines");
	ms->m = m;
	ms->owners = owners;
	*ret = ms; /* what recovers asks for it */
	LIST_INIT(&ms->list);
	TAILQ_INIT(&ms->proofs);
	r = reserve_new(ms);
	if (r >= 0)
		r = machines_recover(ms, err);
	if (r < 0) {
		error_set_errno(err, ERROR_INTERNAL, r, "look at pyrod's journal",
			"cannot load the machines");
		*ret = machines_free(ms);
		return r;
	}
	return 0;
}

struct machines *machines_free(struct machines *ms)
{
	if (!ms)
		return NULL;
	while (!LIST_EMPTY(&ms->list)) {
		struct machine *mc = LIST_FIRST(&ms->list);

		/* What runs goes on and is the next daemon's; a boot under way is ended. */
		if (mc->engine == ENGINE_IDLE && !mc->vmm_gone)
			mc->vmm = vmm_detach(mc->vmm);
		machine_free(mc);
	}
	for (size_t i = 0; i < ms->n_leftovers; i++)
		disk_op_free(ms->leftovers[i]);
	free(ms->leftovers);
	sd_event_source_disable_unref(ms->reserve);
	proofs_free(ms);
	free(ms);
	return NULL;
}

struct machine *machines_next(struct machines *ms, const struct machine *mc)
{
	return mc ? LIST_NEXT(mc, entry) : LIST_FIRST(&ms->list);
}

struct manager *machine_manager(const struct machine *mc)
{
	return mc->machines->m;
}

const struct vm_row *machine_row(const struct machine *mc)
{
	return &mc->row;
}

const char *machine_id(const struct machine *mc)
{
	return mc->row.id;
}

const struct machine_owner *machine_owner(const struct machine *mc)
{
	return mc->owner;
}

enum machine_state machine_state(const struct machine *mc)
{
	return mc->state;
}

bool machine_is_new(const struct machine *mc)
{
	return mc->this_life;
}

const char *machine_execution_mode(const struct machine *mc)
{
	return mc->vmm ? vmm_execution_mode(mc->vmm) : NULL;
}

const char *machine_accelerator_reason(const struct machine *mc)
{
	return mc->accelerator_reason;
}

char *machine_fix(const struct machine *mc, const char *verb)
{
	return str_printf("%s %s %s", mc->owner->command, verb, mc->row.id);
}

bool machines_use_digest(const char *digest, void *machines)
{
	struct machines *ms = machines;
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry)
		if ((mc->row.env_digest && streq(mc->row.env_digest, digest)) ||
			(mc->row.kernel_hash && streq(mc->row.kernel_hash, digest)))
			return true;
	return false;
}

size_t machines_count(struct machines *ms, uid_t uid)
{
	struct machine *mc;
	size_t n = 0;

	LIST_FOREACH (mc, &ms->list, entry)
		n += uid == 0 || mc->row.owner_uid == uid;
	return n;
}

static int on_wait_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct machine_waiter *w = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_fix(w->machine, "status");

	error_set(&err, ERROR_GUEST_UNRESPONSIVE, "pyrod has asked it since it began, and goes on",
		fix, "the guest of machine %s has not answered yet", w->machine->row.id);
	waiter_tell(w, &err);
	return 0;
}

/* late_usec: how long at the most, 0: as long as it takes. */
static int wait_for(struct machine *mc, enum machine_wait what, uint64_t late_usec,
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

int machine_wait(struct machine *mc, enum machine_wait what, machine_done_fn done, void *userdata)
{
	return wait_for(mc, what, 0, done, userdata);
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

void machine_tell(struct machine *mc, enum machine_wait what, const struct error *err)
{
	struct machine_waiter *w;

	while ((w = next_waiter(mc, what)))
		waiter_tell(w, err);
}

int machine_delete(struct machine *mc, const char *reason, machine_done_fn done, void *userdata)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ char *became =
		str_printf("%s; what ran in it has ended, its disk is gone", reason);
	_cleanup_free_ char *fix =
		str_printf("%s create ENVIRONMENT, for another machine", mc->owner->command);
	int r = machine_wait(mc, WAIT_GONE, done, userdata);

	if (r < 0)
		return r;
	mc->floor = 0; /* also when it is on its way down to another */
	machine_skip_reading(mc);
	/* Read by those who wait for its start or stop too: what they asked for may be what ended it. */
	error_set(&why, ERROR_CANCELLED, became, fix, "machine %s was deleted", mc->row.id);
	if (machine_goes_down(mc)) {
		if (mc->failure.set && mc->failure.code == ERROR_CANCELLED) {
			error_clear(&mc->failure);
			error_move(&mc->failure, &why);
		}
		return 0;
	}
	machine_undo(mc, &why);
	return 0;
}

static int wrong_state(struct machine *mc, const char *verb, const char *fix, struct error *err)
{
	_cleanup_free_ char *say = machine_fix(mc, fix);

	return error_set(err, ERROR_WRONG_STATE, mc->row.last_error, say,
		"machine %s is %s and cannot be %s", mc->row.id, machine_state_public(mc->state),
		verb);
}

/* On its way to where it can be booted from: the boot comes when it is there. */
static bool comes_to_a_stand(const struct machine *mc)
{
	if (machine_goes_down(mc))
		return mc->floor > 0;
	return mc->engine == ENGINE_IDLE && mc->state == MACHINE_STOPPING;
}

int machine_boot(struct machine *mc, machine_done_fn done, void *userdata, struct error *err)
{
	int r;

	machine_used(mc);
	if (mc->engine == ENGINE_IDLE && mc->state == MACHINE_STARTED)
		return 1;
	if (comes_to_a_stand(mc)) {
		r = machine_wait(mc, WAIT_BOOT, done, userdata);
	} else if (machine_may_answer(mc)) {
		r = machine_ask_again(mc);
		if (r >= 0)
			r = wait_for(mc, mc->stop_wanted ? WAIT_BOOT : WAIT_STARTED,
				deadline_usec(DEADLINE_ADOPT_CALL), done, userdata);
	} else {
		if (mc->engine != ENGINE_UP || mc->target != machine_steps()) {
			if (mc->engine != ENGINE_IDLE ||
				!machine_successor(mc->state, MACHINE_STARTING))
				return wrong_state(mc, "started", "status", err);
			machine_go_up(mc);
		}
		r = machine_wait(mc, WAIT_STARTED, done, userdata);
	}
	return r < 0 ? error_no_memory(err, "cannot wait for machine %s", mc->row.id) : 0;
}

static bool runs_not(const struct machine *mc)
{
	return mc->state == MACHINE_CREATED || mc->state == MACHINE_STOPPED ||
	       mc->state == MACHINE_FAILED;
}

int machine_stop(struct machine *mc, const char *reason, machine_done_fn done, void *userdata,
	struct error *err)
{
	int r;

	machine_used(mc);
	if (mc->engine == ENGINE_IDLE && runs_not(mc))
		return 1;
	if ((mc->floor == 0 && mc->engine != ENGINE_IDLE) || mc->step < machine_steps_created())
		return wrong_state(mc, "stopped", "delete", err);
	if (mc->engine == ENGINE_UP)
		return wrong_state(mc, "stopped while it is being started", "delete", err);
	r = machine_wait(mc, WAIT_STOPPED, done, userdata);
	if (r < 0)
		return error_no_memory(err, "cannot wait for machine %s", mc->row.id);
	machine_set_stop_reason(mc, reason);
	if (machine_may_answer(mc) && machine_ask_again(mc) >= 0)
		mc->stop_wanted = mc->stop_asked = true;
	else if (mc->engine == ENGINE_IDLE && mc->state != MACHINE_STOPPING)
		machine_shut_down(mc);
	return 0;
}
