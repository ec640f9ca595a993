/* SPDX-License-Identifier: MIT */
/*
 * The handler of system.doctor: has the installed files read, runs a probe machine unless an
 * earlier machine has proven the same, and answers with the report (doctor.c). Called by the
 * dispatcher, also in a degraded daemon.
 *
 * What must stay true: each wait is bounded; what was not tried is reported as unknown; the probe
 * machine belongs to its caller like any other run.
 */

#include "daemon/machine/proof.h"
#include "daemon/core/run.h"
#include "daemon/image/confinement.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/log.h"
#include "daemon/rpc/call.h"
#include "daemon/rpc/doctor.h"
#include "daemon/vmm/vmm.h"

#define READ_USEC      (300 * USEC_PER_SEC)
#define PROBE_USEC     (60 * USEC_PER_SEC)
#define PROBE_MEM_MIB  512
#define PROBE_DISK_MIB 10240 /* the default size, whose blank disk exists already */
#define PULL_FIX       "pyro env pull debian:12"
#define NONE_INSTALLED "no machine was tried: no environment is installed"
#define NONE_WHOLE     "no machine was tried: what is installed is damaged"

struct doctor_call {
	struct manager *m;       /* borrowed */
	struct call *call;       /* borrowed */
	struct run *run;         /* owned until it is abandoned */
	sd_event_source *timer;  /* owned: deadline of the current step */
	unsigned reads;          /* pending; integrity and confinement hold a pointer to this */
	unsigned n_files;        /* folders to read */
	struct error unread;     /* owned: first failure to read */
	const char *environment; /* borrowed: of the probe machine */
	char vm_id[API_ID_SIZE]; /* of the probe machine; "": none yet */
	bool started, booted, timed_out, cancelled;
};

static void forget_reads(struct doctor_call *d)
{
	if (d->reads == 0)
		return;
	integrity_forget(d->m->integrity, d);
	if (d->m->environments)
		confinement_forget(d->m->environments, d);
	d->reads = 0;
}

static void doctor_call_free(struct doctor_call *d)
{
	forget_reads(d);
	sd_event_source_disable_unref(d->timer);
	error_clear(&d->unread);
	free(d);
}
DEFINE_CLEANUP(struct doctor_call *, doctor_call_free)

static void answer(struct call *c, const struct doctor_probe *p)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *o = NULL;
	uid_t viewer = call_is_admin(c) ? 0 : call_uid(c);
	int r = doctor_report(call_manager(c), call_uid(c), viewer, p, &o);
	if (r >= 0) {
		call_reply(c, o);
		return;
	}
	(void)error_set_errno(
		&err, error_code_for_errno(r), r, NULL, "cannot make doctor's report");
	call_fail(c, &err);
}

/* Ends the call after reading: answers and frees it. */
static void end(struct doctor_call *call, struct doctor_probe p)
{
	_cleanup_(doctor_call_freep) struct doctor_call *d = call;
	p.read = d->n_files > 0;
	p.unread = d->unread.set ? &d->unread : NULL;
	answer(d->call, &p);
}

/* The probe machine */

static void on_probe_progress(_unused_ struct run *r, const struct run_progress *p, void *userdata)
{
	struct doctor_call *d = userdata;
	_cleanup_json_ json_object *o = json_object_new_object();
	d->started = d->started || streq(p->phase, "start");
	d->booted = d->booted || streq(p->phase, "execute");
	if (p->vm_id)
		(void)snprintf(d->vm_id, sizeof(d->vm_id), "%s", p->vm_id);
	if (!o || json_add_str(o, "phase", p->phase) < 0 ||
		json_add_str(o, "vm_id", p->vm_id) < 0 || json_add_str(o, "detail", p->detail) < 0)
		return; /* progress may be dropped */
	call_progress(d->call, TAKE_PTR(o));
}

/* Returns the capability after a failed probe. A limit of the caller, or a machine that was never
 * started in time, proves nothing about the host. */
static enum capability without(const struct doctor_call *d, const struct error *err)
{
	if ((err && err->code == ERROR_QUOTA_EXCEEDED) || (d->timed_out && !d->started))
		return CAPABILITY_UNKNOWN;
	return CAPABILITY_NO;
}

/* Returns the fix of a failed start, or a search of the log if that fix is to run doctor.
 * *ret_owned owns the latter. */
static const char *failure_fix(
	const struct doctor_call *d, const struct error *err, char **ret_owned)
{
	if (!err || !err->fix || !startswith(err->fix, "pyro doctor"))
		return err ? err->fix : NULL;
	*ret_owned = log_search(d->m->system, d->vm_id[0] ? d->vm_id : "pyrod");
	return *ret_owned;
}

static char *failure_text(const struct error *err)
{
	return str_printf("%s%s%s", err && err->message ? err->message : "the probe machine failed",
		err && err->cause ? ": " : "", err && err->cause ? err->cause : "");
}

