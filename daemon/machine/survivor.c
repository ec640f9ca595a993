/* SPDX-License-Identifier: MIT */
/*
 * A VMM that outlived the daemon that started it: whether it is ours, and how it is ended. Called
 * by recover.c at start, and by the undo of the step "vmm" for a machine that was not adopted.
 *
 * What must stay true: a forked process is ours only when pid, start time, boot, a VMM's uid and
 * the uuid on its command line all match the row, read after its pidfd was opened; a unit's only
 * when boot, invocation and pid match and it is in the cgroup of the unit that is named after the
 * machine. It is killed only when it surely is ours; else it is left alone.
 */

#include "daemon/machine/machine-internal.h"

#include <signal.h>
#include <sys/pidfd.h>

#include "daemon/log.h"
#include "daemon/unit.h"

/* Tells whether the process of pidfd is the machine's VMM. */
static enum machine_vmm verify(struct machine *mc, pid_t pid)
{
	uint64_t started;
	int r = vmm_process_start_time(pid, &started);

	if (r < 0)
		return r == -ENOENT || r == -ESRCH ? VMM_NONE : VMM_UNCERTAIN;
	if (mc->row.vmm_pid != 0 && started != mc->row.vmm_start_time)
		return VMM_NONE; /* the pid belongs to another process by now */
	r = vmm_process_is(vmm_driver_find(mc->row.driver), pid, mc->row.uuid);
	if (r == -ENOENT || r == -ESRCH)
		return VMM_NONE;
	if (r <= 0 && r != -ENODATA)
		return VMM_UNCERTAIN; /* other command line: not ours, or it cannot be read */
	mc->row.vmm_pid = pid;
	mc->row.vmm_start_time = started;
	return VMM_RUNS; /* no command line: it is exiting, which is waited for */
}

static enum machine_vmm open_pid(struct machine *mc, pid_t pid)
{
	fd_close(mc->process.pidfd);
	mc->process.pidfd = pidfd_open(pid, 0);
	if (mc->process.pidfd >= 0)
		return VMM_RUNS;
	mc->process.pidfd = -EBADF;
	return errno == ESRCH ? VMM_NONE : VMM_UNCERTAIN;
}

/* Identifies the VMM of the running unit by invocation and pid. */
static enum machine_vmm find_unit(struct machine *mc, const char *name, const char *invocation)
{
	enum machine_vmm found;

	if (!mc->row.vmm_invocation[0])
		return VMM_PARTIAL;
	if (!streq(mc->row.vmm_invocation, invocation))
		return VMM_UNCERTAIN;
	found = open_pid(mc, mc->row.vmm_pid);
	if (found == VMM_RUNS && !units_has(mc->machines->m->units, name, mc->row.vmm_pid))
		found = VMM_NONE; /* the pid belongs to another process by now */
	if (found != VMM_RUNS)
		mc->process.pidfd = fd_close(mc->process.pidfd);
	return found;
}

enum machine_vmm machine_find_vmm(struct machine *mc)
{
	_cleanup_free_ char *unit = vmm_unit(mc->row.id);
	const struct vmm_driver *driver = vmm_driver_find(mc->row.driver);
	const struct units *units = mc->machines->m->units;
	char invocation[UNIT_INVOCATION];
	pid_t pid = mc->row.vmm_pid;
	enum machine_vmm found;
	int r;

	if (!streq(mc->row.boot_id, mc->machines->boot_id))
		return VMM_NONE; /* nothing outlives a restart of the host */
	if (!unit || (!units && mc->row.vmm_invocation[0]) || !driver)
		return VMM_UNCERTAIN; /* there is nothing to ask */
	if (units) {
		r = units_invocation(units, unit, invocation);
		if (r >= 0)
			return find_unit(mc, unit, invocation);
		if (r != -ENOENT)
			return VMM_UNCERTAIN;
		if (mc->row.vmm_invocation[0])
			return VMM_NONE;
	}
	if (pid == 0)
		pid = vmm_process_find(driver, mc->row.uuid);
	if (pid == 0)
		return VMM_NONE;
	found = open_pid(mc, pid);
	if (found != VMM_RUNS)
		return found;
	found = verify(mc, pid);
	if (found != VMM_RUNS)
		mc->process.pidfd = fd_close(mc->process.pidfd);
	return found;
}

/* Its end */

static int on_pid_exited(_unused_ sd_event_source *source, _unused_ int fd,
	_unused_ uint32_t revents, void *userdata)
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

/* Stops the unit that systemd has reported, and waits for the exit of its main process. */
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
		EPOLLIN, on_pid_exited, mc);
	if (r < 0)
		return r;
	log_uid(LOG_INFO, 0, mc->row.owner_uid,
		"%s: ending its VMM (%s), which a previous daemon started", mc->row.id,
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
			"the VMM's unit %s cannot be stopped", unit_name(u));
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

	if (found == VMM_PARTIAL || (found == VMM_RUNS && mc->row.vmm_invocation[0]))
		return kill_unit(mc);
	switch (found) {
	case VMM_PARTIAL:
	case VMM_NONE: return 0;
	case VMM_UNCERTAIN: return -EBUSY;
	case VMM_RUNS: break;
	}
	if (pidfd_send_signal(mc->process.pidfd, SIGKILL, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -EBUSY;
	log_uid(LOG_INFO, 0, mc->row.owner_uid,
		"%s: ending its VMM (pid %d), which a previous daemon started", mc->row.id,
		(int)mc->row.vmm_pid);
	if (sd_event_add_io(mc->machines->m->event, &mc->process.pid_event, mc->process.pidfd,
		    EPOLLIN, on_pid_exited, mc) < 0)
		return -EBUSY;
	return 1;
}

void machine_forget_survivor(struct machine *mc)
{
	mc->process.pid_event = sd_event_source_disable_unref(mc->process.pid_event);
	mc->process.unit = unit_free(mc->process.unit);
}
