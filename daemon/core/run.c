/* SPDX-License-Identifier: MIT */
/*
 * vm.run from request to result: pull, start, execute, delete; and vm.exec, which uses an existing
 * machine. Called by rpc/vm.c and rpc/exec.c.
 *
 * What must stay true: on_done is called exactly once and last, when the machine is deleted and the
 * caller's stdio has the last byte; a cancellation, a failure or another caller's vm.delete leaves
 * nothing of the machine in any phase; an abandoned run reports nothing and frees itself.
 */

#include "daemon/core/run.h"

#include "daemon/core/run-internal.h"
#include "daemon/account.h"
#include "daemon/crash.h"
#include "proto/deadline.h"
#include "proto/json.h"

static void report(struct run *r, const struct run_progress *p)
{
	if (!r->abandoned && r->cb.on_progress)
		r->cb.on_progress(r, p, r->userdata);
}

void run_progress(struct run *r, const char *phase)
{
	struct run_progress p = {
		.phase = phase,
		.vm_id = r->vm_id[0] ? r->vm_id : NULL,
		.exec_id = streq(phase, "execute") ? exec_id(r->exec) : NULL,
		.percent = -1,
	};

	if (streq(phase, "start")) {
		p.accelerator = machine_row(r->machine)->accelerator;
		p.accelerator_reason = machine_accelerator_reason(r->machine);
	}
	report(r, &p);
}

static void report_pause(struct run *r)
{
	const char *reason = machine_pause_cause(r->machine);
	_cleanup_free_ char *detail = machine_pause_detail(r->machine);

	report(r, &(struct run_progress){ .phase = reason ? "paused" : "resumed",
			  .vm_id = r->vm_id,
			  .percent = -1,
			  .detail = detail,
			  .pause_reason = reason });
}

void run_report_paused(struct run *r)
{
	if (machine_pause_cause(r->machine))
		report_pause(r);
}

/* The end */

static void answer(struct run *r)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;

	crash_point();
	r->phase = RUN_DONE;
	error_move(&err, &r->err);
	if (!err.set) {
		int k = run_result(r, &result);

		if (k < 0)
			error_set_errno(
				&err, error_code_for_errno(k), k, NULL, "cannot make the result");
	}
	r->cb.on_done(r, result, err.set ? &err : NULL, r->userdata);
}

static int on_later(_unused_ sd_event_source *source, void *userdata)
{
	struct run *r = userdata;

	if (r->abandoned)
		run_free(r);
	else
		answer(r);
	return 0;
}

/* Answers when the machine is released and stdio drained; a failed run does not wait for stdio. */
static void check_done(struct run *r)
{
	if (r->phase != RUN_DRAINING)
		return;
	if (r->stdio && !r->drained && !r->err.set && !r->abandoned)
		return;
	(void)sd_event_source_set_enabled(r->later, SD_EVENT_ONESHOT);
}

static void machine_is_deleted(struct run *r)
{
	r->machine = NULL;
	r->phase = RUN_DRAINING;
	check_done(r);
}

static void on_deleted(const struct error *err, void *userdata)
{
	struct run *r = userdata;

	r->deleted = !err;
	machine_is_deleted(r);
}

static void delete_machine(struct run *r)
{
	int k;

	if (r->phase >= RUN_DELETING)
		return;
	r->phase = RUN_DELETING;
	k = machine_delete(r->machine, "it is deleted with its only command", on_deleted, r);
	if (k < 0) {
		error_no_memory(&r->err, "cannot delete machine %s", r->vm_id);
		machine_is_deleted(r);
	}
}

/* Ends the run from any phase. */
static void give_up(struct run *r)
{
	switch (r->phase) {
	case RUN_PULLING:
		r->pull = pull_wait_free(r->pull);
		machine_is_deleted(r);
		break;
	case RUN_STARTING:
		if (r->entering) {
			r->unwanted = true;
			break;
		}
		/* on_started follows when nothing is left. */
		(void)machine_delete(r->machine, "its caller asked for it", NULL, NULL);
		break;
	case RUN_EXECUTING: delete_machine(r); break;
	default: check_done(r); break;
	}
}

void run_fail(struct run *r, const struct error *err)
{
	if (!r->err.set)
		(void)error_copy(&r->err, err);
	give_up(r);
}

/* The command's events */

static void on_exec_started(_unused_ struct exec *x, void *userdata)
{
	crash_point();
	run_progress(userdata, "execute");
}

