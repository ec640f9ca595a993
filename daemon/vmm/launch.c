/* SPDX-License-Identifier: MIT */
/*
 * Starts a VMM through pyro-vmm and watches it until its end. Called by the drivers. pyro-vmm is a
 * systemd unit or a child (service.c); it receives the arguments and every descriptor, confines
 * itself and executes the VMM, so its process and its output become the VMM's.
 */
#include "daemon/vmm/launch.h"

#include <fcntl.h>
#include <limits.h>

#include "daemon/launch-msg.h"
#include "daemon/log.h"
#include "daemon/service.h"
#include "daemon/unit.h"
#include "daemon/vmm/console.h"

enum { STDERR_KEEP = 4096 };

/* What a VMM may use beyond its guest: QEMU's own memory and its code cache under emulation; its
 * main loop and I/O threads (QEMU's pool has at most 64). */
enum {
	OVERHEAD_MIB = 384,
	OVERHEAD_CPU_PERCENT = 25,
	OVERHEAD_TASKS = 80,
};

struct launch {
	const struct launch_callbacks *cb; /* borrowed: static of the driver */
	void *userdata;
	struct service *service; /* owned */
	struct console *output;  /* owned or NULL: stdout and stderr of pyro-vmm, then of the VMM */
	char *id;                /* owned */
	uid_t owner_uid;
	char *failure; /* owned or NULL: why pyro-vmm did not execute the VMM */
};

struct launch *launch_free(struct launch *l)
{
	if (!l)
		return NULL;
	service_free(l->service);
	console_free(l->output);
	free(l->failure);
	free(l->id);
	free(l);
	return NULL;
}

void launch_kill(struct launch *l)
{
	service_kill(l->service);
}

pid_t launch_pid(const struct launch *l)
{
	return service_pid(l->service);
}

uint64_t launch_start_time(const struct launch *l)
{
	return service_start_time(l->service);
}

const char *launch_invocation(const struct launch *l)
{
	return service_invocation(l->service);
}

static void on_known(_unused_ struct service *s, void *userdata)
{
	struct launch *l = userdata;

	if (l->cb->on_known)
		l->cb->on_known(l, l->userdata);
}

static void on_reply(_unused_ struct service *s, const char *p, size_t n, void *userdata)
{
	char text[4 * LAUNCH_REPLY_BYTES + 1];
	struct launch *l = userdata;
	enum launch_reply_type type;
	const char *raw;
	size_t raw_n;

	if (launch_reply_get(p, n, &type, &raw, &raw_n) < 0) {
		log_uid(LOG_WARNING, 0, l->owner_uid,
			"pyro-vmm of %s sent an invalid reply; ignored.", l->id);
		return;
	}
	(void)log_escape(raw, raw_n, text, sizeof(text));
	if (type == LAUNCH_NOTE)
		log_uid(LOG_WARNING, 0, l->owner_uid, "VMM of %s runs with less containment: %s.",
			l->id, text);
	else if (!l->failure)
		l->failure = strdup(text);
}

static void on_exited(
	_unused_ struct service *s, int status, const struct error *err, void *userdata)
{
	struct launch *l = userdata;
	_cleanup_free_ char *reason = NULL;

	if (l->output)
		console_drain(l->output);
	if (!l->failure && l->output)
		(void)console_last_line(l->output, &reason);
	l->cb->on_exited(l, status, l->failure ? l->failure : reason, err, l->userdata);
}

static const struct service_callbacks service_events = {
	.on_known = on_known,
	.on_reply = on_reply,
	.on_exited = on_exited,
};

/* Creates the output pipe: l->output owns the reading end, the caller the writing end. */
static int open_output(struct launch *l, sd_event *event, int *ret_fd)
{
	int p[2], r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	if (fcntl(p[0], F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	else
		r = console_new(event, p[0], STDERR_KEEP, &l->output);
	if (r < 0) {
		(void)fd_close(p[0]);
		(void)fd_close(p[1]);
		return r;
	}
	*ret_fd = p[1];
	return 0;
}

static struct launch *new_launch(
	const char *id, uid_t owner_uid, const struct launch_callbacks *cb, void *userdata)
{
	struct launch *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->cb = cb;
	l->userdata = userdata;
	l->owner_uid = owner_uid;
	l->id = strdup(id);
	return l->id ? l : launch_free(l);
}

static struct unit_limits limits_of(const struct launch_spec *spec)
{
	return (struct unit_limits){
		.memory_bytes = (spec->mem_mib + OVERHEAD_MIB) * MIB,
		.cpu_usec_per_sec =
			(spec->vcpu_count * 100 + OVERHEAD_CPU_PERCENT) * (USEC_PER_SEC / 100),
		.tasks = spec->vcpu_count + OVERHEAD_TASKS,
	};
}

int launch_start(struct manager *m, const struct launch_spec *spec,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret, struct error *err)
{
	_cleanup_(launch_freep) struct launch *l =
		new_launch(spec->id, spec->owner_uid, cb, userdata);
	_cleanup_free_ char *program = str_printf("%s/pyro-vmm", m->libexec_dir);
	const struct unit_limits limits = limits_of(spec);
	_cleanup_close_ int output = -EBADF;
	int fds[LAUNCH_FDS_MAX], r;
	struct service_spec ss = {
		.id = spec->id,
		.owner_uid = spec->owner_uid,
		.template = LAUNCH_TEMPLATE,
		.program = program,
		.flags = spec->flags,
		.args = spec->args,
		.fds = fds,
		.n_fds = spec->n_fds + 1,
		.limits = &limits,
		.pid_namespace = true,
	};

	if (!l || !program)
		r = -ENOMEM;
	else
		r = ss.n_fds > LAUNCH_FDS_MAX ? -E2BIG : open_output(l, m->event, &output);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot prepare the launch of %s", spec->id);
	fds[0] = output;
	memcpy(fds + 1, spec->fds, spec->n_fds * sizeof(int));
	r = service_start(m->launcher, &ss, &service_events, l, &l->service, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(l);
	return 0;
}

int launch_adopt(struct manager *m, const struct service_adoption *a,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret)
{
	_cleanup_(launch_freep) struct launch *l = new_launch(a->id, a->owner_uid, cb, userdata);
	struct service_adoption sa = *a;
	int r;

	sa.template = LAUNCH_TEMPLATE;
	r = l ? service_adopt(m->launcher, &sa, &service_events, l, &l->service) : -ENOMEM;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(l);
	return 0;
}

struct launch *launch_detach(struct launch *l)
{
	if (!l)
		return NULL;
	l->service = service_detach(l->service);
	return launch_free(l);
}
