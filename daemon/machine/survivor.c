/* SPDX-License-Identifier: MIT */
/*
 * A VMM that outlived the daemon that started it: whether it is ours, and its end. Called by recover.c at start, and by the
 * way down for a machine that was not adopted.
 *
 * What must stay true: a forked process is ours only when pid, start time, boot and the uuid on its command line
 * are all those of the row, looked at after its pidfd was opened; a unit's when boot, invocation and pid are, and it
 * stands in the cgroup of the unit that is named after the machine. It is killed only when it surely is ours; on doubt it is
 * left alone.
 */

#include "daemon/machine/machine-internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/pidfd.h>

#include "daemon/log.h"
#include "daemon/unit.h"

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

/* What the process that pidfd is open on is. */
static enum machine_vmm verify(struct machine *mc, pid_t pid)
{
	uint64_t started;
	int r = start_time(pid, &started);

	if (r < 0)
		return r == -ENOENT || r == -ESRCH ? VMM_GONE : VMM_UNSURE;
	if (mc->row.vmm_pid != 0 && started != mc->row.vmm_start_time)
		return VMM_GONE; /* the pid belongs to another process by now */
	r = has_uuid(pid, mc->row.uuid);
	if (r == -ENOENT || r == -ESRCH)
		return VMM_GONE;
	if (r <= 0 && r != -ENODATA)
		return VMM_UNSURE; /* same process, other words: not what we started, or it cannot be seen */
	mc->row.vmm_pid = pid;
	mc->row.vmm_start_time = started;
	return VMM_LIVES; /* without words it is ending: its end is what is waited for */
}

static enum machine_vmm open_pid(struct machine *mc, pid_t pid)
{
	fd_close(mc->process.pidfd);
	mc->process.pidfd = pidfd_open(pid, 0);
	if (mc->process.pidfd >= 0)
		return VMM_LIVES;
	mc->process.pidfd = -EBADF;
	return errno == ESRCH ? VMM_GONE : VMM_UNSURE;
}

/* The row names a unit, or the machine's unit runs. */
static enum machine_vmm find_unit(struct machine *mc, const char *name, const char *invocation)
{
	enum machine_vmm found;

	if (!mc->row.vmm_invocation[0])
		return VMM_HALF;
	if (!streq(mc->row.vmm_invocation, invocation))
		return VMM_UNSURE;
	found = open_pid(mc, mc->row.vmm_pid);
	if (found == VMM_LIVES && !units_has(mc->machines->m->units, name, mc->row.vmm_pid))
		found = VMM_GONE; /* the pid belongs to another process by now */
	if (found != VMM_LIVES)
		mc->process.pidfd = fd_close(mc->process.pidfd);
	return found;
}

enum machine_vmm machine_find_vmm(struct machine *mc)
{
	_cleanup_free_ char *unit = vmm_unit(mc->row.id);
	const struct units *units = mc->machines->m->units;
	char invocation[UNIT_INVOCATION];
	pid_t pid = mc->row.vmm_pid;
	enum machine_vmm found;
	int r;

	if (!streq(mc->row.boot_id, mc->machines->boot_id))
		return VMM_GONE; /* nothing outlives the host's restart */
	if (!unit || (!units && mc->row.vmm_invocation[0]))
		return VMM_UNSURE; /* nobody to ask */
	if (units) {
		r = units_invocation(units, unit, invocation);
		if (r >= 0)
			return find_unit(mc, unit, invocation);
		if (r != -ENOENT)
			return VMM_UNSURE;
		if (mc->row.vmm_invocation[0])
			return VMM_GONE;
	}
	if (pid == 0)
		pid = find_by_uuid(mc->row.uuid);
	if (pid == 0)
		return VMM_GONE;
	found = open_pid(mc, pid);
	if (found != VMM_LIVES)
		return found;
	found = verify(mc, pid);
	if (found != VMM_LIVES)
		mc->process.pidfd = fd_close(mc->process.pidfd);
	return found;
}

/* Its end */

static int on_pid_gone(_unused_ sd_event_source *source, _unused_ int fd, _unused_ uint32_t revents,
	void *userdata)
{
	struct machine *mc = userdata;

	mc->process.pid_event = sd_event_source_disable_unref(mc->process.pid_event);
	mc->process.pidfd = fd_close(mc->process.pidfd);
	mc->process.unit = unit_free(mc->process.unit);
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

	mc->process.pidfd = fd_close(mc->process.pidfd);
	mc->process.pidfd = pidfd_open(pid, 0);
	if (mc->process.pidfd < 0) {
		r = -errno;
		mc->process.pidfd = -EBADF;
		return r == -ESRCH ? 0 : r;
	}
	if (!unit_owns(u, pid))
		return -EBUSY;
	r = sd_event_add_io(mc->machines->m->event, &mc->process.pid_event, mc->process.pidfd,
		EPOLLIN, on_pid_gone, mc);
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
	mc->process.unit = unit_free(u);
	machine_continue(mc, r < 0 ? &err : NULL);
}

static int kill_unit(struct machine *mc)
{
	static const struct unit_callbacks events = { .on_looked = on_looked };
	_cleanup_free_ char *name = vmm_unit(mc->row.id);
	int r;

	mc->process.unit = unit_free(mc->process.unit);
	r = name ? unit_new(mc->machines->m->units, name, &events, mc, &mc->process.unit) : -ENOMEM;
	if (r < 0)
		return r;
	unit_look(mc->process.unit);
	return 1;
}

int machine_end_survivor(struct machine *mc)
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
	if (pidfd_send_signal(mc->process.pidfd, SIGKILL, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -EBUSY;
	log_uid(LOG_INFO, 0, mc->row.owner_uid,
		"%s: ending its VMM (pid %d), which an earlier daemon started", mc->row.id,
		(int)mc->row.vmm_pid);
	if (sd_event_add_io(mc->machines->m->event, &mc->process.pid_event, mc->process.pidfd,
		    EPOLLIN, on_pid_gone, mc) < 0)
		return -EBUSY;
	return 1;
}

void machine_forget_survivor(struct machine *mc)
{
	mc->process.pid_event = sd_event_source_disable_unref(mc->process.pid_event);
	mc->process.unit = unit_free(mc->process.unit);
}
