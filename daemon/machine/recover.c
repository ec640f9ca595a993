/* SPDX-License-Identifier: MIT */
/*
 * Recovers the state of a previous daemon: rows, VMMs, commands, directories. Called once by
 * machines_new, before the loop runs.
 *
 * What must stay true: a running VMM is adopted (adopt.c). It is killed only for a deletion, or if
 * its unit was never handed its descriptors (VMM_PARTIAL). If it is not certain what runs, the
 * machine becomes `unknown` and everything of it stays. A directory without a row is the rest of a
 * deletion, since the row is made first and deleted last.
 */

#include "daemon/machine/machine-internal.h"

#include <dirent.h>
#include <fcntl.h>

#include "daemon/log.h"

static void on_recovered(const struct error *err, _unused_ void *userdata)
{
	if (err && err->code != ERROR_CANCELLED)
		log_warning("cannot remove a machine of a previous daemon: %s (%s)",
			err->message ? err->message : "?",
			err->cause ? err->cause : "unknown cause");
}

/* True if the row says so: it was committed after the VMM had exited. */
static bool has_no_vmm(const struct machine *mc)
{
	return mc->row.vmm_pid == 0 && machine_is_down(mc);
}

static int ended_meanwhile(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_again_fix(mc);

	if (mc->owner->remains == REMAINS_NOTHING)
		return machine_delete(mc, "it ended", on_recovered, NULL);
	error_set(&err, ERROR_GUEST_DIED,
		streq(mc->row.boot_id, mc->machines->boot_id)
			? "it ended while pyrod was not running"
			: "the host was restarted",
		fix, "machine %s no longer runs", mc->row.id);
	machine_come_to_rest(mc, MACHINE_FAILED, &err);
	return 0;
}

/* Recovers a machine that ran or was about to run. */
static int recover_vmm(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	mc->desired = LEVEL_UP;
	if (!machine_successor(mc->state, MACHINE_ADOPTING))
		machine_set_state(mc, MACHINE_UNKNOWN);
	switch (machine_find_vmm(mc)) {
	case VMM_PARTIAL:
	case VMM_NONE: machine_set_state(mc, MACHINE_UNKNOWN); return ended_meanwhile(mc);
	case VMM_UNCERTAIN:
		machine_set_state(mc, MACHINE_UNKNOWN);
		log_uid(LOG_WARNING, 0, mc->row.owner_uid,
			"%s: cannot determine whether its VMM runs; left as it is", mc->row.id);
		return 0;
	case VMM_RUNS: break;
	}
	if (machine_adopt(mc, &err) >= 0)
		return 0;
	machine_set_state(mc, MACHINE_UNKNOWN);
	log_uid(LOG_ERR, 0, mc->row.owner_uid, "%s: %s: %s", mc->row.id,
		err.message ? err.message : "it cannot be adopted",
		err.cause ? err.cause : "unknown cause");
	if (mc->owner->remains != REMAINS_NOTHING)
		return 0;
	return machine_delete(mc, "it cannot be adopted", on_recovered, NULL);
}

/* Returns the owner whose noun is in the row. NULL: there is none. */
static const struct machine_owner *owner_of(const struct machines *ms, const struct vm_row *row)
{
	for (size_t i = 0; ms->owners[i]; i++)
		if (streq(ms->owners[i]->noun, row->noun))
			return ms->owners[i];
	return NULL;
}

static int recover_row(struct machines *ms, const struct vm_row *row)
{
	const struct machine_owner *owner = owner_of(ms, row);
	struct machine *mc;
	int r = owner ? machine_new(ms, owner, row, &mc) : -EBADMSG;

	if (r >= 0)
		r = machine_add_engine(mc);
	if (r < 0)
		return r;
	mc->steps.at = ms->plan->n;
	if (mc->state == MACHINE_PREPARING) /* no client knows it */
		return machine_delete(mc, "its creation was interrupted", on_recovered, NULL);
	if (mc->state == MACHINE_DELETING)
		return machine_delete(mc, "its deletion was requested", on_recovered, NULL);
	if (!has_no_vmm(mc))
		return recover_vmm(mc);
	mc->steps.at = ms->plan->n_created;
	mc->desired = LEVEL_STOPPED;
	return 0;
}

