/* SPDX-License-Identifier: MIT */
/*
 * The qemu driver: one QEMU process per machine. Called through struct vmm_driver by vmm.c. It
 * creates the three sockets (agent, QMP, console), launches QEMU with them, and learns from QMP
 * when the vCPUs run. The sockets listen before QEMU starts, so pyrod connects at once and waits
 * for data, never for a file to appear.
 *
 * What must stay true: only on_notify calls the owner's callbacks, one per iteration of the loop
 * (but qemu_dial calls on_agent), so the owner may free the object in any of them. Their order is
 * launched, started, resumed, paused, failed, exited; the last of resumed and paused is the present
 * state; exited is called once, after the sockets' files are removed.
 */
#include "daemon/vmm/qemu.h"

#include <assert.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/job.h"
#include "daemon/log.h"
#include "daemon/vmm/console.h"
#include "daemon/launch-msg.h"
#include "daemon/vmm/launch.h"
#include "daemon/vmm/qemu-args.h"
#include "daemon/vmm/qmp.h"
#include "daemon/service.h"
#include "daemon/sock.h"
#include "daemon/vmm/vmm-base.h"
#include "proto/deadline.h"
#include "proto/host.h"
#include "proto/limits.h"

#define QEMU_PROGRAM  "qemu-system-x86_64"
#define QEMU_FIX      "sudo apt-get install -y qemu-system-x86"
#define REINSTALL_FIX "sudo apt-get install --reinstall -y qemu-system-x86"
#define NAMED_FIX     "correct qemu= in pyrod.conf, or leave it out"
#define FIRMWARE_FIX  "sudo apt-get install --reinstall -y qemu-system-data"
/* A pause costs the owner a commit and work for each command, so after a burst pauses are reported
 * at this interval. */
#define PAUSE_EVERY_USEC USEC_PER_SEC
#define PAUSE_BURST_USEC (4 * PAUSE_EVERY_USEC)
/* From the request until the unit's process runs: systemd and polkit may be slow on a busy host. */
#define UNIT_WAIT_USEC  (60 * USEC_PER_SEC)
#define PROBE_WAIT_USEC (10 * USEC_PER_SEC)
/* QEMU accepts one connection at a time; more than these in the backlog mean that it hangs. */
#define DIALS_WAITING 4

enum {
	PENDING_LAUNCHED = 1 << 0,
	PENDING_STARTED = 1 << 1,
	PENDING_RESUMED = 1 << 2,
	PENDING_PAUSED = 1 << 3,
	PENDING_FAILED = 1 << 4,
	PENDING_EXITED = 1 << 5
};

enum { SOCKET_QMP, SOCKET_AGENT, SOCKET_CONSOLE, SOCKET_MAX };
static const char *const socket_names[] = { "qmp.sock", "agent.sock", "console.sock" };
static_assert(ARRAY_SIZE(socket_names) == SOCKET_MAX, "a name for each socket");
static_assert((int)SOCKET_QMP == (int)QEMU_FD_QMP && (int)SOCKET_AGENT == (int)QEMU_FD_AGENT &&
		      (int)SOCKET_CONSOLE == (int)QEMU_FD_CONSOLE,
	"sockets travel first, in this order");

struct qemu {
	struct vmm vmm;                 /* must be first: vmm.c casts between the two */
	const struct vmm_callbacks *cb; /* borrowed: static of the owner */
	void *userdata;
	struct qmp *qmp;                /* owned */
	sd_event_source *notify;        /* owned */
	sd_event_source *deadline;      /* owned; until started */
	char *socket_paths[SOCKET_MAX]; /* owned */
	unsigned pending;               /* PENDING_* */
	bool started, failed, guest_ended, paused, adopted;
	/* the answer to `stop` is pending; `stop` was sent since the last resume */
	bool pausing, stop_asked;
	bool runs_on;                 /* detached: the sockets' files stay */
	const char *pause_reason;     /* static */
	sd_event_source *pause_timer; /* owned; delays the report of a pause */
	/* CLOCK_MONOTONIC; a pause is delayed while this is PAUSE_BURST_USEC ahead */
	uint64_t pause_credit_usec;
	struct error error; /* with PENDING_FAILED */
	int status;         /* with PENDING_EXITED */
	char *reason;       /* owned or NULL */
	char *program;      /* owned or NULL: the path of QEMU */
	bool is_named;      /* qemu= of pyrod.conf names the program */
};

