/* SPDX-License-Identifier: MIT */
/*
 * A VMM that outlived the daemon that started it: whether it is ours, and its machine taken over from it.
 * Called by recover.c at start and by agent.c when the guest's agent has answered.
 *
 * What must stay true: a forked process is ours only when pid, start time, boot and the uuid on its command line
 * are all those of the row, looked at after its pidfd was opened; a unit's when boot, invocation and pid are, and it
 * stands in the cgroup of the unit that is named after the machine. A machine being adopted is `unknown`
 * until its agent has said which machine it is; whose agent does not answer within DEADLINE_ADOPT stays so,
 * and its commands have failed. Its agent is asked again by the next call that needs the guest. A boot that
 * was cut off goes on where it was.
 */

#include "daemon/machine/machine-internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/pidfd.h>

#include "daemon/log.h"
#include "daemon/unit.h"
#include "proto/deadline.h"

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
	fd_close(mc->pidfd);
	mc->pidfd = pidfd_open(pid, 0);
	if (mc->pidfd >= 0)
		return VMM_LIVES;
	mc->pidfd = -EBADF;
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
		mc->pidfd = fd_close(mc->pidfd);
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
		mc->pidfd = fd_close(mc->pidfd);
	return found;
}

int machine_adopt(struct machine *mc, enum machine_state was, struct error *err)
{
	/* Its guest may still boot, and may not know its SYNC yet. */
	const bool starting = was == MACHINE_STARTING;
	const struct vmm_adoption a = {
		.id = mc->row.id,
		.owner_uid = mc->row.owner_uid,
		.pid = mc->row.vmm_pid,
		.start_time = mc->row.vmm_start_time,
		.invocation = mc->row.vmm_invocation,
		.pidfd = mc->pidfd,
		.run_dir = mc->run_dir,
	};
	int r = vmm_adopt(mc->machines->m, &a, &machine_vmm_events, mc, &mc->vmm, err);

	if (r < 0)
		return r;
	mc->pidfd = -EBADF;
	r = machine_link_open(
		mc, starting ? deadline_usec(DEADLINE_BOOT) : deadline_usec(DEADLINE_ADOPT));
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot reach the guest");
	link_set_sync(mc->link, mc->row.sync, !starting);
	mc->vmm_up = mc->row_kept = true;
	reserve_watch(mc->machines);
	mc->set_up = !starting;
	mc->adopting = true;
	mc->stop_wanted = was == MACHINE_STOPPING;
	return 0;
}

/* Commands that nobody knows of are ended by being forgotten. */
static int forget_strays(struct machine *mc, const struct msg_welcome *w)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < w->n_held; i++) {
		mc->channels = MAX_OF(mc->channels, w->held[i].channel);
		if (!exec_list_find(&mc->execs, w->held[i].channel))
			r = frame_put(link_control(mc->link), FRAME_EXIT_ACK, w->held[i].channel,
				NULL, 0);
	}
	return r;
}

void machine_taken_over(struct machine *mc)
{
	mc->adopting = false;
	log_uid(LOG_INFO, 0, mc->row.owner_uid, "%s: adopted, its VMM is pid %d", mc->row.id,
		(int)mc->row.vmm_pid);
	machine_set_state(mc, MACHINE_STARTED);
	machine_save(mc);
	if (mc->stop_wanted)
		machine_shut_down(mc);
}

int machine_adopted(struct machine *mc, const struct msg_welcome *w)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = NULL;

	if (!machine_is_same(mc, w)) {
		mc->adopting = false;
		fix = machine_again_fix(mc);
		error_set(&err, ERROR_GUEST_DIED, "its guest is not the one that was set up", fix,
			"machine %s cannot be adopted", mc->row.id);
		machine_fail(mc, MACHINE_FAILED, &err);
		return 0;
	}
	machine_taken_over(mc);
	return forget_strays(mc, w);
}

void machine_not_adopted(struct machine *mc, const struct error *err)
{
	mc->adopting = false;
	log_uid(LOG_WARNING, 0, mc->row.owner_uid, "%s: its agent does not answer", mc->row.id);
	free(mc->row.last_error);
	mc->row.last_error = err->message ? strdup(err->message) : NULL;
	machine_save(mc);
	machine_fail_execs(mc, err);
	machine_tell(mc, WAIT_STARTED, err);
	mc->stop_wanted = false;
	if (mc->stop_asked && mc->engine == ENGINE_IDLE)
		machine_shut_down(mc); /* its owner is here and wants it: not in order, then */
	else
		machine_tell(mc, WAIT_BOOT, err);
}

bool machine_may_answer(const struct machine *mc)
{
	return mc->engine == ENGINE_IDLE && mc->state == MACHINE_UNKNOWN && mc->vmm &&
	       !mc->vmm_gone;
}

int machine_ask_again(struct machine *mc)
{
	int r;

	if (mc->adopting)
		return 0;
	mc->link = link_free(mc->link);
	r = machine_link_open(mc, deadline_usec(DEADLINE_ADOPT));
	if (r < 0)
		return r;
	link_set_sync(mc->link, mc->row.sync, mc->set_up);
	mc->adopting = true;
	return 0;
}
