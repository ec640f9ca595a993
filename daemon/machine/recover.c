/* SPDX-License-Identifier: MIT */
/*
 * What an earlier daemon left: rows, VMMs, commands, directories. Called once by machines_new, before the
 * loop runs, and by the engine's way down for a machine of that kind.
 *
 * What must stay true: what runs is taken over (adopt.c), and killed only when a deletion asks for it and it
 * surely is ours; on doubt the machine becomes `unknown` and everything of it stays. A directory without a
 * row is the rest of a deletion, since the row comes first and goes last.
 */

#include "daemon/machine/machine-internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/pidfd.h>

#include "daemon/log.h"
#include "daemon/unit.h"

static int on_pid_gone(_unused_ sd_event_source *source, _unused_ int fd, _unused_ uint32_t revents,
	void *userdata)
{
	struct machine *mc = userdata;

	mc->pid_event = sd_event_source_disable_unref(mc->pid_event);
	mc->pidfd = fd_close(mc->pidfd);
	mc->unit = unit_free(mc->unit);
	mc->row.vmm_pid = 0;
	mc->row.vmm_invocation[0] = '\0';
	machine_continue(mc, NULL);
	return 0;
}

/* Systemd has said what its unit is: the end of its main process is waited for. */
static int end_unit(struct machine *mc, struct unit *u)
{
	pid_t pid = unit_pid(u);
	int r;

	mc->pidfd = fd_close(mc->pidfd);
	mc->pidfd = pidfd_open(pid, 0);
	if (mc->pidfd < 0) {
		r = -errno;
		mc->pidfd = -EBADF;
		return r == -ESRCH ? 0 : r;
	}
	if (!unit_owns(u, pid))
		return -EBUSY;
	r = sd_event_add_io(
		mc->machines->m->event, &mc->pid_event, mc->pidfd, EPOLLIN, on_pid_gone, mc);
	if (r < 0)
		return r;
	log_uid(LOG_INFO, 0, mc->row.owner_uid,
		"%s: ending its VMM (%s), which an earlier daemon started", mc->row.id,
		unit_name(u));
	unit_stop(u);
	return 1;
}

static void on_looked(struct unit *u, int found, void *userdata)
{
	struct machine *mc = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = found > 0 ? end_unit(mc, u) : found;

	if (r > 0)
		return;
	if (r < 0)
		error_set_errno(&err, ERROR_INTERNAL, r, "systemctl status dbus.service",
			"the VMM's unit %s cannot be ended", unit_name(u));
	mc->unit = unit_free(u);
	machine_continue(mc, r < 0 ? &err : NULL);
}

static int kill_unit(struct machine *mc)
{
	static const struct unit_callbacks events = { .on_looked = on_looked };
	_cleanup_free_ char *name = vmm_unit(mc->row.id);
	int r;

	mc->unit = unit_free(mc->unit);
	r = name ? unit_new(mc->machines->m->units, name, &events, mc, &mc->unit) : -ENOMEM;
	if (r < 0)
		return r;
	unit_look(mc->unit);
	return 1;
}

