/* SPDX-License-Identifier: MIT */
/*
 * The machine object: its states and their table, its memory, its attributes. Called by every file
 * of daemon/machine and by the layers above.
 *
 * What must stay true: only machine_set_state changes a state, along the table of successors; while
 * the loop runs, only the engine frees a machine, after its last step down.
 */

#include "daemon/machine/machine.h"

#include <assert.h>
#include <sys/stat.h>

#include "daemon/machine/machine-internal.h"
#include "daemon/log.h"
#include "daemon/unit.h"

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
	[MACHINE_STARTING] = TO(STARTED) | TO(FAILED) | TO(ADOPTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STARTED] = TO(SUSPENDED) | TO(STOPPING) | TO(FAILED) | TO(ADOPTING) | TO(UNKNOWN) |
			    TO(DELETING),
	[MACHINE_SUSPENDED] =
		TO(STARTED) | TO(STOPPING) | TO(FAILED) | TO(ADOPTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STOPPING] = TO(STOPPED) | TO(FAILED) | TO(ADOPTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_STOPPED] = TO(STARTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_FAILED] = TO(STARTING) | TO(ADOPTING) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_ADOPTING] = TO(STARTED) | TO(STOPPED) | TO(FAILED) | TO(UNKNOWN) | TO(DELETING),
	[MACHINE_UNKNOWN] = TO(ADOPTING) | TO(STARTED) | TO(STOPPED) | TO(FAILED) | TO(DELETING),
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
	case MACHINE_ADOPTING: return "unknown";
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
	bool keep;

	if (mc->state == state)
		return;
	assert(machine_successor(mc->state, state));
	(void)snprintf(field, sizeof(field), "%s=%s", mc->owner->log_field, mc->row.id);
	log_full(LOG_DEBUG, 0, field, "%s: %s -> %s", mc->row.id, state_names[mc->state],
		state_names[state]);
	/* The row keeps `deleting` of a stuck deletion, which the next daemon continues. While
	 * adopting, it keeps the state that the previous daemon recorded. */
	keep = state == MACHINE_ADOPTING ||
	       (mc->state == MACHINE_DELETING && state == MACHINE_UNKNOWN);
	mc->state = state;
	if (!keep)
		(void)snprintf(mc->row.state, sizeof(mc->row.state), "%s", state_names[state]);
	if (mc->owner->on_change)
		mc->owner->on_change(mc);
}

static void on_saved(int r, const struct error *err, _unused_ void *userdata)
{
	if (r < 0)
		log_error_errno(r, "cannot save a machine's state: %s",
			err && err->cause ? err->cause : "the store refused the write");
}

void machine_save(struct machine *mc)
{
	int r = store_vm_put(mc->machines->m->store, &mc->row, on_saved, NULL);

	if (r < 0)
		log_uid(LOG_ERR, r, mc->row.owner_uid, "%s: cannot save its state", mc->row.id);
}

void machine_used(struct machine *mc)
{
	mc->row.active_usec = wall_usec();
}

void machine_set_stop_reason(struct machine *mc, const char *reason)
{
	(void)snprintf(mc->row.stop_reason, sizeof(mc->row.stop_reason), "%s", reason);
}

void machine_set_last_error(struct machine *mc, const char *text)
{
	free(mc->row.last_error);
	mc->row.last_error = text ? strdup(text) : NULL;
}

bool machine_busy(const struct machine *mc)
{
	return !machine_is_settled(mc) || mc->state == MACHINE_STOPPING ||
	       !LIST_EMPTY(&mc->guest.execs) || !LIST_EMPTY(&mc->guest.files);
}

bool machine_is_settled(const struct machine *mc)
{
	return mc->steps.phase == STEPS_SETTLED;
}

bool machine_goes_up(const struct machine *mc)
{
	return mc->steps.phase == STEPS_UP;
}

bool machine_goes_down(const struct machine *mc)
{
	return steps_is_going_down(&mc->steps);
}

bool machine_is_down(const struct machine *mc)
{
	return machine_is_settled(mc) &&
	       (mc->state == MACHINE_CREATED || mc->state == MACHINE_STOPPED ||
		       mc->state == MACHINE_FAILED);
}

bool machine_is_unadopted(const struct machine *mc)
{
	return machine_is_settled(mc) &&
	       (mc->state == MACHINE_ADOPTING || mc->state == MACHINE_UNKNOWN) && mc->process.vmm &&
	       !mc->process.ended;
}

static int make_paths(struct machine *mc)
{
	struct manager *m = mc->machines->m;

	mc->paths.state_dir = str_printf("%s/machines/%s", m->state_dir, mc->row.id);
	mc->paths.run_dir = str_printf("%s/vm/%s", m->runtime_dir, mc->row.id);
	mc->paths.disk = str_printf("%s/machines/%s/disk.ext4", m->state_dir, mc->row.id);
	return mc->paths.state_dir && mc->paths.run_dir && mc->paths.disk ? 0 : -ENOMEM;
}

/* The state in a previous daemon's row; UNKNOWN for a name that is not in the table. */
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
	mc->process.pidfd = -EBADF;
	TAILQ_INIT(&mc->waiters);
	LIST_INIT(&mc->guest.execs);
	LIST_INIT(&mc->guest.files);
	mc->state = state_from_row(row);
	mc->accelerator.wanted = ACCELERATOR_AUTO;
	r = vm_row_copy(&mc->row, row);
	if (r >= 0)
		r = make_paths(mc);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&ms->list, mc, entry);
	*ret = TAKE_PTR(mc);
	return 0;
}

static void free_world(struct machine *mc)
{
	steps_done(&mc->steps);
	sd_event_source_disable_unref(mc->process.pid_event);
	unit_free(mc->process.unit);
	sd_event_source_disable_unref(mc->process.deadline);
	machine_link_close(mc);
	if (mc->hold.pause)
		sd_event_source_disable_unref(mc->hold.pause->timer);
	free(mc->hold.pause);
	vmm_free(mc->process.vmm);
	disk_op_free(mc->disk_op);
	machine_boot_free(mc);
	fd_close(mc->process.pidfd);
}

struct machine *machine_free(struct machine *mc)
{
	if (!mc)
		return NULL;
	if (mc->entry.le_prev)
		LIST_REMOVE(mc, entry);
	while (!LIST_EMPTY(&mc->guest.execs))
		exec_list_remove(LIST_FIRST(&mc->guest.execs));
	machine_end_files(mc);
	machine_end_waits(mc);
	free_world(mc);
	error_clear(&mc->failure);
	vm_row_done(&mc->row);
	free(mc->paths.state_dir);
	free(mc->paths.run_dir);
	free(mc->paths.disk);
	free(mc->guest.bye);
	free(mc->proof.key);
	free(mc);
	return NULL;
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
	return mc->is_new;
}

const char *machine_execution_mode(const struct machine *mc)
{
	return mc->process.vmm ? vmm_execution_mode(mc->process.vmm) : NULL;
}

const char *machine_accelerator_reason(const struct machine *mc)
{
	return mc->accelerator.reason;
}

int machine_disk_bytes(const struct machine *mc, uint64_t *ret)
{
	struct stat st;

	if (stat(mc->paths.disk, &st) < 0)
		return -errno;
	*ret = (uint64_t)st.st_blocks * 512; /* stat(2): blocks of 512 bytes */
	return 0;
}

char *machine_fix(const struct machine *mc, const char *verb)
{
	return str_printf("%s %s %s", mc->owner->command, verb, mc->row.id);
}

char *machine_again_fix(const struct machine *mc)
{
	return mc->owner->again ? strdup(mc->owner->again) : machine_fix(mc, "start");
}