static int on_output(struct exec *x, uint8_t stream, const void *p, size_t n, void *userdata)
{
	struct run *r = userdata;
	size_t i = (size_t)stream - STREAM_STDOUT;
	int k;

	r->bytes[i] += n;
	if (r->stdio)
		return stdio_output(r->stdio, stream, p, n);
	k = capture_add(&r->out[i], p, n);
	/* One ACK per quarter of the window, for many frames. */
	if (k >= 0 && r->bytes[i] % (STREAM_WINDOW / 4) < n)
		exec_set_limit(x, stream, r->bytes[i], r->bytes[i] + STREAM_WINDOW);
	return k;
}

static void on_stdin_ack(_unused_ struct exec *x, uint64_t upto, void *userdata)
{
	struct run *r = userdata;

	if (r->stdio)
		stdio_ack_stdin(r->stdio, upto);
}

static int on_drain_late(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	delete_machine(userdata);
	return 0;
}

static void begin_drain(struct run *r)
{
	r->grace = sd_event_source_disable_unref(r->grace);
	if (sd_event_add_time_relative(r->m->event, &r->grace, CLOCK_MONOTONIC,
		    deadline_usec(DEADLINE_GRACE), 0, on_drain_late, r) < 0)
		delete_machine(r);
}

static void on_exec_exit(struct exec *x, const struct msg_exit *e, void *userdata)
{
	const struct limit_end end = {
		.exit = e,
		.ended = exec_ended(x),
		.killed = exec_was_killed(x),
		.timeout_usec = exec_timeout_usec(x),
	};
	struct run *r = userdata;

	crash_point();
	r->exit = *e;
	r->exited = true;
	limit_of(r->machine, &end, &r->limit);
	machine_has_executed(r->machine);
	if (r->stdio)
		stdio_finish(r->stdio);
	/* The guest keeps the output until the caller has the last byte, so that the next daemon
	 * could continue. After DEADLINE_GRACE a slow caller gets the rest from this daemon. */
	if (!r->stdio || r->abandoned)
		delete_machine(r);
	else
		begin_drain(r);
}

static void on_forgotten(_unused_ int k, _unused_ const struct error *err, void *userdata)
{
	machine_is_deleted(userdata); /* the next daemon forgets a row that stays */
}

/* Releases a machine that is deleted, or that its owner keeps; then only the command's row goes. */
static void leave_machine(struct run *r, const struct error *err)
{
	if (!r->err.set)
		(void)error_copy(&r->err, err);
	r->machine = NULL;
	r->phase = RUN_DELETING;
	if (!r->entered || store_exec_forget(r->m->store, exec_id(r->exec), on_forgotten, r) < 0)
		machine_is_deleted(r);
}

/* A machine that its owner keeps survives an adopted command that may never have started. */
static void on_exec_failed(struct exec *x, const struct error *err, void *userdata)
{
	struct run *r = userdata;

	if (r->phase == RUN_EXECUTING && exec_is_adopted(x) &&
		machine_owner(r->machine)->remains != REMAINS_NOTHING)
		leave_machine(r, err);
	else
		run_fail(r, err);
}

const struct exec_callbacks run_exec_events = {
	.on_started = on_exec_started,
	.on_output = on_output,
	.on_stdin_ack = on_stdin_ack,
	.on_held = run_on_held,
	.on_exit = on_exec_exit,
	.on_failed = on_exec_failed,
};

/* The caller's events */

static int on_stdin(_unused_ struct stdio *s, const void *p, size_t n, void *userdata)
{
	struct run *r = userdata;

	return exec_stdin(r->exec, p, n);
}

static void on_stdin_end(_unused_ struct stdio *s, void *userdata)
{
	struct run *r = userdata;

	exec_stdin_end(r->exec);
}

static void on_limit(
	_unused_ struct stdio *s, uint8_t stream, uint64_t upto, uint64_t limit, void *userdata)
{
	struct run *r = userdata;

	exec_set_limit(r->exec, stream, upto, limit);
}

static void on_drained(_unused_ struct stdio *s, void *userdata)
{
	struct run *r = userdata;

	r->drained = true;
	if (r->phase == RUN_EXECUTING && r->exited)
		delete_machine(r);
	check_done(r);
}

static void on_broken(_unused_ struct stdio *s, const struct error *err, void *userdata)
{
	run_fail(userdata, err);
}