static struct qemu *qemu_of(struct vmm *v)
{
	return (struct qemu *)v;
}

static void notify(struct qemu *q, unsigned what)
{
	q->pending |= what;
	(void)sd_event_source_set_enabled(q->notify, SD_EVENT_ONESHOT);
}

/* Keeps the error of a start that failed and kills the process. */
static void fail_start(struct qemu *q, const char *cause, const char *fix)
{
	if (q->started || q->failed)
		return;
	q->failed = true;
	if (!fix)
		fix = q->is_named ? NAMED_FIX : "pyro doctor";
	(void)error_set(&q->error, ERROR_START_FAILED, cause, fix, "the VM could not be started");
	notify(q, PENDING_FAILED);
	launch_kill(q->vmm.launch);
}

static void started(struct qemu *q)
{
	if (q->started || q->failed)
		return;
	q->started = true;
	q->deadline = sd_event_source_disable_unref(q->deadline);
	notify(q, PENDING_STARTED);
}

static void unlink_sockets(struct qemu *q)
{
	for (size_t i = 0; i < SOCKET_MAX; i++)
		if (q->socket_paths[i])
			(void)unlink(q->socket_paths[i]);
}

static struct qemu *qemu_done(struct qemu *q)
{
	if (!q)
		return NULL;
	q->notify = sd_event_source_disable_unref(q->notify);
	q->deadline = sd_event_source_disable_unref(q->deadline);
	q->pause_timer = sd_event_source_disable_unref(q->pause_timer);
	q->vmm.launch = launch_free(q->vmm.launch);
	qmp_free(q->qmp);
	console_free(q->vmm.console);
	if (!q->runs_on)
		unlink_sockets(q);
	for (size_t i = 0; i < SOCKET_MAX; i++)
		free(q->socket_paths[i]);
	error_clear(&q->error);
	free(q->reason);
	free(q->program);
	free(q);
	return NULL;
}
DEFINE_CLEANUP(struct qemu *, qemu_done)

static void paused(struct qemu *q, const char *reason)
{
	uint64_t now = now_usec(), wait;

	q->paused = true;
	q->pause_reason = reason;
	wait = q->pause_credit_usec > now + PAUSE_BURST_USEC
		       ? q->pause_credit_usec - now - PAUSE_BURST_USEC
		       : 0;
	if (wait > 0 && sd_event_source_set_time_relative(q->pause_timer, wait) >= 0 &&
		sd_event_source_set_enabled(q->pause_timer, SD_EVENT_ONESHOT) >= 0)
		return;
	notify(q, PENDING_PAUSED);
}

/* The VMM is still paused: resumed() disables the timer. */
static int on_pause_timer(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	notify(userdata, PENDING_PAUSED);
	return 0;
}

static bool is_stopped(const char *status)
{
	return streq(status, "io-error") || streq(status, "paused");
}

static void on_status(
	struct qmp *qmp _unused_, int r, json_object *ret, const char *desc, void *userdata)
{
	struct qemu *q = userdata;

	if (r == -EREMOTEIO) {
		fail_start(q, desc, NULL);
	} else if (r >= 0 && q->adopted && is_stopped(qmp_str(ret, "status", ""))) {
		/* QEMU does not repeat the reason: a previous daemon paused it, or a write failed,
		 * mostly for lack of space. */
		paused(q, "disk_full");
	} else if (r >= 0 && streq(qmp_str(ret, "status", ""), "running")) {
		started(q);
	} /* else RESUME follows, or on_qmp_closed or the deadline ends the start */
}

static void on_qmp_ready(struct qmp *qmp, void *userdata)
{
	struct qemu *q = userdata;
	int r = qmp_execute(
		qmp, "query-status", NULL, deadline_usec(DEADLINE_VMM_ANSWER), on_status, q);

	if (qmp_version(qmp)[0])
		(void)snprintf(q->vmm.version, sizeof(q->vmm.version), "QEMU %s", qmp_version(qmp));
	if (r < 0)
		fail_start(q, strerror(-r), NULL);
}

