/* SPDX-License-Identifier: MIT */
/*
 * One VMM from its launch or adoption to its exit, whatever its driver: the process, the stages of
 * its start with their deadlines, pauses, the agent's streams. Called by the owner; the drivers
 * report to it (vmm-base.h).
 *
 * What must stay true: only on_notify calls the owner's callbacks, one per iteration of the loop
 * (but vmm_report_agent calls on_agent), so the owner may free the object in any of them. Their
 * order is launched, started, resumed, paused, failed, exited. Paused and resumed alternate, and
 * the last of them is the present state. Exited is called once, after the sockets' files are
 * removed. A guest is booted only after vmm_boot. An adopted VMM never fails to start.
 */
#include <limits.h>
#include <stdarg.h>
#include <sys/socket.h>

#include "daemon/crash.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "daemon/sock.h"
#include "daemon/vmm/console.h"
#include "daemon/vmm/launch.h"
#include "daemon/vmm/vmm-base.h"
#include "proto/deadline.h"

/* A pause costs the owner a commit and work for each command, so after a burst pauses are reported
 * at this interval. */
#define PAUSE_EVERY_USEC USEC_PER_SEC
#define PAUSE_BURST_USEC (4 * PAUSE_EVERY_USEC)
/* From the request until the unit's process runs: systemd and polkit may be slow on a busy host. */
#define UNIT_WAIT_USEC (60 * USEC_PER_SEC)
/* A VMM accepts one connection at a time; more than these in the backlog mean that it hangs. */
#define DIALS_WAITING 4

enum {
	PENDING_LAUNCHED = 1 << 0,
	PENDING_STARTED = 1 << 1,
	PENDING_RESUMED = 1 << 2,
	PENDING_PAUSED = 1 << 3,
	PENDING_FAILED = 1 << 4,
	PENDING_EXITED = 1 << 5
};

/* What a driver makes */

void vmm_command_add(struct vmm_command *c, int *r, const char *fmt, ...)
{
	va_list ap;

	if (*r < 0)
		return;
	if (c->n_args + 1 >= ARRAY_SIZE(c->args)) {
		*r = -E2BIG;
		return;
	}
	va_start(ap, fmt);
	if (vasprintf(&c->args[c->n_args], fmt, ap) < 0) {
		c->args[c->n_args] = NULL;
		*r = -ENOMEM;
	} else {
		c->n_args++;
	}
	va_end(ap);
}

void vmm_command_add_fd(struct vmm_command *c, int *r, int fd)
{
	if (*r >= 0 && c->n_fds >= ARRAY_SIZE(c->fds))
		*r = -E2BIG;
	if (*r >= 0)
		c->fds[c->n_fds++] = fd;
}

void vmm_command_done(struct vmm_command *c)
{
	for (size_t i = 0; i < c->n_args; i++)
		free(c->args[i]);
	for (size_t i = 0; i < c->n_owned; i++)
		(void)fd_close(c->fds[i]);
	c->n_args = c->n_fds = c->n_owned = 0;
}

/* NULL when out of memory. */
static char *socket_path(const struct vmm *v, size_t i)
{
	return str_printf("%s/%s", v->run_dir, v->driver->sockets[i]);
}

int vmm_socket_listen(const struct vmm *v, size_t i)
{
	_cleanup_free_ char *path = socket_path(v, i);

	return path ? sock_listen(path, SOCK_STREAM, DIALS_WAITING) : -ENOMEM;
}

int vmm_socket_dial(const struct vmm *v, size_t i)
{
	_cleanup_free_ char *path = socket_path(v, i);

	return path ? sock_dial(path, SOCK_STREAM) : -ENOMEM;
}

static void unlink_sockets(struct vmm *v)
{
	for (size_t i = 0; v->driver->sockets[i]; i++) {
		_cleanup_free_ char *path = socket_path(v, i);

		if (path)
			(void)unlink(path);
	}
}

/* Reports */

static void notify(struct vmm *v, unsigned what)
{
	v->pending |= what;
	(void)sd_event_source_set_enabled(v->notify, SD_EVENT_ONESHOT);
}