const struct stdio_callbacks run_stdio_events = {
	.on_stdin = on_stdin,
	.on_stdin_end = on_stdin_end,
	.on_limit = on_limit,
	.on_drained = on_drained,
	.on_broken = on_broken,
};

/* The machine's events */

/* Not awaited: the machine's row is committed after this one, before anything starts in it. */
static void on_row_kept(int k, const struct error *err, void *userdata)
{
	if (k < 0)
		run_fail(userdata, err);
}

static void on_launch(_unused_ struct machine *mc, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct run *r = userdata;
	int k = run_keep_row(r, on_row_kept);

	if (k < 0) {
		error_set_errno(&err, ERROR_INTERNAL, k, NULL, "cannot save the command's record");
		run_fail(r, &err);
	}
	run_progress(r, "start");
}

static void execute(struct run *r)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct machine *mc = r->machine;
	int k;

	r->phase = RUN_EXECUTING;
	crash_point();
	k = run_note_machine(r);
	if (k >= 0)
		k = machine_exec(mc, r->exec, r->channel);
	if (k < 0) {
		error_set_errno(
			&why, ERROR_START_FAILED, k, "run it again", "cannot start the command");
		run_fail(r, &why);
	}
}

static void on_machine_started(_unused_ struct machine *mc, const struct error *err, void *userdata)
{
	if (err)
		leave_machine(userdata, err);
	else
		execute(userdata);
}

static void on_machine_booted(const struct error *err, void *userdata)
{
	on_machine_started(NULL, err, userdata);
}

static int start_machine(struct run *r, struct error *err)
{
	static const struct machine_callbacks cb = {
		.on_launch = on_launch,
		.on_started = on_machine_started,
	};
	int k;

	run_progress(r, "create");
	k = machine_start(r->m->machines, &r->spec, &cb, r, &r->machine, err);
	if (k < 0)
		return k;
	(void)snprintf(r->vm_id, sizeof(r->vm_id), "%s", machine_row(r->machine)->id);
	r->phase = RUN_STARTING;
	return 0;
}

/* The pull's events */

static void on_pull_progress(const struct pull_progress *p, void *userdata)
{
	struct run *r = userdata;
	struct run_progress rp = { .phase = p->phase, .percent = p->percent, .detail = p->detail };

	if (!r->abandoned && r->cb.on_progress && !streq(p->phase, "ready"))
		r->cb.on_progress(r, &rp, r->userdata);
}

static void on_pulled(const struct error *err, void *userdata)
{
	struct run *r = userdata;
	_cleanup_error_ struct error why = ERROR_INIT;

	r->pull = pull_wait_free(r->pull);
	if (err)
		(void)error_copy(&why, err);
	if (err || start_machine(r, &why) < 0)
		run_fail(r, &why);
}

/* Making one */

static int copy_params(struct run *r, const struct run_params *p)
{
	r->spec = p->machine;
	r->live = p->stdio_fd >= 0;
	r->with_stdin = p->command.with_stdin;
	r->spec.owner = &run_owner;
	r->spec.whole = true;
	r->environment = strdup(p->machine.environment);
	r->command = strdup(p->command.command);
	r->spec.environment = r->environment;
	if (!r->environment || !r->command)
		return -ENOMEM;
	return command_exec_new(r->m->event, &p->command, &run_exec_events, r, &r->exec);
}

/* Limits the runs without a machine: they are in no quota, but hold their request and output. */
static int check_waiting(const struct run *self, uid_t uid, struct error *err)
{
	const struct accounts *a = self->m->accounts;
	uid_t account = accounts_find(a, uid);
	char who[ACCOUNT_TEXT_SIZE];
	const struct run *r;
	unsigned n = 0;

	LIST_FOREACH (r, &self->m->core->runs, entry)
		n += r != self && !r->machine && accounts_find(a, r->spec.owner_uid) == account;
	if (n < LIMIT_RUNS_WAITING)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED,
		"they wait for an environment or for a reader of their output",
		"wait until one of them has ended, or end its client with Ctrl-C",
		"%s %u runs that wait without a machine, which is the limit",
		account_has(account, who), n);
}

int run_add_later(struct run *r)
{
	int k = sd_event_add_defer(r->m->event, &r->later, on_later, r);

	return k < 0 ? k : sd_event_source_set_enabled(r->later, SD_EVENT_OFF);
}