int machine_recover_kill(struct machine *mc)
{
	enum machine_vmm found = machine_find_vmm(mc);

	if (found == VMM_HALF || (found == VMM_LIVES && mc->row.vmm_invocation[0]))
		return kill_unit(mc);
	switch (found) {
	case VMM_HALF:
	case VMM_GONE: return 0;
	case VMM_UNSURE: return -EBUSY;
	case VMM_LIVES: break;
	}
	if (pidfd_send_signal(mc->pidfd, SIGKILL, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -EBUSY;
	log_uid(LOG_INFO, 0, mc->row.owner_uid,
		"%s: ending its VMM (pid %d), which an earlier daemon started", mc->row.id,
		(int)mc->row.vmm_pid);
	if (sd_event_add_io(mc->machines->m->event, &mc->pid_event, mc->pidfd, EPOLLIN, on_pid_gone,
		    mc) < 0)
		return -EBUSY;
	return 1;
}

static void on_recovered(const struct error *err, _unused_ void *userdata)
{
	if (err && err->code != ERROR_CANCELLED)
		log_warning("cannot remove a machine of an earlier daemon: %s (%s)",
			err->message ? err->message : "?", err->cause ? err->cause : "no cause");
}

/* Its row was committed so after its VMM had ended. */
static bool runs_not(const struct machine *mc)
{
	return mc->row.vmm_pid == 0 &&
	       (mc->state == MACHINE_CREATED || mc->state == MACHINE_STOPPED ||
		       mc->state == MACHINE_FAILED);
}

static int ended_meanwhile(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = machine_again_fix(mc);

	if (mc->owner->remains == REMAINS_NOTHING)
		return machine_delete(mc, "it ended", on_recovered, NULL);
	error_set(&err, ERROR_GUEST_DIED,
		streq(mc->row.boot_id, mc->machines->boot_id) ? "it ended while pyrod was away"
							      : "the host was restarted",
		fix, "machine %s does not run any more", mc->row.id);
	machine_land(mc, MACHINE_FAILED, &err);
	return 0;
}

/* It ran, or was about to. */
static int recover_vmm(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	enum machine_state was = mc->state;

	machine_set_state(mc, MACHINE_UNKNOWN);
	switch (machine_find_vmm(mc)) {
	case VMM_HALF:
	case VMM_GONE: return ended_meanwhile(mc);
	case VMM_UNSURE:
		log_uid(LOG_WARNING, 0, mc->row.owner_uid,
			"%s: whether its VMM runs cannot be told; it is left alone", mc->row.id);
		return 0;
	case VMM_LIVES: break;
	}
	if (machine_adopt(mc, was, &err) >= 0)
		return 0;
	log_uid(LOG_ERR, 0, mc->row.owner_uid, "%s: %s: %s", mc->row.id,
		err.message ? err.message : "it cannot be adopted",
		err.cause ? err.cause : "no cause");
	if (mc->owner->remains != REMAINS_NOTHING)
		return 0;
	return machine_delete(mc, "it cannot be adopted", on_recovered, NULL);
}

/* The column tells who leaves nothing. NULL: no such owner is known. */
static const struct machine_owner *owner_of(const struct machines *ms, const struct vm_row *row)
{
	for (size_t i = 0; ms->owners[i]; i++)
		if ((ms->owners[i]->remains == REMAINS_NOTHING) == row->one_shot)
			return ms->owners[i];
	return NULL;
}

static int recover_row(struct machines *ms, const struct vm_row *row)
{
	const struct machine_owner *owner = owner_of(ms, row);
	struct machine *mc;
	int r = owner ? machine_new(ms, owner, row, &mc) : -EBADMSG;

	if (r < 0)
		return r;
	mc->step = machine_steps();
	if (mc->state == MACHINE_PREPARING) /* nobody has been told of it */
		return machine_delete(mc, "its creation was cut off", on_recovered, NULL);
	if (mc->state == MACHINE_DELETING)
		return machine_delete(mc, "its deletion was asked for", on_recovered, NULL);
	if (!runs_not(mc))
		return recover_vmm(mc);
	mc->step = machine_steps_created();
	return 0;
}

static struct machine *find_adopting(struct machines *ms, const char *id)
{
	struct machine *mc;

	LIST_FOREACH (mc, &ms->list, entry)
		if (mc->adopting && streq(mc->row.id, id))
			return mc;
	return NULL;
}

static void on_forgotten(int k, const struct error *err, _unused_ void *userdata)
{
	if (k < 0)
		log_warning("cannot forget a command that never ran: %s",
			err && err->message ? err->message : strerror(-k));
}

/* The commands of the machines that are being adopted; those of others were never started, for their machine would
 * have gone with them. A machine that was to run one alone, and has none, has nothing to live for. */
static int recover_execs(struct machines *ms, struct error *err)
{
	struct exec_row *rows = NULL;
	struct machine *mc;
	size_t n = 0;
	int r = store_exec_load(ms->m->store, &rows, &n, err);

	for (size_t i = 0; i < n; i++) {
		mc = find_adopting(ms, rows[i].vm_id);
		if (r >= 0)
			r = mc && mc->owner->adopt_exec ? mc->owner->adopt_exec(mc, &rows[i])
							: store_exec_forget(ms->m->store,
								  rows[i].id, on_forgotten, NULL);
		exec_row_done(&rows[i]);
	}
	free(rows);
	LIST_FOREACH (mc, &ms->list, entry)
		if (r >= 0 && mc->adopting && mc->owner->remains == REMAINS_NOTHING &&
			LIST_EMPTY(&mc->execs))
			r = machine_delete(mc, "its start was cut off", on_recovered, NULL);
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

/* Only what is named as a machine is ours to remove. */
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
		r = sweep(ms, ms->m->runtime_dir, "vm");
	return r;
}