static void on_block_error(struct qemu *q, json_object *data)
{
	if (!streq(qmp_str(data, "action", ""), "stop"))
		return;
	paused(q, qmp_bool(data, "nospace", false) ? "disk_full" : "disk_error");
}

static void resumed(struct qemu *q)
{
	if (q->started && q->paused)
		notify(q, PENDING_RESUMED);
	q->paused = q->stop_asked = false;
	(void)sd_event_source_set_enabled(q->pause_timer, SD_EVENT_OFF);
	q->pending &= ~(unsigned)PENDING_PAUSED; /* ended before it was reported */
	started(q);
}

static void on_qmp_event(
	struct qmp *qmp _unused_, const char *name, json_object *data, void *userdata)
{
	struct qemu *q = userdata;

	if (streq(name, "SHUTDOWN"))
		q->guest_ended = q->guest_ended || qmp_bool(data, "guest", false);
	else if (streq(name, "GUEST_PANICKED"))
		q->guest_ended = true;
	else if (streq(name, "BLOCK_IO_ERROR"))
		on_block_error(q, data);
	else if (streq(name, "STOP") && q->stop_asked && !q->paused)
		paused(q, "disk_full"); /* the answer may be an error or arrive later */
	else if (streq(name, "RESUME"))
		resumed(q);
	else if (streq(name, "VSERPORT_CHANGE"))
		q->vmm.agent_seen = q->vmm.agent_seen || qmp_bool(data, "open", false);
}

/* A QEMU that exits closes its sockets first: its exit status says more than the closed socket. One
 * that keeps running without QMP meets the deadline. */
static void on_qmp_closed(struct qmp *qmp _unused_, int r, const char *what, void *userdata)
{
	if (r != -ECONNRESET && r != -EPIPE)
		fail_start(userdata, what, NULL);
}

static const struct qmp_callbacks qmp_cb = {
	.on_ready = on_qmp_ready,
	.on_event = on_qmp_event,
	.on_closed = on_qmp_closed,
};

/* The process runs: from now on the deadline is QEMU's. */
static void on_launch_known(struct launch *l _unused_, void *userdata)
{
	struct qemu *q = userdata;

	if (q->deadline)
		(void)sd_event_source_set_time_relative(
			q->deadline, deadline_usec(DEADLINE_VMM_ANSWER));
	notify(q, PENDING_LAUNCHED);
}

/* The process never ran: its error is the cause. */
static void fail_launch(struct qemu *q, const struct error *err)
{
	if (q->started || q->failed)
		return;
	q->failed = true;
	(void)error_copy(&q->error, err);
	notify(q, PENDING_FAILED);
}

/* Returns the cause for a process that ended early without output; NULL when out of memory. */
static char *silent_end(const struct qemu *q)
{
	const char *program = q->program ? q->program : QEMU_PROGRAM;

	if (q->status == INT_MIN)
		return str_printf("%s exited at once without any output", program);
	if (q->status < 0)
		return str_printf("%s was killed at once by signal %d without any output", program,
			-q->status);
	return str_printf(
		"%s exited at once with status %d without any output", program, q->status);
}

static void on_launch_exited(struct launch *l _unused_, int status, const char *reason,
	const struct error *err, void *userdata)
{
	struct qemu *q = userdata;
	_cleanup_free_ char *silence = NULL;

	if (q->qmp)
		qmp_drain(q->qmp);
	if (q->vmm.console)
		console_drain(q->vmm.console);
	unlink_sockets(q);
	q->status = status;
	if (reason)
		q->reason = strdup(reason);
	if (err)
		fail_launch(q, err);
	silence = q->reason ? NULL : silent_end(q);
	fail_start(q, q->reason ? q->reason : silence,
		q->reason && strstr(q->reason, QEMU_FIRMWARE) ? FIRMWARE_FIX : NULL);
	notify(q, PENDING_EXITED);
}

static const struct launch_callbacks launch_cb = {
	.on_known = on_launch_known,
	.on_exited = on_launch_exited,
};

static int on_deadline(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	fail_start(userdata, "QEMU did not start in time", NULL);
	return 0;
}