static int make_run(struct run *r, const struct run_params *p, struct error *err)
{
	int k = check_waiting(r, p->machine.owner_uid, err);

	if (k < 0)
		return k;
	k = copy_params(r, p);
	if (k >= 0)
		k = run_add_later(r);
	if (k < 0)
		return error_set_errno(
			err, error_code_for_errno(k), k, NULL, "cannot start the run");
	if (p->stdio_fd >= 0)
		return stdio_new(r->m->event, r->m->receivers, p->stdio_fd, r->with_stdin,
			&run_stdio_events, r, &r->stdio, err);
	return 0;
}

struct run *run_new(
	struct manager *m, const struct run_callbacks *cb, void *userdata, struct error *err)
{
	struct run *r = calloc(1, sizeof(*r));

	if (!r) {
		error_no_memory(err, "cannot start the run");
		return NULL;
	}
	r->m = m;
	r->cb = *cb;
	r->userdata = userdata;
	LIST_INSERT_HEAD(&m->core->runs, r, entry);
	return r;
}

int run_start(struct manager *m, const struct run_params *p, const struct run_callbacks *cb,
	void *userdata, struct run **ret, struct error *err)
{
	struct run *r = run_new(m, cb, userdata, err);
	int k;

	if (!r)
		return -ENOMEM;
	k = environments_find(m->environments, p->machine.environment, &r->env, err);
	if (k >= 0)
		k = make_run(r, p, err);
	if (k >= 0)
		k = environment_pull(
			r->env, PULL_FOR_USE, on_pull_progress, on_pulled, r, &r->pull, err);
	if (k < 0) {
		r->stdio = stdio_disown(r->stdio);
		run_free(r);
		return k;
	}
	*ret = r;
	return 0;
}

struct run *run_of(const struct machine *mc)
{
	struct run *r;

	LIST_FOREACH (r, &machine_manager(mc)->core->runs, entry)
		if (r->machine == mc)
			return r;
	return NULL;
}

void run_on_pause(struct machine *mc)
{
	struct run *r = run_of(mc);

	if (r)
		report_pause(r);
}

/* The row is committed: starts the command, after a boot if needed. */
static void on_entered(int k, const struct error *err, void *userdata)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct run *r = userdata;

	r->entering = false;
	if (r->unwanted) {
		delete_machine(r);
		return;
	}
	if (k < 0)
		(void)error_copy(&why, err);
	else
		k = machine_boot(r->machine, on_machine_booted, r, &why);
	if (k < 0)
		leave_machine(r, &why);
	else if (k > 0)
		execute(r);
}

static int keep_entered(struct run *r, struct error *err)
{
	int k = run_keep_row(r, on_entered);

	r->entering = r->entered = k >= 0;
	return k < 0 ? error_set_errno(
			       err, ERROR_INTERNAL, k, NULL, "cannot save the command's record")
		     : k;
}

/* The agent has reported which channels it holds, so a new one can be given out. */
static void on_adopted(const struct error *err, void *userdata)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct run *r = userdata;

	if (err)
		(void)error_copy(&why, err);
	if (err || keep_entered(r, &why) < 0)
		leave_machine(r, &why);
}

static int takes_no_command(const struct machine *mc, struct error *err)
{
	bool lost = machine_state(mc) == MACHINE_UNKNOWN;
	_cleanup_free_ char *fix =
		str_printf("pyro vm %s %s", lost ? "delete" : "status", machine_row(mc)->id);

	return error_set(err, ERROR_WRONG_STATE,
		machine_row(mc)->last_error ? machine_row(mc)->last_error
		: lost                      ? "its guest does not answer"
					    : "another operation on it is in progress",
		fix, "machine %s is %s and cannot run a command now", machine_row(mc)->id,
		machine_state_public(machine_state(mc)));
}

static int enter(struct run *r, struct machine *mc, struct error *err)
{
	bool adopting = machine_is_unadopted(mc);
	int k;

	if (machine_busy(mc) || (machine_state(mc) == MACHINE_UNKNOWN && !adopting))
		return takes_no_command(mc, err);
	machine_used(mc);
	r->machine = mc;
	(void)snprintf(r->vm_id, sizeof(r->vm_id), "%s", machine_row(mc)->id);
	k = adopting ? machine_boot(mc, on_adopted, r, err) : keep_entered(r, err);
	if (k < 0) {
		r->machine = NULL;
		return k;
	}
	r->phase = RUN_STARTING;
	run_progress(r, "start");
	run_report_paused(r);
	return 0;
}

