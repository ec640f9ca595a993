/* SPDX-License-Identifier: MIT */
/*
 * Handlers of the daemon itself: system.ping, system.doctor, rpc.discover and cancel. Called by the dispatcher,
 * also in a degraded daemon. What must stay true: ping answers from memory; doctor's probe machine
 * is bounded in time and belongs to its caller like any other run.
 */

#include "daemon/core/run.h"
#include "daemon/image/environment.h"
#include "daemon/rpc/call.h"
#include "daemon/rpc/conn.h"
#include "daemon/rpc/doctor.h"

#define PROBE_USEC     (60 * USEC_PER_SEC)
#define PROBE_MEM_MIB  512
#define PROBE_DISK_MIB 10240 /* the default, whose blank is made once */
#define PULL_FIX       "pyro env pull debian:12"

struct doctor_call {
	struct call *call;      /* borrowed */
	struct run *run;        /* owned until it is abandoned */
	sd_event_source *timer; /* owned */
	bool booted, timed_out, cancelled;
};

static void doctor_call_free(struct doctor_call *d)
{
	sd_event_source_disable_unref(d->timer);
	free(d);
}
DEFINE_CLEANUP(struct doctor_call *, doctor_call_free)

int rpc_system_ping(struct call *c, _unused_ struct error *err)
{
	struct manager *m = call_manager(c);
	_cleanup_json_ json_object *o = json_object_new_object();
	uint64_t up = (now_usec() - m->started_usec) / USEC_PER_SEC;
	if (!o || json_add_str(o, "version", PYRO_VERSION) < 0 ||
		json_add_int(o, "api_version", API_VERSION) < 0 ||
		json_add_str(o, "mode", m->system ? "system" : "user") < 0 ||
		json_add_str(o, "socket", m->socket_path) < 0 ||
		json_add_int(o, "uid", call_uid(c)) < 0 || json_add_int(o, "pid", getpid()) < 0 ||
		json_add_int(o, "uptime_seconds", (int64_t)up) < 0)
		return -ENOMEM;
	call_reply(c, TAKE_PTR(o));
	return 0;
}

int rpc_rpc_discover(struct call *c, _unused_ struct error *err)
{
	const char *text;
	size_t n;
	int r = server_discover(c->server, &text, &n);
	if (r < 0)
		return r;
	call_reply_text(c, text, n);
	return 0;
}

int rpc_cancel(struct call *c, _unused_ struct error *err)
{
	struct call *other = dispatch_find(c->conn, json_get(call_params(c), "id"));
	_cleanup_json_ json_object *o = json_object_new_object();
	bool cancelled = other && other != c && call_cancel(other);
	if (!o || json_add_bool(o, "cancelled", cancelled) < 0)
		return -ENOMEM;
	call_reply(c, TAKE_PTR(o));
	return 0;
}

static void answer(struct call *c, const struct doctor_probe *p)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *o = NULL;
	uid_t viewer = call_is_admin(c) ? 0 : call_uid(c);
	int r = doctor_report(call_manager(c), viewer, p, &o);
	if (r >= 0) {
		call_reply(c, o);
		return;
	}
	(void)error_set_errno(
		&err, error_code_for_errno(r), r, NULL, "cannot make doctor's report");
	call_fail(c, &err);
}

static void on_probe_progress(_unused_ struct run *r, const struct run_progress *p, void *userdata)
{
	struct doctor_call *d = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	d->booted = d->booted || streq(p->phase, "execute");
	if (!o || json_add_str(o, "phase", p->phase) < 0 || json_add_str(o, "vm_id", p->vm_id) < 0)
		return; /* progress may be dropped */
	call_progress(d->call, TAKE_PTR(o));
}

static void on_probe_done(
	struct run *r, json_object *result, const struct error *err, void *userdata)
{
	_cleanup_(doctor_call_freep) struct doctor_call *d = userdata;
	_cleanup_json_ json_object *owned = result;
	int64_t status = owned ? json_get_int(owned, "exit_code", -1) : -1;
	struct doctor_probe p = {
		.tried = true,
		.booted = d->booted || owned,
		.executed = status == 0,
		.detail = status == 0    ? "a probe machine booted and ran `true`"
			  : owned        ? "the probe machine's `true` failed"
			  : d->timed_out ? "the probe machine took more than 60 s"
			  : err->message ? err->message
					 : "the probe machine failed",
		.fix = d->timed_out ? "see the daemon's log and the host's load"
		       : err        ? err->fix
				    : NULL,
	};
	if (d->cancelled && err) /* a result that was on its way is the answer */
		call_fail(d->call, err);
	else
		answer(d->call, &p);
	run_free(r);
}