/* Calls one callback of the owner, which may free q: q is not used afterwards. */
static int on_notify(sd_event_source *s, void *userdata)
{
	struct qemu *q = userdata;
	const unsigned next = q->pending & -q->pending;

	q->pending &= ~next;
	if (q->pending)
		(void)sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
	switch (next) {
	case PENDING_LAUNCHED:
		if (q->cb->on_launched)
			q->cb->on_launched(&q->vmm, q->userdata);
		break;
	case PENDING_STARTED: q->cb->on_started(&q->vmm, q->userdata); break;
	case PENDING_RESUMED:
		if (q->cb->on_resumed)
			q->cb->on_resumed(&q->vmm, q->userdata);
		break;
	case PENDING_PAUSED:
		q->pause_credit_usec = MAX_OF(q->pause_credit_usec, now_usec()) + PAUSE_EVERY_USEC;
		if (q->cb->on_paused)
			q->cb->on_paused(&q->vmm, q->pause_reason, q->userdata);
		break;
	case PENDING_FAILED: q->cb->on_failed(&q->vmm, &q->error, q->userdata); break;
	case PENDING_EXITED: {
		const struct vmm_exit e = { q->status, q->guest_ended, q->reason };

		q->cb->on_exited(&q->vmm, &e, q->userdata);
		break;
	}
	}
	return 0;
}

/* Returns the configured program, or the one in PATH. */
static int find_program(struct manager *m, char **ret)
{
	const char *name = m->config && m->config->qemu ? m->config->qemu : QEMU_PROGRAM;

	return host_find_program(name, ret);
}

static int name_sockets(struct qemu *q, const char *run_dir)
{
	for (size_t i = 0; i < SOCKET_MAX; i++) {
		q->socket_paths[i] = str_printf("%s/%s", run_dir, socket_names[i]);
		if (!q->socket_paths[i])
			return -ENOMEM;
	}
	return 0;
}

static int make_sockets(struct qemu *q, const char *run_dir, int fds[SOCKET_MAX])
{
	int r = name_sockets(q, run_dir);

	for (size_t i = 0; r >= 0 && i < SOCKET_MAX; i++)
		r = fds[i] = sock_listen(q->socket_paths[i], SOCK_STREAM, DIALS_WAITING);
	return r < 0 ? r : 0;
}

/* Connects to the QMP and console sockets; the connections wait in the backlog for QEMU. */
static int dial(struct qemu *q, sd_event *event)
{
	_cleanup_close_ int console = -EBADF, qmp = -EBADF;
	int r;

	console = sock_dial(q->socket_paths[SOCKET_CONSOLE], SOCK_STREAM);
	if (console < 0)
		return console;
	r = console_new(event, console, LIMIT_CONSOLE_BYTES, &q->vmm.console);
	if (r < 0)
		return r;
	(void)TAKE_FD(console);
	qmp = sock_dial(q->socket_paths[SOCKET_QMP], SOCK_STREAM);
	if (qmp < 0)
		return qmp;
	r = qmp_new(event, qmp, &qmp_cb, q, UNIT_WAIT_USEC + deadline_usec(DEADLINE_VMM_ANSWER),
		&q->qmp);
	if (r < 0)
		return r;
	(void)TAKE_FD(qmp);
	return 0;
}

static int launch(struct manager *m, struct qemu *q, const struct vmm_spec *spec,
	const char *program, const int sockets[SOCKET_MAX], struct error *err)
{
	_cleanup_(qemu_args_done) struct qemu_args args = {};
	int fds[QEMU_FD_DISKS + VMM_DISKS_MAX];
	struct launch_spec ls = {
		.id = spec->id,
		.owner_uid = spec->owner_uid,
		.flags = spec->accelerator == ACCELERATOR_KVM ? LAUNCH_KVM : 0,
		.vcpu_count = spec->vcpu_count,
		.mem_mib = spec->mem_mib,
		.args = (const char *const *)args.args,
		.fds = fds,
		.n_fds = QEMU_FD_DISKS + spec->n_disks,
	};
	int r;

	r = qemu_args_make(spec, program, host_tsc_khz(), &args);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot make QEMU's arguments for %s", spec->id);
	memcpy(fds, sockets, SOCKET_MAX * sizeof(int));
	fds[QEMU_FD_VMLINUX] = spec->vmlinux_fd;
	fds[QEMU_FD_INITRD] = spec->initrd_fd;
	for (size_t i = 0; i < spec->n_disks; i++)
		fds[QEMU_FD_DISKS + i] = spec->disks[i].fd;
	return launch_start(m, &ls, &launch_cb, q, &q->vmm.launch, err);
}

