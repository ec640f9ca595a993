/* SPDX-License-Identifier: MIT */
/*
 * A VMM that is driven by QMP: boots its guest, pauses and resumes it, and reports what its events
 * say. Its three sockets listen before it starts, so pyrod connects at once and waits for data,
 * never for a file to appear. Operations of the drivers qemu and fake.
 *
 * What must stay true: the VMM is started with -S, so its run state is `prelaunch` until the first
 * `cont`; no command has a deadline, since a late answer would close QMP and with it the way to
 * resume the guest. running.c bounds the start, the owner its pauses.
 */
#include "daemon/vmm/qmp-vmm.h"

#include <assert.h>

#include "daemon/log.h"
#include "daemon/vmm/console.h"
#include "daemon/vmm/qmp.h"
#include "proto/limits.h"

const char *const qmp_vmm_sockets[] = {
	[QMP_VMM_CONTROL] = "qmp.sock",
	[QMP_VMM_AGENT] = "agent.sock",
	[QMP_VMM_CONSOLE] = "console.sock",
	[QMP_VMM_SOCKETS] = NULL,
};
static_assert(ARRAY_SIZE(qmp_vmm_sockets) == QMP_VMM_SOCKETS + 1, "a name for each socket");

static struct qmp_vmm *qmp_vmm_of(struct vmm *v)
{
	return (struct qmp_vmm *)v;
}

int qmp_vmm_listen(const struct vmm *v, struct vmm_command *c)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < QMP_VMM_SOCKETS; i++) {
		int fd = vmm_socket_listen(v, i);

		if (fd < 0)
			return fd;
		vmm_command_add_fd(c, &r, fd);
		c->n_owned = c->n_fds;
	}
	return r;
}

/* Starting */

static void on_boot(struct qmp *qmp _unused_, int r, json_object *ret _unused_, const char *desc,
	void *userdata)
{
	struct vmm *v = userdata;

	if (r == -EREMOTEIO)
		vmm_report_failed(v, desc, NULL);
	else if (r >= 0)
		vmm_report_started(v);
	/* else on_closed or the deadline ends the start */
}

void qmp_vmm_boot(struct vmm *v)
{
	int r = qmp_execute(qmp_vmm_of(v)->qmp, "cont", NULL, on_boot, v);

	/* Closed: its exit, which follows, or the deadline ends the start. */
	if (r < 0 && r != -ENOTCONN)
		vmm_report_failed(v, strerror(-r), NULL);
}

/* The run state of an adopted VMM. */
static void on_status(struct qmp *qmp _unused_, int r, json_object *ret, const char *desc _unused_,
	void *userdata)
{
	const char *status = r < 0 ? "" : qmp_str(ret, "status", "");

	if (streq(status, "prelaunch"))
		vmm_report_ready(userdata);
	else if (streq(status, "io-error") || streq(status, "paused"))
		/* QEMU does not repeat the reason: a previous daemon paused it, or a write failed,
		 * mostly for lack of space. */
		vmm_report_paused(userdata, "disk_full");
}

static void on_greeting(struct qmp *qmp, void *userdata)
{
	struct vmm *v = userdata;
	int r;

	if (qmp_version(qmp)[0])
		(void)snprintf(v->version, sizeof(v->version), "%s %s", v->driver->title,
			qmp_version(qmp));
	if (!v->adopted) {
		vmm_report_ready(v);
		return;
	}
	r = qmp_execute(qmp, "query-status", NULL, on_status, v);
	if (r < 0)
		log_uid(LOG_WARNING, r, v->owner_uid, "cannot ask %s whether its guest runs",
			v->driver->title);
}

/* A VMM that exits closes its sockets first: its exit status says more than the closed socket. One
 * that keeps running without QMP meets the deadline. */
static void on_closed(struct qmp *qmp _unused_, int r, const char *what, void *userdata)
{
	if (r != -ECONNRESET && r != -EPIPE)
		vmm_report_failed(userdata, what, NULL);
}

/* Pauses */

static void on_block_error(struct vmm *v, json_object *data)
{
	if (!streq(qmp_str(data, "action", ""), "stop"))
		return;
	vmm_report_paused(v, qmp_bool(data, "nospace", false) ? "disk_full" : "disk_error");
}