/* Calls one callback of the owner, which may free v: v is not used afterwards. */
static int on_notify(sd_event_source *s, void *userdata)
{
	struct vmm *v = userdata;
	const unsigned next = v->pending & -v->pending;

	v->pending &= ~next;
	if (v->pending)
		(void)sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
	switch (next) {
	case PENDING_LAUNCHED:
		if (v->cb->on_launched)
			v->cb->on_launched(v, v->userdata);
		break;
	case PENDING_STARTED: v->cb->on_started(v, v->userdata); break;
	case PENDING_RESUMED:
		if (v->cb->on_resumed)
			v->cb->on_resumed(v, v->userdata);
		break;
	case PENDING_PAUSED:
		v->pause_credit_usec = MAX_OF(v->pause_credit_usec, now_usec()) + PAUSE_EVERY_USEC;
		v->pause_reported = true;
		if (v->cb->on_paused)
			v->cb->on_paused(v, v->pause_reason, v->userdata);
		break;
	case PENDING_FAILED: v->cb->on_failed(v, &v->error, v->userdata); break;
	case PENDING_EXITED: {
		const struct vmm_exit e = { v->status, v->guest_ended, v->reason };

		v->cb->on_exited(v, &e, v->userdata);
		break;
	}
	}
	return 0;
}