static int add_notify(struct qemu *q, sd_event *event)
{
	int r = sd_event_add_defer(event, &q->notify, on_notify, q);

	if (r >= 0)
		r = sd_event_source_set_enabled(q->notify, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_time(event, &q->pause_timer, CLOCK_MONOTONIC, UINT64_MAX,
			10 * USEC_PER_MSEC, on_pause_timer, q);
	return r < 0 ? r : sd_event_source_set_enabled(q->pause_timer, SD_EVENT_OFF);
}

static int bring_up(struct manager *m, struct qemu *q, const struct vmm_spec *spec,
	const char *program, struct error *err)
{
	int sockets[SOCKET_MAX] = { -EBADF, -EBADF, -EBADF }, r;

	r = add_notify(q, m->event);
	if (r >= 0)
		r = sd_event_add_time(m->event, &q->deadline, CLOCK_MONOTONIC,
			now_usec() + UNIT_WAIT_USEC, 10 * USEC_PER_MSEC, on_deadline, q);
	if (r >= 0)
		r = make_sockets(q, spec->run_dir, sockets);
	if (r >= 0)
		r = dial(q, m->event);
	if (r < 0)
		(void)error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot make the sockets of %s in %s", spec->id, spec->run_dir);
	else
		r = launch(m, q, spec, program, sockets, err);
	for (size_t i = 0; i < SOCKET_MAX; i++)
		(void)fd_close(sockets[i]);
	return r;
}

static struct qemu *qemu_new(
	const char *driver_name, const struct vmm_callbacks *cb, void *userdata)
{
	struct qemu *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->vmm.driver = vmm_driver_find(driver_name);
	q->cb = cb;
	q->userdata = userdata;
	return q;
}

static int not_installed(const struct manager *m, struct error *err)
{
	const char *named = m->config ? m->config->qemu : NULL;

	if (named)
		return error_set(err, ERROR_VM_UNAVAILABLE, "qemu= of pyrod.conf names it",
			NAMED_FIX, "there is no program %s", named);
	return error_set(err, ERROR_VM_UNAVAILABLE, "it is not in PATH", QEMU_FIX,
		"QEMU (%s) is not installed", QEMU_PROGRAM);
}

static int qemu_start(struct manager *m, const struct vmm_spec *spec,
	const struct vmm_callbacks *cb, void *userdata, struct vmm **ret, struct error *err)
{
	_cleanup_(qemu_donep) struct qemu *q = NULL;
	_cleanup_free_ char *program = NULL;
	int r;

	r = find_program(m, &program);
	if (r == -ENOMEM)
		return error_no_memory(err, "cannot start a VM");
	if (r < 0)
		return not_installed(m, err);
	q = qemu_new(spec->driver, cb, userdata);
	if (!q)
		return error_no_memory(err, "cannot start a VM");
	q->vmm.owner_uid = spec->owner_uid;
	q->is_named = m->config && m->config->qemu;
	r = bring_up(m, q, spec, program, err);
	if (r < 0)
		return r;
	q->program = TAKE_PTR(program);
	*ret = &TAKE_PTR(q)->vmm;
	return 0;
}

/* A VMM whose sockets do not answer is exiting or hangs: it goes on without console and pauses
 * until it exits. */
static int redial(struct qemu *q, sd_event *event, const struct vmm_adoption *a)
{
	int r = dial(q, event);

	if (r >= 0 || r == -ENOMEM)
		return r;
	log_uid(LOG_WARNING, r, a->owner_uid, "%s: its VMM (pid %d) does not answer: %s", a->id,
		(int)a->pid, strerror(-r));
	return 0;
}

/*
 * QEMU still listens on its sockets, whose paths are unchanged, and accepts one connection after
 * another. Only the end of the process ends the adoption.
 */
static int qemu_adopt(struct manager *m, const struct vmm_adoption *a,
	const struct vmm_callbacks *cb, void *userdata, struct vmm **ret, struct error *err)
{
	_cleanup_(qemu_donep) struct qemu *q = qemu_new(a->driver, cb, userdata);
	int r = -ENOMEM;

	if (q) {
		q->vmm.owner_uid = a->owner_uid;
		q->runs_on = true;
		r = name_sockets(q, a->run_dir);
	}
	if (r >= 0)
		r = add_notify(q, m->event);
	if (r >= 0)
		r = redial(q, m->event, a);
	if (r >= 0)
		r = launch_adopt(m,
			&(struct service_adoption){ .id = a->id,
				.owner_uid = a->owner_uid,
				.pid = a->pid,
				.start_time = a->start_time,
				.invocation = a->invocation,
				.pidfd = a->pidfd },
			&launch_cb, q, &q->vmm.launch);
	if (r < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, r, NULL, "cannot reach the VMM of %s", a->id);
	q->runs_on = false;
	q->started = q->adopted = true;
	*ret = &TAKE_PTR(q)->vmm;
	return 0;
}

static void qemu_detach(struct vmm *v)
{
	qemu_of(v)->runs_on = true;
	v->launch = launch_detach(v->launch);
	qemu_done(qemu_of(v));
}

static int qemu_dial(struct vmm *v)
{
	struct qemu *q = qemu_of(v);
	int fd = sock_dial(q->socket_paths[SOCKET_AGENT], SOCK_STREAM);

	if (fd < 0)
		return fd;
	q->cb->on_agent(v, fd, q->userdata);
	return 0;
}

static void on_stop(struct qmp *qmp _unused_, int r, json_object *ret _unused_, const char *desc,
	void *userdata)
{
	struct qemu *q = userdata;

	q->pausing = false;
	if (r < 0)
		log_uid(LOG_WARNING, 0, q->vmm.owner_uid, "QEMU cannot pause its guest: %s",
			desc ? desc : strerror(-r));
	else if (q->stop_asked && !q->paused)
		paused(q, "disk_full");
}

/*
 * QEMU first completes its guest's writes, however long the disk takes: a deadline would close QMP
 * and with it the way for `cont`. The caller limits the writes meanwhile (DEADLINE_PAUSE). May be
 * called again after a failure.
 */
static void qemu_pause(struct vmm *v)
{
	struct qemu *q = qemu_of(v);
	int r;

	if (!q->started || q->pausing || q->paused || !q->qmp)
		return;
	q->pausing = q->stop_asked = true;
	r = qmp_execute(q->qmp, "stop", NULL, QMP_NO_DEADLINE, on_stop, q);
	if (r >= 0)
		return;
	q->pausing = false;
	log_uid(LOG_WARNING, r, q->vmm.owner_uid, "cannot ask QEMU to pause its guest");
}

/* A refusal is only logged: the owner repeats the request while the guest is paused. */
static void on_cont(struct qmp *qmp _unused_, int r, json_object *ret _unused_, const char *desc,
	void *userdata)
{
	const struct qemu *q = userdata;

	if (r < 0)
		log_uid(LOG_WARNING, 0, q->vmm.owner_uid, "QEMU cannot resume its guest: %s",
			desc ? desc : strerror(-r));
}

static void qemu_resume(struct vmm *v)
{
	struct qemu *q = qemu_of(v);
	int r = q->paused && q->qmp ? qmp_execute(q->qmp, "cont", NULL,
					      deadline_usec(DEADLINE_VMM_ANSWER), on_cont, q)
				    : 0;

	if (r < 0)
		log_uid(LOG_WARNING, r, q->vmm.owner_uid, "cannot ask QEMU to resume its guest");
}

static void qemu_stop(struct vmm *v)
{
	launch_kill(v->launch);
}

static void qemu_free(struct vmm *v)
{
	qemu_done(qemu_of(v));
}

/*
 * `QEMU --version` takes 60 ms, too long for the loop: a job runs it, and the result is cached for
 * the process until the file changes. (Global, like the TSC rate: a fact about the host.)
 */
static struct {
	struct job *job; /* owned while it runs */
	dev_t dev;
	ino_t ino;
	struct timespec mtime;
	char version[64];
	int status; /* exit status of a job that printed no version, else negative */
} version_cache;

static bool cache_fits(const struct stat *st)
{
	return version_cache.ino == st->st_ino && version_cache.dev == st->st_dev &&
	       version_cache.mtime.tv_sec == st->st_mtim.tv_sec &&
	       version_cache.mtime.tv_nsec == st->st_mtim.tv_nsec;
}

/* Parses "QEMU emulator version 7.2.22 (Debian ...)". */
static void on_version_line(
	struct job *job _unused_, const char *line, size_t n, void *userdata _unused_)
{
	static const char prefix[] = "QEMU emulator version ";
	size_t skip = sizeof(prefix) - 1, len;

	if (n <= skip || memcmp(line, prefix, skip) != 0 || version_cache.version[0])
		return;
	len = n - skip;
	for (size_t i = skip; i < n && len == n - skip; i++)
		if (line[i] == ' ')
			len = i - skip;
	(void)log_escape(line + skip, len, version_cache.version, sizeof(version_cache.version));
}

static void on_version_done(
	struct job *job _unused_, int status, const char *tail _unused_, void *userdata _unused_)
{
	version_cache.job = NULL;
	version_cache.status = status;
}

static int ask_version(sd_event *event, const char *program)
{
	const char *const argv[] = { program, "--version", NULL };
	const struct job_spec spec = {
		.name = "qemu-version",
		.child = { .argv = argv, .stdin_fd = -EBADF, .die_with_parent = true },
		.timeout_usec = PROBE_WAIT_USEC,
		.on_line = on_version_line,
		.on_done = on_version_done,
	};

	return job_start(event, &spec, &version_cache.job);
}

/* True if the program exited without printing a version. One that was killed (by the timeout) is
 * unknown. */
static bool is_not_qemu(void)
{
	return !version_cache.job && !version_cache.version[0] && version_cache.status >= 0;
}

/* Fills in the same reason and fix as the error of a start. */
static int probe_absent(const struct manager *m, struct vmm_probe *p)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	not_installed(m, &err);
	if (!err.message || !err.fix)
		return -ENOMEM;
	p->reason = TAKE_PTR(err.message);
	p->fix = TAKE_PTR(err.fix);
	return 0;
}