static void on_event(struct qmp *qmp _unused_, const char *name, json_object *data, void *userdata)
{
	struct vmm *v = userdata;
	struct qmp_vmm *q = qmp_vmm_of(v);

	if (streq(name, "SHUTDOWN")) {
		v->guest_ended = v->guest_ended || qmp_bool(data, "guest", false);
	} else if (streq(name, "GUEST_PANICKED")) {
		v->guest_ended = true;
	} else if (streq(name, "BLOCK_IO_ERROR")) {
		on_block_error(v, data);
	} else if (streq(name, "STOP") && q->stop_asked && !v->paused) {
		vmm_report_paused(v, "disk_full"); /* the answer may be an error or arrive later */
	} else if (streq(name, "RESUME")) {
		q->stop_asked = false;
		vmm_report_resumed(v);
	} else if (streq(name, "VSERPORT_CHANGE")) {
		v->agent_seen = v->agent_seen || qmp_bool(data, "open", false);
	}
}

static void on_stop(struct qmp *qmp _unused_, int r, json_object *ret _unused_, const char *desc,
	void *userdata)
{
	struct vmm *v = userdata;
	struct qmp_vmm *q = qmp_vmm_of(v);

	q->pausing = false;
	if (r < 0)
		log_uid(LOG_WARNING, 0, v->owner_uid, "%s cannot pause its guest: %s",
			v->driver->title, desc ? desc : strerror(-r));
	else if (q->stop_asked && !v->paused)
		vmm_report_paused(v, "disk_full");
}

/* QEMU first completes its guest's writes, however long the disk takes. The owner limits the writes
 * meanwhile (DEADLINE_PAUSE), and may call again after a failure. */
void qmp_vmm_pause(struct vmm *v)
{
	struct qmp_vmm *q = qmp_vmm_of(v);
	int r;

	if (q->pausing || !q->qmp)
		return;
	q->pausing = q->stop_asked = true;
	r = qmp_execute(q->qmp, "stop", NULL, on_stop, v);
	if (r >= 0)
		return;
	q->pausing = false;
	log_uid(LOG_WARNING, r, v->owner_uid, "cannot ask %s to pause its guest", v->driver->title);
}

/* A refusal is only logged: the owner repeats the request while the guest is paused. */
static void on_cont(struct qmp *qmp _unused_, int r, json_object *ret _unused_, const char *desc,
	void *userdata)
{
	struct vmm *v = userdata;

	qmp_vmm_of(v)->resuming = false;
	if (r < 0)
		log_uid(LOG_WARNING, 0, v->owner_uid, "%s cannot resume its guest: %s",
			v->driver->title, desc ? desc : strerror(-r));
}

void qmp_vmm_resume(struct vmm *v)
{
	struct qmp_vmm *q = qmp_vmm_of(v);
	int r;

	if (q->resuming || !q->qmp)
		return;
	q->resuming = true;
	r = qmp_execute(q->qmp, "cont", NULL, on_cont, v);
	if (r >= 0)
		return;
	q->resuming = false;
	log_uid(LOG_WARNING, r, v->owner_uid, "cannot ask %s to resume its guest",
		v->driver->title);
}

/* Connections, which wait in the backlog until the VMM accepts them */

int qmp_vmm_connect(struct vmm *v)
{
	static const struct qmp_callbacks cb = {
		.on_greeting = on_greeting,
		.on_event = on_event,
		.on_closed = on_closed,
	};
	int fd, r;

	fd = vmm_socket_dial(v, QMP_VMM_CONSOLE);
	if (fd < 0)
		return fd;
	r = console_new(v->m->event, fd, LIMIT_CONSOLE_BYTES, &v->console);
	if (r >= 0)
		r = fd = vmm_socket_dial(v, QMP_VMM_CONTROL);
	if (r >= 0)
		r = qmp_new(v->m->event, fd, &cb, v, &qmp_vmm_of(v)->qmp);
	if (r < 0)
		(void)fd_close(fd);
	return r < 0 ? r : 0;
}

int qmp_vmm_dial(struct vmm *v)
{
	int fd = vmm_socket_dial(v, QMP_VMM_AGENT);

	if (fd < 0)
		return fd;
	vmm_report_agent(v, fd);
	return 0;
}

void qmp_vmm_drain(struct vmm *v)
{
	if (qmp_vmm_of(v)->qmp)
		qmp_drain(qmp_vmm_of(v)->qmp);
}

void qmp_vmm_free(struct vmm *v)
{
	qmp_free(qmp_vmm_of(v)->qmp);
}