static void on_doctor_end(_unused_ struct call *c, enum call_end why, void *userdata)
{
	struct doctor_call *d = userdata;
	if (why == CALL_CANCELLED) {
		d->cancelled = true;
		run_cancel(d->run); /* on_probe_done follows */
		return;
	}
	run_abandon(d->run);
	doctor_call_free(d);
}

static int on_probe_timeout(_unused_ sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct doctor_call *d = userdata;
	d->timed_out = true;
	run_cancel(d->run); /* on_probe_done follows */
	return 0;
}

/* The name of an installed environment, NULL when there is none; borrowed from *list. */
static const char *installed_environment(struct manager *m, json_object **list)
{
	if (!m->environments || environments_list_json(m->environments, list) < 0)
		return NULL;
	json_object *all = json_get(*list, "environments");
	for (size_t i = 0; all && i < json_object_array_length(all); i++) {
		json_object *e = json_object_array_get_idx(all, i);
		if (json_get_bool(e, "installed", false))
			return json_get_str(e, "name", NULL);
	}
	return NULL;
}

static int start_probe(struct doctor_call *d, const char *environment, struct error *err)
{
	struct manager *m = call_manager(d->call);
	const struct run_callbacks cb = { on_probe_progress, on_probe_done };
	const char *const no_env[] = { NULL };
	const struct run_params p = {
		.machine = {
			.environment = environment,
			.vcpu_count = 1,
			.mem_mib = PROBE_MEM_MIB,
			.disk_mib = PROBE_DISK_MIB,
			.ttl_seconds = m->config->default_ttl_seconds,
			.accelerator = m->config->accelerator,
			.owner_uid = call_uid(d->call),
			.one_shot = true,
		},
		.command = "true",
		.cwd = "/",
		.user = "root",
		.env = no_env,
		.timeout_usec = PROBE_USEC / 2,
		.stdio_fd = -EBADF,
	};
	int r = sd_event_add_time_relative(m->event, &d->timer, CLOCK_MONOTONIC, PROBE_USEC,
		USEC_PER_SEC, on_probe_timeout, d);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "cannot set a timer");
	return run_start(m, &p, &cb, d, &d->run, err);
}

/* A machine that ran a command since this daemon began is as good as one more. It may have been anybody's, so when
 * that was is for administrators. */
static bool answer_from_proof(struct call *c)
{
	char detail[96] = "a machine ran a command since pyrod began";
	struct tm tm;
	uint64_t usec;
	if (!runs_proof(call_manager(c), &usec))
		return false;
	time_t t = (time_t)(usec / USEC_PER_SEC);
	if (call_is_admin(c) &&
		(!gmtime_r(&t, &tm) ||
			strftime(detail, sizeof(detail),
				"a machine ran a command at %Y-%m-%dT%H:%M:%SZ", &tm) == 0))
		return false;
	answer(c, &(struct doctor_probe){
			  .tried = true, .booted = true, .executed = true, .detail = detail });
	return true;
}

int rpc_system_doctor(struct call *c, struct error *err)
{
	struct manager *m = call_manager(c);
	_cleanup_json_ json_object *list = NULL;
	_cleanup_(doctor_call_freep) struct doctor_call *d = NULL;
	struct doctor_probe p = { .detail = "not asked for" };
	bool wanted = json_get_bool(call_params(c), "probe", true) && !m->degraded.set;
	const char *environment = wanted ? installed_environment(m, &list) : NULL;
	if (!environment) {
		if (wanted) {
			p.detail = "no machine was tried: no environment is installed";
			p.fix = PULL_FIX;
		}
		answer(c, &p);
		return 0;
	}
	if (answer_from_proof(c))
		return 0;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->call = c;
	if (start_probe(d, environment, err) < 0) {
		p = (struct doctor_probe){
			.tried = true,
			.detail = err->message ? err->message : "the probe machine cannot start",
			.fix = err->fix,
		};
		answer(c, &p);
		return 0;
	}
	call_keep(c, on_doctor_end, TAKE_PTR(d));
	return 0;
}