/* NULL when out of memory. */
static char *pull_again(const struct doctor_call *d)
{
	return str_printf("%spyro env pull --force %s", call_is_admin(d->call) ? "" : "sudo ",
		d->environment);
}

static void on_probe_done(
	struct run *r, json_object *result, const struct error *err, void *userdata)
{
	struct doctor_call *d = userdata;
	_cleanup_json_ json_object *owned = result;
	_cleanup_free_ char *text = owned ? NULL : failure_text(err), *fix = NULL;
	int64_t status = owned ? json_get_int(owned, "exit_code", -1) : -1;
	struct doctor_probe p = {
		.tried = true,
		.booted = d->booted || owned ? CAPABILITY_YES : without(d, err),
		.executed = status == 0 ? CAPABILITY_YES : without(d, err),
		.detail = status == 0    ? "a probe machine booted and ran `true`"
			  : owned        ? "the probe machine's `true` failed"
			  : d->timed_out ? "the probe machine took more than 60 s"
			  : text         ? text
					 : "the probe machine failed",
		.fix = d->timed_out ? "see the daemon's log and the host's load"
		       : owned      ? (fix = pull_again(d))
				    : failure_fix(d, err, &fix),
	};
	if (d->cancelled && err) { /* a result that came before the cancel is still the answer */
		call_fail(d->call, err);
		doctor_call_free(d);
	} else {
		end(d, p);
	}
	run_free(r);
}

static int on_probe_timeout(_unused_ sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct doctor_call *d = userdata;
	d->timed_out = true;
	run_cancel(d->run); /* on_probe_done follows */
	return 0;
}

static int set_timer(struct doctor_call *d, uint64_t usec, sd_event_time_handler_t fn)
{
	d->timer = sd_event_source_disable_unref(d->timer);
	return sd_event_add_time_relative(
		d->m->event, &d->timer, CLOCK_MONOTONIC, usec, USEC_PER_SEC, fn, d);
}

static int start_probe(struct doctor_call *d, const char *environment, struct error *err)
{
	struct manager *m = d->m;
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
		},
		.command = {
			.command = "true",
			.cwd = "/",
			.user = "root",
			.env = no_env,
			.timeout_usec = PROBE_USEC / 2,
		},
		.stdio_fd = -EBADF,
	};
	int r = set_timer(d, PROBE_USEC, on_probe_timeout);
	d->environment = environment;
	if (r < 0)
		return error_internal(err, strerror(-r), "cannot set a timer");
	return run_start(m, &p, &cb, d, &d->run, err);
}

/* What was shown before */

/* Returns the next installed environment from index *n on, borrowed from the catalog, or NULL. */
static struct environment *installed(struct manager *m, size_t *n)
{
	struct environment *env;
	while ((env = environments_at(m->environments, (*n)++)))
		if (environment_installed(env))
			return env;
	return NULL;
}

static bool any_damaged(struct manager *m)
{
	struct environment *env;
	for (size_t n = 0; (env = environments_at(m->environments, n)); n++)
		if (environment_is_damaged(env))
			return true;
	return false;
}

/* Finds the latest and strongest proof of any environment under the configured accelerator. */
static void find_proof(struct manager *m, struct proof *ret)
{
	enum accelerator used;
	struct environment *env;
	size_t n = 0;
	*ret = (struct proof){ 0 };
	if (!m->environments ||
		vmm_resolve_accelerator(m->config->accelerator, &used, NULL, NULL) < 0)
		return;
	while ((env = installed(m, &n))) {
		struct proof p;
		proof_find(m, environment_digest(env), used, &p);
		if (p.executed_usec > ret->executed_usec ||
			(!ret->executed_usec && p.booted_usec > ret->booted_usec))
			*ret = p;
	}
}

/* Describes a proof. The machine may be another user's, so only administrators get its time. */
static const char *proof_text(struct call *c, const struct proof *p, char *text, size_t size)
{
	time_t t = (time_t)(p->executed_usec / USEC_PER_SEC);
	struct tm tm;
	if (call_is_admin(c) && gmtime_r(&t, &tm) &&
		strftime(text, size, "a machine ran a command at %Y-%m-%dT%H:%M:%SZ", &tm) > 0)
		return text;
	return "a machine has run a command, and nothing has changed since";
}

/* Answers without a probe, from earlier proofs. */
static void answer_untried(struct call *c, const char *detail, const char *fix)
{
	struct proof proof = { 0 };
	char text[96];
	if (!call_manager(c)->degraded.set)
		find_proof(call_manager(c), &proof);
	answer(c, &(struct doctor_probe){
			  .tried = proof.executed_usec > 0,
			  .booted = proof.booted_usec ? CAPABILITY_YES : CAPABILITY_UNKNOWN,
			  .executed = proof.executed_usec ? CAPABILITY_YES : CAPABILITY_UNKNOWN,
			  .detail = proof.executed_usec ? proof_text(c, &proof, text, sizeof(text))
							: detail,
			  .fix = fix,
		  });
}