static int probe_version(struct manager *m, const struct stat *st, bool again, struct vmm_probe *p)
{
	int r = 0;

	if (!version_cache.job && (!cache_fits(st) || (again && is_not_qemu()))) {
		version_cache.version[0] = 0;
		version_cache.status = -1;
		version_cache.dev = st->st_dev;
		version_cache.ino = st->st_ino;
		version_cache.mtime = st->st_mtim;
		r = ask_version(m->event, p->path);
	}
	if (r < 0)
		return r;
	p->usable = !is_not_qemu();
	if (!p->usable) {
		p->reason = str_printf("%s is not QEMU: with --version it ended with status %d "
				       "and named no version",
			p->path, version_cache.status);
		p->fix = strdup(m->config && m->config->qemu ? NAMED_FIX : REINSTALL_FIX);
		return p->reason && p->fix ? 0 : -ENOMEM;
	}
	if (version_cache.version[0] && !version_cache.job)
		p->version = strdup(version_cache.version);
	return version_cache.version[0] && !version_cache.job && !p->version ? -ENOMEM : 0;
}

static int qemu_probe(struct manager *m, bool again, struct vmm_probe *ret)
{
	_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };
	struct stat st;
	int r = find_program(m, &p.path);

	if (r == -ENOMEM)
		return r;
	if (r < 0 || stat(p.path, &st) < 0)
		r = probe_absent(m, &p);
	else
		r = probe_version(m, &st, again, &p);
	if (r < 0)
		return r;
	*ret = p;
	p = (struct vmm_probe){};
	return 0;
}

#define QEMU_OPERATIONS \
	.probe = qemu_probe, .program = find_program, .start = qemu_start, .adopt = qemu_adopt, \
	.detach = qemu_detach, .dial = qemu_dial, .pause = qemu_pause, .resume = qemu_resume, \
	.stop = qemu_stop, .free = qemu_free

const struct vmm_driver vmm_driver_qemu = {
	.name = "qemu",
	.execution_mode = "guest_serial",
	.id_option = "-uuid",
	.can = VMM_KVM | VMM_EMULATION,
	QEMU_OPERATIONS,
};
#ifdef PYRO_CRASH_POINTS
const struct vmm_driver vmm_driver_fake = {
	.name = "fake",
	.execution_mode = "guest_vsock",
	.id_option = "--fake-id",
	.can = VMM_EMULATION,
	QEMU_OPERATIONS,
};
#endif
