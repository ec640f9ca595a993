/* SPDX-License-Identifier: MIT */
/*
 * Lets a run outlive its caller's connection and its daemon: the row of its command, the run made
 * from that row after an adoption, and exec.attach, by which a caller continues by offset. Called
 * by run.c, recover.c and rpc/exec.c.
 *
 * What must stay true: a command has a row before its START is sent; a run has one caller at a
 * time, and without one ends after DEADLINE_GRACE; output captured for a reply is lost with its
 * daemon, and a caller that attaches then gets an error, not half of the output.
 */

#include "daemon/core/run-internal.h"

#include "daemon/log.h"
#include "daemon/receiver.h"

const struct machine_owner run_owner = {
	.noun = "run",
	.command = "pyro vm",
	.id_prefix = "vm-",
	.id_name = "VM_ID",
	.log_field = "PYRO_VM",
	.again = "run the command again",
	.remains = REMAINS_NOTHING,
	.expires = true,
	.on_state = reaper_on_state,
	.on_pause = run_on_pause,
	.adopt_exec = run_adopt,
};

struct attach {
	struct receivers *receivers; /* borrowed: the manager's */
	int fd;                      /* owned */
	uint64_t have[STREAM_MAX];
};

struct attach *attach_free(struct attach *a)
{
	if (a)
		receivers_close(a->receivers, a->fd, true);
	free(a);
	return NULL;
}

int run_keep_row(struct run *r, store_done_fn done)
{
	struct exec_row row = {
		.owner_uid = machine_row(r->machine)->owner_uid,
		.channel = machine_channel(r->machine),
		.command = r->command,
		.with_stdin = r->with_stdin,
		.live = r->live,
		.timeout_usec = exec_timeout_usec(r->exec),
	};

	r->channel = row.channel;
	(void)snprintf(row.id, sizeof(row.id), "%s", exec_id(r->exec));
	(void)snprintf(row.vm_id, sizeof(row.vm_id), "%s", machine_row(r->machine)->id);
	return store_exec_put(r->m->store, &row, done, r);
}

static int fill_adopted(struct run *r, struct machine *mc, const struct exec_row *row)
{
	struct msg_start start = {
		.flags = row->with_stdin ? START_STDIN : 0U,
		.command = row->command,
		.cwd = (char *)"",
		.user = (char *)"",
		.timeout_usec = row->timeout_usec,
	};
	int k;

	memcpy(start.exec_id, row->id, sizeof(start.exec_id));
	r->environment = strdup(machine_row(mc)->environment);
	r->command = strdup(row->command);
	if (!r->environment || !r->command)
		return -ENOMEM;
	r->spec.owner_uid = row->owner_uid;
	r->spec.environment = r->environment;
	r->live = row->live;
	r->with_stdin = row->with_stdin;
	r->channel = row->channel;
	(void)snprintf(r->vm_id, sizeof(r->vm_id), "%s", machine_row(mc)->id);
	r->machine = mc;
	k = run_note_machine(r);
	if (k >= 0)
		k = run_add_later(r);
	return k < 0 ? k
		     : exec_adopt(r->m->event, &start, row->channel, machine_link(mc),
			       &run_exec_events, r, &r->exec);
}

int run_adopt(struct machine *mc, const struct exec_row *row)
{
	static const struct run_callbacks nobody = { NULL, NULL };
	struct run *r;
	int k;

	if (machine_state(mc) != MACHINE_ADOPTING)
		return 1;
	r = run_new(machine_manager(mc), &nobody, NULL, NULL);
	k = r ? fill_adopted(r, mc, row) : -ENOMEM;
	if (k < 0) {
		run_free(r);
		return k;
	}
	r->abandoned = true;
	r->machine = mc;
	r->phase = RUN_EXECUTING;
	machine_hold_exec(mc, r->exec, row->channel);
	run_begin_grace(r);
	return 0;
}

static int not_attached(struct run *r, const char *cause, struct error *err)
{
	return error_set(err, ERROR_OUTCOME_UNKNOWN, cause,
		"pyro vm list shows which machines exist",
		"command %s may have run; its output was not kept", exec_id(r->exec));
}

/* The new caller's socket replaces the old one, and the guest continues at the caller's offsets. */
static int attach_now(struct run *r, struct attach *a, struct error *err)
{
	struct stdio *s = NULL;
	int k = exec_has(r->exec, a->have);

	if (k < 0)
		return not_attached(
			r, "its guest no longer keeps the next part of the output", err);
	k = stdio_new_at(r->m->event, r->m->receivers, a->fd, r->with_stdin,
		exec_stdin_accepted(r->exec), a->have, &run_stdio_events, r, &s, err);

	if (k < 0)
		return k;
	(void)TAKE_FD(a->fd);
	stdio_free(r->stdio);
	r->stdio = s;
	r->drained = false;
	for (size_t i = 0; i < ARRAY_SIZE(r->bytes); i++)
		r->bytes[i] = a->have[STREAM_STDOUT + i];
	exec_take(r->exec, a->have);
	if (!r->with_stdin)
		exec_stdin_end(r->exec);
	run_progress(r, "execute");
	run_report_paused(r);
	return 0;
}

void run_on_held(_unused_ struct exec *x, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct run *r = userdata;
	struct attach *a = TAKE_PTR(r->attach);

	if (a && attach_now(r, a, &err) < 0)
		run_fail(r, &err);
	attach_free(a);
}

static int check_free(struct run *r, struct error *err)
{
	if (!r->abandoned)
		return error_set(err, ERROR_WRONG_STATE, "its output goes to one caller at a time",
			"wait until that caller has disconnected",
			"command %s already has a caller", exec_id(r->exec));
	if (!r->live)
		return not_attached(
			r, "its output was kept for the reply to its first caller", err);
	if (r->phase != RUN_EXECUTING || exec_has_ended(r->exec))
		return not_attached(r, "it has ended and its machine is being deleted", err);
	return 0;
}

int run_attach(struct run *r, int stdio_fd, const uint64_t have[STREAM_MAX],
	const struct run_callbacks *cb, void *userdata, struct error *err)
{
	struct attach *a;
	int k = check_free(r, err);

	if (k < 0)
		return k;
	a = calloc(1, sizeof(*a));
	if (!a)
		return error_no_memory(err, "cannot attach to the command");
	a->receivers = r->m->receivers;
	a->fd = stdio_fd;
	memcpy(a->have, have, sizeof(a->have));
	r->cb = *cb;
	r->userdata = userdata;
	r->abandoned = false;
	r->grace = sd_event_source_disable_unref(r->grace);
	if (exec_within_reach(r->exec)) {
		k = attach_now(r, a, err);
		if (k < 0) {
			r->abandoned = true; /* its machine is deleted as without a caller */
			run_begin_grace(r);
			a->fd = -EBADF; /* the caller still owns it */
		}
		attach_free(a);
	} else {
		r->attach = a;
		run_report_paused(r);
	}
	return k < 0 ? k : 0;
}