int run_in_machine(struct machine *mc, const struct run_params *p, const struct run_callbacks *cb,
	void *userdata, struct run **ret, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro vm create %s", machine_row(mc)->environment);
	struct run_params here = *p;
	struct run *r;
	int k;

	if (run_of(mc))
		return error_set(err, ERROR_WRONG_STATE, "a machine runs only one command", fix,
			"machine %s already runs a command", machine_row(mc)->id);
	r = run_new(machine_manager(mc), cb, userdata, err);
	if (!r)
		return -ENOMEM;
	here.machine = (struct machine_spec){
		.environment = machine_row(mc)->environment,
		.owner_uid = machine_row(mc)->owner_uid,
	};
	k = make_run(r, &here, err);
	if (k >= 0)
		k = enter(r, mc, err);
	if (k < 0) {
		r->stdio = stdio_disown(r->stdio);
		run_free(r);
		return k;
	}
	*ret = r;
	return 0;
}

void run_cancel(struct run *r)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (r->phase >= RUN_DRAINING && !r->stdio)
		return; /* the result is on its way */
	error_cancelled(&err,
		r->phase == RUN_PULLING ? "its caller asked for it; the pull continues for others"
					: "its caller asked for it; its machine is deleted",
		"the run was cancelled");
	run_fail(r, &err);
}

static int on_grace_end(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	give_up(userdata);
	return 0;
}

void run_begin_grace(struct run *r)
{
	int k;

	r->grace = sd_event_source_disable_unref(r->grace);
	k = sd_event_add_time_relative(r->m->event, &r->grace, CLOCK_MONOTONIC,
		deadline_usec(DEADLINE_GRACE), 0, on_grace_end, r);
	/* -ESTALE: the loop has ended; the next daemon gives the caller the grace time. */
	if (k < 0 && k != -ESTALE)
		give_up(r);
}

void run_abandon(struct run *r)
{
	r->abandoned = true;
	if (r->stdio)
		stdio_hold(r->stdio);
	r->attach = attach_free(r->attach);
	if (r->phase >= RUN_DELETING || r->phase == RUN_PULLING)
		give_up(r);
	else
		run_begin_grace(r);
}

struct run *run_free(struct run *r)
{
	if (!r)
		return NULL;
	LIST_REMOVE(r, entry);
	if (r->machine)
		machine_unwait(r->machine, r);
	pull_wait_free(r->pull);
	stdio_free(r->stdio);
	attach_free(r->attach);
	exec_free(r->exec);
	sd_event_source_disable_unref(r->later);
	sd_event_source_disable_unref(r->grace);
	for (size_t i = 0; i < ARRAY_SIZE(r->out); i++)
		capture_done(&r->out[i]);
	error_clear(&r->err);
	free(r->environment);
	free(r->environment_version);
	free(r->command);
	free(r);
	return NULL;
}

void runs_end(struct core *core)
{
	struct run *r, *next;

	for (r = LIST_FIRST(&core->runs); r; r = next) {
		next = LIST_NEXT(r, entry);
		if (r->abandoned)
			run_free(r);
	}
}

int runs_find(struct manager *m, const char *id, uid_t uid, struct run **ret, struct error *err)
{
	struct run *r, *found = NULL;
	unsigned n = 0;

	LIST_FOREACH (r, &m->core->runs, entry) {
		if (!r->exec || (uid != 0 && r->spec.owner_uid != uid) ||
			!startswith(exec_id(r->exec), id))
			continue;
		found = r;
		n++;
	}
	if (n != 1)
		return error_set(err, ERROR_EXEC_NOT_FOUND,
			n > 1 ? "it matches several commands"
			      : "it does not exist, or it has ended",
			n > 1 ? "give the whole exec_id" : "pyro vm list",
			"running command %s not found", id);
	*ret = found;
	return 0;
}

int run_signal(struct run *r, int signo, struct error *err)
{
	int k = exec_kill(r->exec, signo);

	return k < 0 ? error_set_errno(err, ERROR_WRONG_STATE, k,
			       "send the signal while the command runs",
			       "command %s cannot receive a signal now", exec_id(r->exec))
		     : 0;
}

const char *run_exec_id(const struct run *r)
{
	return exec_id(r->exec);
}
