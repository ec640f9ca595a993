/* SPDX-License-Identifier: MIT */
/*
 * What an earlier daemon left: rows, VMMs, directories. Called once by machines_new, before the loop
 * runs, and by the engine's way down for a machine of that kind.
 *
 * What must stay true: a process is killed only when pid, start time, boot and the uuid on its command
 * line are all those of the row, looked at after its pidfd was opened; on doubt the machine becomes
 * `unknown` and everything of it stays. A directory without a row is the rest of a deletion, since the
 * row comes first and goes last.
 */

#include "daemon/core/machine-internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/pidfd.h>

#include "daemon/log.h"

enum {
	CMDLINE_MAX = 256 * 1024,
	STAT_MAX = 4096,
	STAT_START_TIME = 22, /* proc(5): field of /proc/PID/stat */
	UUID_TEXT = 37,
};

static int read_proc(pid_t pid, const char *file, size_t max, char **ret, size_t *ret_n)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return read_file_at(AT_FDCWD, path, max, ret, ret_n);
}

/* The program's name may hold spaces and parentheses: fields are counted from the last ')'. */
static int start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *stat = NULL;
	size_t n;
	int r = read_proc(pid, "stat", STAT_MAX, &stat, &n);
	char *p, *end;

	if (r < 0)
		return r;
	p = strrchr(stat, ')');
	for (int field = 2; p && field < STAT_START_TIME; field++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -EBADMSG;
	*ret = strtoull(p + 1, &end, 10);
	return *end == ' ' ? 0 : -EBADMSG;
}

static void uuid_text(const uint8_t u[16], char ret[UUID_TEXT])
{
	(void)snprintf(ret, UUID_TEXT,
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
		u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
		u[15]);
}

/* 1: the words "-uuid UUID" stand on its command line; 0: they do not; -ENODATA: it has none (it is ending). */
static int has_uuid(pid_t pid, const uint8_t uuid[16])
{
	_cleanup_free_ char *line = NULL;
	char text[UUID_TEXT];
	size_t n;
	int r = read_proc(pid, "cmdline", CMDLINE_MAX, &line, &n);

	if (r < 0)
		return r;
	if (n == 0)
		return -ENODATA;
	uuid_text(uuid, text);
	for (size_t i = 0; i < n; i += strlen(line + i) + 1)
		if (streq(line + i, "-uuid") && i + sizeof("-uuid") < n)
			return streq(line + i + sizeof("-uuid"), text);
	return 0;
}

static int on_pid_gone(_unused_ sd_event_source *source, _unused_ int fd, _unused_ uint32_t revents,
	void *userdata)
{
	struct machine *mc = userdata;

	mc->pid_event = sd_event_source_disable_unref(mc->pid_event);
	mc->pidfd = fd_close(mc->pidfd);
	mc->row.vmm_pid = 0;
	machine_continue(mc, NULL);
	return 0;
}

/* Kills what pid is, if it is the VMM with the uuid; 1 when its end is waited for. */
static int kill_verified(struct machine *mc, pid_t pid, int match)
{
	if (match == 0)
		return -EBUSY; /* same process, other words: not what we started */
	if (match < 0 && match != -ENODATA)
		return match == -ENOENT || match == -ESRCH ? 0 : -EBUSY;
	if (match > 0 && pidfd_send_signal(mc->pidfd, SIGKILL, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -EBUSY;
	log_info("%s: ending its VMM (pid %d), which an earlier daemon started", mc->row.id,
		(int)pid);
	if (sd_event_add_io(mc->machines->m->event, &mc->pid_event, mc->pidfd, EPOLLIN, on_pid_gone,
		    mc) < 0)
		return -EBUSY;
	return 1;
}

/* The daemon died between the launch and the commit of the pid: the uuid alone tells, and it is random. */
static pid_t find_by_uuid(const uint8_t uuid[16])
{
	DIR *proc = opendir("/proc");
	struct dirent *d;
	pid_t found = 0;

	while (proc && found == 0 && (d = readdir(proc))) {
		uint64_t pid;

		if (parse_u64(d->d_name, 2, INT32_MAX, &pid) >= 0 && has_uuid((pid_t)pid, uuid) > 0)
			found = (pid_t)pid;
	}
	if (proc)
		(void)closedir(proc);
	return found;
}

int machine_recover_kill(struct machine *mc)
{
	uint64_t started = mc->row.vmm_start_time, now_started;
	pid_t pid = mc->row.vmm_pid;
	bool same_boot = streq(mc->row.boot_id, mc->machines->boot_id);
	int r;

	if (!same_boot)
		return 0; /* nothing outlives the host's restart */
	if (pid == 0)
		pid = find_by_uuid(mc->row.uuid);
	if (pid == 0)
		return 0;
	fd_close(mc->pidfd);
	mc->pidfd = pidfd_open(pid, 0);
	if (mc->pidfd < 0) {
		r = errno == ESRCH ? 0 : -EBUSY;
		mc->pidfd = -EBADF;
		return r;
	}
	r = start_time(pid, &now_started);
	if (r < 0)
		return r == -ENOENT || r == -ESRCH ? 0 : -EBUSY;
	if (mc->row.vmm_pid != 0 && now_started != started)
		return 0; /* the pid belongs to another process by now */
	return kill_verified(mc, pid, has_uuid(pid, mc->row.uuid));
}

static void on_recovered(const struct error *err, _unused_ void *userdata)
{
	if (err)
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

static int recover_row(struct machines *ms, const struct vm_row *row)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct machine *mc;
	int r = machine_new(ms, row, &mc);

	if (r < 0)
		return r;
	mc->step = machine_steps();
	mc->floor = machine_steps_created();
	if (mc->row.one_shot)
		return machine_delete(mc, "its daemon ended", on_recovered, NULL);
	if (mc->state == MACHINE_PREPARING) /* nobody has been told of it */
		return machine_delete(mc, "its creation was cut off", on_recovered, NULL);
	if (mc->state == MACHINE_DELETING)
		return machine_delete(mc, "requested", on_recovered, NULL);
	if (runs_not(mc)) {
		mc->step = machine_steps_created();
		return 0;
	}
	machine_set_state(mc, MACHINE_UNKNOWN);
	if (!streq(mc->row.boot_id, ms->boot_id)) {
		error_set(&err, ERROR_GUEST_DIED, "the host was restarted", NULL,
			"machine %s does not run any more", mc->row.id);
		machine_land(mc, MACHINE_FAILED, &err);
	}
	return 0;
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
	struct disk_op **more = reallocarray(ms->leftovers, ms->n_leftovers + 1, sizeof(*more));

	if (more)
		ms->leftovers = more;
	if (!path || !more)
		return -ENOMEM;
	more[ms->n_leftovers] = NULL;
	return disk_remove(ms->m, path, on_leftover, NULL, &more[ms->n_leftovers++], NULL);
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
		if (startswith(d->d_name, "vm-") && !has_row(ms, d->d_name))
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
		r = sweep(ms, ms->m->state_dir, "machines");
	if (r >= 0)
		r = sweep(ms, ms->m->runtime_dir, "vm");
	return r;
}