/* 0: none. An adopted VMM has no deadlines. */
static void set_deadline(struct vmm *v, uint64_t usec)
{
	if (!v->deadline)
		return;
	if (usec > 0)
		(void)sd_event_source_set_time_relative(v->deadline, usec);
	(void)sd_event_source_set_enabled(v->deadline, usec > 0 ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static void boot_if_asked(struct vmm *v)
{
	if (v->stage != VMM_STAGE_READY || !v->boot_asked)
		return;
	crash_point();
	v->stage = VMM_STAGE_BOOTING;
	set_deadline(v, deadline_usec(DEADLINE_VMM_ANSWER));
	v->driver->boot(v);
}

void vmm_report_ready(struct vmm *v)
{
	if (v->stage != (v->adopted ? VMM_STAGE_RUNS : VMM_STAGE_LAUNCHED))
		return;
	v->stage = VMM_STAGE_READY;
	set_deadline(v, 0); /* the owner may call vmm_boot at any time */
	boot_if_asked(v);
}

void vmm_report_started(struct vmm *v)
{
	if (v->stage != VMM_STAGE_BOOTING)
		return;
	v->stage = VMM_STAGE_RUNS;
	v->deadline = sd_event_source_disable_unref(v->deadline);
	notify(v, PENDING_STARTED);
}

void vmm_report_paused(struct vmm *v, const char *reason)
{
	uint64_t now = now_usec(), wait;

	if (v->stage != VMM_STAGE_RUNS)
		return;
	v->paused = true;
	v->pause_reason = reason;
	wait = v->pause_credit_usec > now + PAUSE_BURST_USEC
		       ? v->pause_credit_usec - now - PAUSE_BURST_USEC
		       : 0;
	if (wait > 0 && sd_event_source_set_time_relative(v->pause_timer, wait) >= 0 &&
		sd_event_source_set_enabled(v->pause_timer, SD_EVENT_ONESHOT) >= 0)
		return;
	notify(v, PENDING_PAUSED);
}

/* The VMM is still paused: vmm_report_resumed disables the timer. */
static int on_pause_timer(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	notify(userdata, PENDING_PAUSED);
	return 0;
}

void vmm_report_resumed(struct vmm *v)
{
	if (v->pause_reported)
		notify(v, PENDING_RESUMED);
	v->paused = v->pause_reported = false;
	(void)sd_event_source_set_enabled(v->pause_timer, SD_EVENT_OFF);
	v->pending &= ~(unsigned)PENDING_PAUSED; /* ended before it was reported */
	vmm_report_started(v);
}

void vmm_report_failed(struct vmm *v, const char *cause, const char *fix)
{
	if (v->stage == VMM_STAGE_RUNS || v->stage == VMM_STAGE_FAILED)
		return;
	if (v->adopted) {
		log_uid(LOG_WARNING, 0, v->owner_uid,
			"the guest of the VMM with pid %d does not run: %s", (int)vmm_pid(v),
			cause);
		return;
	}
	v->stage = VMM_STAGE_FAILED;
	if (!fix)
		fix = v->fix ? v->fix : "pyro doctor";
	(void)error_set(&v->error, ERROR_START_FAILED, cause, fix, "the VM could not be started");
	notify(v, PENDING_FAILED);
	launch_kill(v->launch);
}

void vmm_report_agent(struct vmm *v, int fd)
{
	v->cb->on_agent(v, fd, v->userdata);
}

/* The process */

static int on_deadline(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct vmm *v = userdata;
	_cleanup_free_ char *cause = str_printf("%s did not start in time", v->driver->title);

	vmm_report_failed(v, cause, NULL);
	return 0;
}

/* The process runs: from now on the deadline is the VMM's. */
static void on_launch_known(struct launch *l _unused_, void *userdata)
{
	struct vmm *v = userdata;

	if (v->stage == VMM_STAGE_LAUNCHED)
		set_deadline(v, deadline_usec(DEADLINE_VMM_ANSWER));
	notify(v, PENDING_LAUNCHED);
}

/* The process never ran: its error is the cause. */
static void fail_launch(struct vmm *v, const struct error *err)
{
	if (v->stage == VMM_STAGE_RUNS || v->stage == VMM_STAGE_FAILED)
		return;
	v->stage = VMM_STAGE_FAILED;
	(void)error_copy(&v->error, err);
	notify(v, PENDING_FAILED);
}

/* Returns the cause for a process that ended early without output; NULL when out of memory. */
static char *silent_end(const struct vmm *v)
{
	if (v->status == INT_MIN)
		return str_printf("%s exited at once without any output", v->program);
	if (v->status < 0)
		return str_printf("%s was killed at once by signal %d without any output",
			v->program, -v->status);
	return str_printf(
		"%s exited at once with status %d without any output", v->program, v->status);
}

static void on_launch_exited(struct launch *l _unused_, int status, const char *reason,
	const struct error *err, void *userdata)
{
	struct vmm *v = userdata;
	_cleanup_free_ char *silence = NULL;
	const char *fix;

	if (reason)
		v->reason = strdup(reason);
	fix = v->driver->exited(v, v->reason);
	if (v->console)
		console_drain(v->console);
	unlink_sockets(v);
	v->status = status;
	if (!v->adopted) {
		if (err)
			fail_launch(v, err);
		silence = v->reason ? NULL : silent_end(v);
		vmm_report_failed(v, v->reason ? v->reason : silence, fix);
	}
	notify(v, PENDING_EXITED);
}

static const struct launch_callbacks launch_cb = {
	.on_known = on_launch_known,
	.on_exited = on_launch_exited,
};

/* The object */

struct vmm *vmm_free(struct vmm *v)
{
	if (!v)
		return NULL;
	v->notify = sd_event_source_disable_unref(v->notify);
	v->deadline = sd_event_source_disable_unref(v->deadline);
	v->pause_timer = sd_event_source_disable_unref(v->pause_timer);
	v->launch = launch_free(v->launch);
	v->driver->free(v);
	console_free(v->console);
	if (!v->runs_on && v->run_dir)
		unlink_sockets(v);
	error_clear(&v->error);
	free(v->run_dir);
	free(v->program);
	free(v->reason);
	free(v);
	return NULL;
}
DEFINE_CLEANUP(struct vmm *, vmm_free)

static int add_sources(struct vmm *v)
{
	sd_event *event = v->m->event;
	int r = sd_event_add_defer(event, &v->notify, on_notify, v);

	if (r >= 0)
		r = sd_event_source_set_enabled(v->notify, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time(event, &v->pause_timer, CLOCK_MONOTONIC, UINT64_MAX,
			10 * USEC_PER_MSEC, on_pause_timer, v);
	if (r >= 0)
		r = sd_event_source_set_enabled(v->pause_timer, SD_EVENT_OFF);
	if (r >= 0 && !v->adopted)
		r = sd_event_add_time(event, &v->deadline, CLOCK_MONOTONIC,
			now_usec() + UNIT_WAIT_USEC, 10 * USEC_PER_MSEC, on_deadline, v);
	return r;
}

/* *base: what is known from the beginning, without what is owned. */
static int new_vmm(const struct vmm *base, const char *run_dir, struct vmm **ret)
{
	_cleanup_(vmm_freep) struct vmm *v = calloc(1, base->driver->size);
	int r;

	if (!v)
		return -ENOMEM;
	*v = *base;
	v->run_dir = strdup(run_dir);
	r = v->run_dir ? add_sources(v) : -ENOMEM;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(v);
	return 0;
}

static int launch(struct vmm *v, const struct vmm_spec *spec, struct error *err)
{
	_cleanup_(vmm_command_done) struct vmm_command c = { .n_args = 0 };
	struct launch_spec ls = {
		.id = spec->id,
		.owner_uid = spec->owner_uid,
		.flags = spec->accelerator == ACCELERATOR_KVM ? LAUNCH_KVM : 0,
		.vcpu_count = spec->vcpu_count,
		.mem_mib = spec->mem_mib,
		.args = (const char *const *)c.args,
		.fds = c.fds,
	};
	int r = v->driver->command(v, spec, &c, err);

	if (r < 0)
		return r;
	r = v->driver->connect(v);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot reach the VMM of %s", spec->id);
	ls.n_fds = c.n_fds;
	return launch_start(v->m, &ls, &launch_cb, v, &v->launch, err);
}

int vmm_launch(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err)
{
	const struct vmm base = {
		.driver = spec->driver,
		.m = m,
		.owner_uid = spec->owner_uid,
		.cb = cb,
		.userdata = userdata,
		.stage = VMM_STAGE_LAUNCHED,
	};
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	_cleanup_free_ char *program = NULL;
	int r;

	if (!spec->driver)
		return error_internal(
			err, "the machine's row names it", "this pyrod has no driver of that name");
	r = spec->driver->program(m, &program, err);
	if (r < 0)
		return r;
	r = new_vmm(&base, spec->run_dir, &v);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL, "cannot start a VM");
	v->program = TAKE_PTR(program);
	r = launch(v, spec, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(v);
	return 0;
}

/* Only the end of the process ends the adoption: a VMM whose sockets do not answer is exiting or
 * hangs, and goes on without console and pauses until it exits. */
static int reach(struct vmm *v, const struct vmm_adoption *a)
{
	int r = v->driver->connect(v);

	if (r >= 0 || r == -ENOMEM)
		return r;
	log_uid(LOG_WARNING, r, a->owner_uid, "%s: its VMM (pid %d) does not answer", a->id,
		(int)a->pid);
	return 0;
}

int vmm_adopt(struct manager *m, const struct vmm_adoption *a, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err)
{
	const struct vmm base = {
		.driver = a->driver,
		.m = m,
		.owner_uid = a->owner_uid,
		.adopted = true,
		.cb = cb,
		.userdata = userdata,
		.stage = VMM_STAGE_RUNS,
		.runs_on = true,
	};
	_cleanup_(vmm_freep) struct vmm *v = NULL;
	struct service_adoption sa = {
		.id = a->id,
		.owner_uid = a->owner_uid,
		.pid = a->pid,
		.start_time = a->start_time,
		.invocation = a->invocation,
		.pidfd = a->pidfd,
	};
	int r;

	if (!a->driver)
		return error_internal(
			err, "the machine's row names it", "this pyrod has no driver of that name");
	r = new_vmm(&base, a->run_dir, &v);
	if (r >= 0)
		r = reach(v, a);
	if (r >= 0)
		r = launch_adopt(m, &sa, &launch_cb, v, &v->launch);
	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot reach the VMM of %s", a->id);
	v->runs_on = false;
	*ret = TAKE_PTR(v);
	return 0;
}

struct vmm *vmm_detach(struct vmm *v)
{
	if (!v)
		return NULL;
	v->runs_on = true;
	v->launch = launch_detach(v->launch);
	return vmm_free(v);
}

/* The owner's calls */

void vmm_boot(struct vmm *v)
{
	v->boot_asked = true;
	boot_if_asked(v);
}

int vmm_dial(struct vmm *v)
{
	return v->driver->dial(v);
}

void vmm_pause(struct vmm *v)
{
	if (v->stage == VMM_STAGE_RUNS && !v->paused)
		v->driver->pause(v);
}

void vmm_resume(struct vmm *v)
{
	if (v->paused)
		v->driver->resume(v);
}

void vmm_stop(struct vmm *v)
{
	launch_kill(v->launch);
}

pid_t vmm_pid(const struct vmm *v)
{
	return launch_pid(v->launch);
}

uint64_t vmm_start_time(const struct vmm *v)
{
	return launch_start_time(v->launch);
}

const char *vmm_invocation(const struct vmm *v)
{
	return launch_invocation(v->launch);
}

char *vmm_unit(const char *id)
{
	return str_printf(LAUNCH_TEMPLATE "@%s.service", id);
}

const char *vmm_execution_mode(const struct vmm *v)
{
	return v->driver->execution_mode;
}

const char *vmm_version(const struct vmm *v)
{
	return v->version[0] ? v->version : "the VMM";
}

bool vmm_guest_seen(const struct vmm *v)
{
	return v->agent_seen || (v->console && console_written(v->console));
}

int vmm_console_tail(struct vmm *v, size_t max, char **ret)
{
	if (!v->console) {
		*ret = strdup("");
		return *ret ? 0 : -ENOMEM;
	}
	return console_tail(v->console, max, ret);
}

int vmm_console_cause(struct vmm *v, char **ret)
{
	*ret = NULL;
	return v->console ? console_cause(v->console, ret) : 0;
}