static struct machine *find_machine(struct machines *ms, const char *id)
{
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry)
		if (streq(mc->row.id, id))
			return mc;
	return NULL;
}

static void on_forgotten(int k, const struct error *err, _unused_ void *userdata)
{
	if (k < 0)
		log_warning("cannot delete the record of a command that never ran: %s",
			err && err->message ? err->message : strerror(-k));
}

/* Gives each command to the owner of its machine, and forgets those that the owner does not keep.
 * Deletes a machine that was made for one command and has none. */
static int recover_execs(struct machines *ms, struct error *err)
{
	struct exec_row *rows = NULL;
	struct machine *mc;
	size_t n = 0;
	int r = store_exec_load(ms->m->store, &rows, &n, err);

	for (size_t i = 0; i < n; i++) {
		mc = find_machine(ms, rows[i].vm_id);
		if (r >= 0)
			r = mc && mc->owner->adopt_exec ? mc->owner->adopt_exec(mc, &rows[i]) : 1;
		if (r > 0)
			r = store_exec_forget(ms->m->store, rows[i].id, on_forgotten, NULL);
		exec_row_done(&rows[i]);
	}
	free(rows);
	LIST_FOREACH (mc, &ms->list, entry)
		if (r >= 0 && mc->state == MACHINE_ADOPTING &&
			mc->owner->remains == REMAINS_NOTHING && LIST_EMPTY(&mc->guest.execs))
			r = machine_delete(mc, "its start was interrupted", on_recovered, NULL);
	return r;
}

static void on_leftover(const struct error *err, _unused_ void *userdata)
{
	if (err)
		log_warning("cannot remove a deleted machine's directory: %s",
			err->message ? err->message : "?");
}

static bool has_row(struct machines *ms, const char *id)
{
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry)
		if (streq(mc->row.id, id))
			return true;
	return false;
}

static int remove_leftover(struct machines *ms, const char *parent, const char *name)
{
	_cleanup_free_ char *path = str_printf("%s/%s", parent, name);
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers */
	struct disk_op **more = reallocarray(ms->leftovers, ms->n_leftovers + 1, sizeof(*more));

	if (more)
		ms->leftovers = more;
	if (!path || !more)
		return -ENOMEM;
	more[ms->n_leftovers] = NULL;
	return disk_remove(ms->m, path, on_leftover, NULL, &more[ms->n_leftovers++], NULL);
}

static bool names_machine(const struct machines *ms, const char *name)
{
	for (size_t i = 0; ms->owners[i]; i++)
		if (startswith(name, ms->owners[i]->id_prefix))
			return true;
	return false;
}

/* Removes the directories of machines without a row; other names are not ours. */
static int sweep(struct machines *ms, const char *base, const char *sub)
{
	_cleanup_free_ char *parent = str_printf("%s/%s", base, sub);
	DIR *dir = parent ? opendir(parent) : NULL;
	struct dirent *d;
	int r = 0;

	if (!dir)
		return parent && errno == ENOENT ? 0 : -errno;
	while (r >= 0 && (d = readdir(dir)))
		if (names_machine(ms, d->d_name) && !has_row(ms, d->d_name))
			r = remove_leftover(ms, parent, d->d_name);
	(void)closedir(dir);
	return r;
}

static int read_boot_id(struct machines *ms)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	int r = read_file_at(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &n);

	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	(void)snprintf(ms->boot_id, sizeof(ms->boot_id), "%.39s", text);
	return 0;
}

int machines_recover(struct machines *ms, struct error *err)
{
	struct vm_row *rows = NULL;
	size_t n = 0;
	int r = read_boot_id(ms);

	if (r >= 0)
		r = store_vm_load(ms->m->store, &rows, &n, err);
	for (size_t i = 0; i < n; i++) {
		if (r >= 0)
			r = recover_row(ms, &rows[i]);
		vm_row_done(&rows[i]);
	}
	free(rows);
	if (r >= 0)
		r = recover_execs(ms, err);
	if (r >= 0)
		r = sweep(ms, ms->m->state_dir, "machines");
	if (r >= 0)
		r = sweep(ms, ms->m->state_dir, "transcripts");
	if (r >= 0)
		r = sweep(ms, ms->m->runtime_dir, "vm");
	return r;
}