/* Goes on when everything has been read: uses an earlier proof or starts a probe machine. */
static void try_machine(struct doctor_call *d)
{
	struct manager *m = d->m;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *text = NULL, *fix = NULL;
	struct proof proof;
	char when[96];
	size_t n = 0;
	struct environment *env = installed(m, &n);
	if (!env) {
		end(d, (struct doctor_probe){
			       .detail = any_damaged(m) ? NONE_WHOLE : NONE_INSTALLED,
			       .fix = PULL_FIX });
		return;
	}
	find_proof(m, &proof);
	if (proof.booted_usec && proof.executed_usec) {
		end(d, (struct doctor_probe){ .tried = true,
			       .booted = CAPABILITY_YES,
			       .executed = CAPABILITY_YES,
			       .detail = proof_text(d->call, &proof, when, sizeof(when)) });
		return;
	}
	if (start_probe(d, environment_name(env), &err) >= 0)
		return;
	text = failure_text(&err);
	end(d, (struct doctor_probe){ .tried = true,
		       .booted = without(d, &err),
		       .executed = without(d, &err),
		       .detail = text ? text : "the probe machine cannot start",
		       .fix = failure_fix(d, &err, &fix) });
}

/* Reading */

static void on_read(const struct error *err, void *userdata)
{
	struct doctor_call *d = userdata;
	d->reads--;
	if (err && !d->unread.set)
		(void)error_copy(&d->unread, err);
	if (d->reads == 0)
		try_machine(d);
}

static int on_read_timeout(_unused_ sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct doctor_call *d = userdata;
	forget_reads(d);
	(void)error_set(&d->unread, ERROR_INTERNAL, "the host's disk is slow or busy",
		"run pyro doctor again when the host is less busy",
		"the installed files could not be read within 300 s");
	try_machine(d);
	return 0;
}

static void read_one(struct doctor_call *d, int r)
{
	d->reads += r >= 0;
	d->n_files++;
}

/* Starts reading all installed files. Damaged ones are included, since they may have been
 * repaired. */
static void read_all(struct doctor_call *d)
{
	struct manager *m = d->m;
	const char *hash = m->kernels ? kernels_current(m->kernels) : NULL;
	struct environment *env;
	if (m->environments)
		d->reads += confinement_wait(m->environments, on_read, d) > 0;
	if (hash)
		read_one(d, kernels_check(m->kernels, hash, false, on_read, d, &d->unread));
	for (size_t i = 0; m->environments && (env = environments_at(m->environments, i)); i++)
		if (environment_installed(env) || environment_is_damaged(env))
			read_one(
				d, environments_check_image(m->environments,
					   environment_digest(env), false, on_read, d, &d->unread));
}

/* Asks again for the version of each VMM that did not report one; until it answers, the report has
 * the old result. */
static void ask_vmms(struct manager *m)
{
	for (size_t i = 0; vmm_drivers[i]; i++) {
		_cleanup_(vmm_probe_done) struct vmm_probe p = { .usable = false };
		(void)vmm_drivers[i]->probe(
			m, true, &p); /* the report repeats the probe with its error */
	}
}

static void on_doctor_end(_unused_ struct call *c, enum call_end why, void *userdata)
{
	_cleanup_(doctor_call_freep) struct doctor_call *d = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	if (why == CALL_CANCELLED && d->run) {
		d->cancelled = true;
		run_cancel(TAKE_PTR(d)->run); /* on_probe_done follows */
		return;
	}
	if (why == CALL_CANCELLED) {
		(void)error_cancelled(&err, "its caller asked for it", "the check was cancelled");
		call_fail(c, &err);
	} else if (d->run) {
		run_abandon(d->run);
	}
}

int rpc_system_doctor(struct call *c, struct error *err)
{
	_cleanup_(doctor_call_freep) struct doctor_call *d = NULL;
	if (call_manager(c)->degraded.set) {
		answer_untried(c, "no machine was tried: the store cannot be used", NULL);
		return 0;
	}
	if (!call_bool(c, "probe")) {
		answer_untried(c, "no machine was tried: it was not asked for", "pyro doctor");
		return 0;
	}
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->call = c;
	d->m = call_manager(c);
	ask_vmms(d->m);
	read_all(d);
	if (d->reads == 0) {
		answer_untried(c, NONE_INSTALLED, PULL_FIX);
		return 0;
	}
	int r = set_timer(d, READ_USEC, on_read_timeout);
	if (r < 0)
		return error_internal(err, strerror(-r), "cannot set a timer");
	call_keep(c, on_doctor_end, TAKE_PTR(d));
	return 0;
}
