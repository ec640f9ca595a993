/* SPDX-License-Identifier: MIT */
/*
 * The commands that a workspace keeps, from request to history. Called by rpc/ and by the owner of
 * the machine.
 *
 * What must stay true: a row is committed before START is sent, so a command runs at most once; its
 * end is acknowledged to the agent after the commit of its row; output is acknowledged when the
 * transcript has it; nobody's leaving ends a command; a machine's commands are at most
 * LIMIT_WORKSPACE_COMMANDS, the oldest ended ones are forgotten.
 */

#include "daemon/core/command.h"

#include <assert.h>
#include <signal.h>

#include "daemon/core/command-internal.h"
#include "daemon/core/workspace-internal.h"
#include "daemon/config.h"
#include "daemon/crash.h"
#include "daemon/log.h"

/* How much output the holder may lack before the guest has to wait for it. */
#define HOLD_BYTES (4 * (uint64_t)STREAM_WINDOW)
/* When the store has refused the row of an end. */
#define SAVE_AGAIN_USEC (5 * USEC_PER_SEC)

const char *command_id(const struct command *c)
{
	return c->row.id;
}

struct machine *command_machine(const struct command *c)
{
	return c->commands->machine;
}

enum command_state command_state(const struct command *c)
{
	return c->state;
}

static bool has_ended(const struct command *c)
{
	return c->state == COMMAND_EXITED || c->state == COMMAND_LOST;
}

static struct manager *manager_of(const struct command *c)
{
	return machine_manager(c->commands->machine);
}

/* History */

static struct commands *find(const struct machine *mc)
{
	struct commands *cs;

	LIST_FOREACH (cs, &machine_manager(mc)->core->commands, entry)
		if (cs->machine == mc)
			return cs;
	return NULL;
}

struct commands *commands_of(struct machine *mc)
{
	struct manager *m = machine_manager(mc);
	struct commands *cs = find(mc);

	if (cs)
		return cs;
	cs = calloc(1, sizeof(*cs));
	if (!cs)
		return NULL;
	cs->dir = str_printf("%s/transcripts/%s", m->state_dir, machine_id(mc));
	if (!cs->dir) {
		free(cs);
		return NULL;
	}
	cs->machine = mc;
	cs->core = m->core;
	TAILQ_INIT(&cs->queue);
	LIST_INSERT_HEAD(&m->core->commands, cs, entry);
	return cs;
}

static struct command *command_free(struct command *c)
{
	if (!c)
		return NULL;
	assert(LIST_EMPTY(&c->listeners));
	machine_unwait(c->commands->machine, c);
	command_forget_puts(c);
	sd_event_source_disable_unref(c->later);
	sd_event_source_disable_unref(c->again);
	exec_free(c->exec);
	transcript_free(c->transcript);
	exec_row_done(&c->row);
	error_clear(&c->err);
	free(c);
	return NULL;
}
DEFINE_CLEANUP(struct command *, command_free)

static struct commands *commands_free(struct commands *cs)
{
	struct command *c;

	while ((c = TAILQ_FIRST(&cs->queue))) {
		TAILQ_REMOVE(&cs->queue, c, entry);
		command_free(c);
	}
	LIST_REMOVE(cs, entry);
	free(cs->dir);
	free(cs);
	return NULL;
}

static void on_files_gone(int r, _unused_ void *userdata)
{
	if (r < 0 && r != -ENOENT)
		log_warning("cannot delete the output of an old command: %s", strerror(-r));
}

static int remove_output(const struct command *c)
{
	return transcript_remove(
		manager_of(c)->writer, c->commands->dir, c->row.id, on_files_gone, NULL);
}

void commands_deleted(struct machine *mc)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct commands *cs = find(mc);
	struct command *c;

	if (!cs)
		return;
	error_cancelled(&err, "its output is deleted with it", "%s was deleted", machine_id(mc));
	TAILQ_FOREACH (c, &cs->queue, entry) {
		listeners_fail(c, &err);
		c->transcript = transcript_free(c->transcript);
		(void)remove_output(c);
	}
	if (transcript_remove_dir(machine_manager(mc)->writer, cs->dir, on_files_gone, NULL) < 0)
		log_warning("out of memory: the next start removes %s", cs->dir);
	commands_free(cs);
}

void commands_on_pause(struct machine *mc)
{
	struct commands *cs = find(mc);
	struct command *c;

	if (!cs)
		return;
	TAILQ_FOREACH (c, &cs->queue, entry)
		listeners_paused(c);
}

/* The daemon ends: what runs goes on, and the next daemon adopts it. */
void commands_end(struct core *core)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct commands *cs;
	struct command *c;

	error_cancelled(&err, "the command continues", "pyrod is stopping");
	while ((cs = LIST_FIRST(&core->commands))) {
		TAILQ_FOREACH (c, &cs->queue, entry)
			listeners_fail(c, &err);
		commands_free(cs);
	}
	command_puts_end(core);
}

static struct command *last_of(const struct commands *cs)
{
	return TAILQ_LAST(&cs->queue, command_queue);
}

static void on_row_gone(int r, const struct error *err, _unused_ void *userdata)
{
	if (r < 0)
		log_warning("cannot delete the record of an old command: %s",
			err && err->message ? err->message : strerror(-r));
}

static void forget(struct command *c)
{
	struct manager *m = manager_of(c);

	TAILQ_REMOVE(&c->commands->queue, c, entry);
	c->transcript = transcript_free(c->transcript);
	if (store_exec_forget(m->store, c->row.id, on_row_gone, NULL) < 0 || remove_output(c) < 0)
		log_warning("out of memory: the output of an old command stays until its "
			    "machine is deleted");
	command_free(c);
}

static uint64_t output_limit(const struct command *c)
{
	return (uint64_t)manager_of(c)->config->output_limit_mib << 20;
}

/* Keeps number, text and output of a machine's commands within their limits. */
static void forget_oldest(struct commands *cs)
{
	uint64_t bytes = 0, text = 0;
	struct command *c, *before;
	size_t n = 0;

	for (c = last_of(cs); c; c = before) {
		before = TAILQ_PREV(c, command_queue, entry);
		n++;
		text += strlen(c->row.command);
		bytes += MIN_OF(c->row.stdout_bytes + c->row.stderr_bytes, output_limit(c));
		if ((n > LIMIT_WORKSPACE_COMMANDS || text > LIMIT_WORKSPACE_TEXT_BYTES ||
			    bytes > LIMIT_WORKSPACE_OUTPUT_BYTES) &&
			c->settled && !c->exec && LIST_EMPTY(&c->listeners) && c != last_of(cs))
			forget(c);
	}
}

/* The end */

static void save_again(struct command *c);

/* Callers learn the end also when it cannot be saved; then the agent keeps it, for a later try or
 * the next daemon. */
static void on_saved(int r, const struct error *err, void *userdata)
{
	struct command *c = userdata;
	bool first = !c->settled;

	if (r < 0 && r != -ESTALE && first)
		log_warning("%s: cannot save the end of its command: %s", c->row.id,
			err && err->message ? err->message : strerror(-r));
	crash_point();
	if (c->exec && r >= 0)
		exec_acknowledge(c->exec);
	if (c->exec && r < 0 && r != -ESTALE && exec_is_kept(c->exec))
		save_again(c);
	else
		c->exec = exec_free(c->exec);
	c->settled = true;
	if (first)
		listeners_ended(c);
	command_settle(c);
	forget_oldest(c->commands);
}

static int on_later(_unused_ sd_event_source *source, void *userdata)
{
	on_saved(-ESTALE, NULL, userdata);
	return 0;
}

static void save_end(struct command *c)
{
	if (command_put(c, on_saved) < 0)
		(void)sd_event_source_set_enabled(c->later, SD_EVENT_ONESHOT);
}

static int on_again(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	save_end(userdata);
	return 0;
}

static void save_again(struct command *c)
{
	c->again = sd_event_source_disable_unref(c->again);
	if (sd_event_add_time_relative(manager_of(c)->event, &c->again, CLOCK_MONOTONIC,
		    SAVE_AGAIN_USEC, 0, on_again, c) < 0)
		c->exec = exec_free(c->exec);
}

static void on_synced(int r, void *userdata)
{
	struct command *c = userdata;

	if (r < 0)
		log_warning("%s: its output may be incomplete: %s", c->row.id, strerror(-r));
	save_end(c);
}

/* The state changes now; callers get it when its row is committed. */
static void ended(struct command *c)
{
	transcript_end(c->transcript);
	if (transcript_sync(c->transcript, on_synced, c) < 0)
		save_end(c);
}

static void lose(struct command *c, const struct error *err)
{
	if (has_ended(c))
		return;
	(void)error_copy(&c->err, err);
	command_note_lost(c, err);
	ended(c);
}

/* Not from within a callback of the exec. */
void command_give_up(struct command *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	c->cancelled = true;
	if (c->state != COMMAND_PREPARING)
		return;
	error_cancelled(&err, "its caller asked for it; it was never started",
		"command %s was cancelled", c->row.id);
	machine_unwait(c->commands->machine, c);
	lose(c, &err);
}

/* The guest's events */

static void on_started(_unused_ struct exec *x, void *userdata)
{
	crash_point();
	listeners_started(userdata);
}

void command_allow(struct command *c, uint8_t stream)
{
	uint64_t kept = transcript_kept(c->transcript, stream);
	uint64_t ahead = 0;

	if (c->holder)
		ahead = listener_lag(c->holder);
	if (c->exec && !exec_has_ended(c->exec) && !exec_is_adopted(c->exec))
		exec_set_limit(
			c->exec, stream, kept, ahead > HOLD_BYTES ? kept : kept + STREAM_WINDOW);
}

static int on_output(
	_unused_ struct exec *x, uint8_t stream, const void *p, size_t n, void *userdata)
{
	struct command *c = userdata;

	return transcript_append(c->transcript, stream, p, n);
}

static void on_kept(
	_unused_ struct transcript *t, uint8_t stream, _unused_ uint64_t upto, void *userdata)
{
	command_allow(userdata, stream);
}

static const struct transcript_callbacks transcript_events = { .on_kept = on_kept };

static void on_stdin_ack(_unused_ struct exec *x, uint64_t upto, void *userdata)
{
	listeners_on_stdin(userdata, upto);
}

static void on_exec_exit(_unused_ struct exec *x, const struct msg_exit *e, void *userdata)
{
	struct command *c = userdata;

	crash_point();
	command_note_exit(c, e);
	machine_has_executed(c->commands->machine);
	ended(c);
}

static void on_failed(_unused_ struct exec *x, const struct error *err, void *userdata)
{
	lose(userdata, err);
}

bool command_is_ready(const struct command *c)
{
	return c->opened && (!c->exec || !exec_is_adopted(c->exec) || exec_has_ended(c->exec));
}

/* The text of its input was with the daemon that is gone: false if the guest lacks some of it. */
static bool resume_text(struct command *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (exec_stdin_accepted(c->exec) >= (uint64_t)c->row.stdin_bytes) {
		exec_stdin_end(c->exec);
		return true;
	}
	error_set(&err, ERROR_OUTCOME_UNKNOWN, "the rest of its input was with the previous pyrod",
		"run it again", "command %s was lost", c->row.id);
	(void)exec_kill(c->exec, SIGKILL);
	exec_fail(c->exec, &err);
	return false;
}

/* Goes on with an adopted command when both its transcript and its guest are known. */
static void take(struct command *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	uint64_t have[STREAM_MAX] = { 0 };
	int r = 0;

	if (!c->opened || !c->exec || !exec_is_adopted(c->exec) || !exec_within_reach(c->exec))
		return;
	/* Output that a full disk refused was acknowledged, and its gap may be in no file. */
	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++) {
		if (exec_earliest(c->exec, s) > transcript_size(c->transcript, s))
			r = transcript_skip(c->transcript, s, exec_earliest(c->exec, s));
		have[s] = transcript_size(c->transcript, s);
	}
	if (c->row.stdin_bytes >= 0 && !resume_text(c))
		return;
	if (r < 0 || exec_has(c->exec, have) < 0) {
		error_set(&err, ERROR_OUTCOME_UNKNOWN,
			"its guest no longer keeps the next part of the output", "run it again",
			"command %s was lost", c->row.id);
		exec_fail(c->exec, &err);
		return;
	}
	exec_take(c->exec, have);
	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++)
		command_allow(c, s);
	listeners_ready(c);
}

static void on_held(_unused_ struct exec *x, void *userdata)
{
	take(userdata);
}

static const struct exec_callbacks exec_events = {
	.on_started = on_started,
	.on_output = on_output,
	.on_stdin_ack = on_stdin_ack,
	.on_held = on_held,
	.on_exit = on_exec_exit,
	.on_failed = on_failed,
};

/* Starting */

static void on_entered(int r, const struct error *err, void *userdata)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct command *c = userdata;
	int k = 0;

	crash_point();
	if (r < 0)
		(void)error_copy(&why, err);
	else if (c->cancelled)
		error_cancelled(&why, "its caller asked for it; it was never started",
			"command %s was cancelled", c->row.id);
	else
		k = machine_exec(c->commands->machine, c->exec, c->row.channel);
	if (k < 0)
		error_set_errno(
			&why, ERROR_START_FAILED, k, "run it again", "cannot start the command");
	if (why.set)
		lose(c, &why);
}

static void advance(struct command *c);

static void on_booted(const struct error *err, void *userdata)
{
	struct command *c = userdata;

	if (err)
		lose(c, err);
	else
		advance(c);
}

/* Boots the machine if need be; then the row gets its channel and is committed before START. */
static void advance(struct command *c)
{
	struct machine *mc = c->commands->machine;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = machine_boot(mc, on_booted, c, &err);

	if (r == 0)
		return;
	if (r > 0) {
		command_set_state(c, COMMAND_RUNNING);
		c->row.channel = machine_channel(mc);
		command_note_machine(c);
		r = command_put(c, on_entered);
		if (r < 0)
			error_set_errno(
				&err, ERROR_INTERNAL, r, NULL, "cannot save the command's record");
	}
	if (r < 0)
		lose(c, &err);
}

static void on_prepared(int r, const struct error *err, void *userdata)
{
	struct command *c = userdata;

	crash_point();
	if (c->state != COMMAND_PREPARING)
		return;
	if (r < 0)
		lose(c, err);
	else
		advance(c);
}

static size_t running(const struct commands *cs)
{
	const struct command *c;
	size_t n = 0;

	TAILQ_FOREACH (c, &cs->queue, entry)
		n += c->exec || !has_ended(c);
	return n;
}

static struct command *command_new(struct commands *cs)
{
	_cleanup_free_ struct command *c = calloc(1, sizeof(*c));

	if (!c ||
		sd_event_add_defer(machine_manager(cs->machine)->event, &c->later, on_later, c) < 0)
		return NULL;
	if (sd_event_source_set_enabled(c->later, SD_EVENT_OFF) < 0) {
		sd_event_source_unref(c->later);
		return NULL;
	}
	c->commands = cs;
	LIST_INIT(&c->listeners);
	(void)snprintf(c->row.vm_id, sizeof(c->row.vm_id), "%s", machine_id(cs->machine));
	return TAKE_PTR(c);
}

int command_exec_new(sd_event *event, const struct command_params *p,
	const struct exec_callbacks *cb, void *userdata, struct exec **ret)
{
	struct msg_start start = {
		.flags = START_LOGIN | (p->with_stdin ? START_STDIN : 0U),
		.command = (char *)p->command,
		.cwd = (char *)p->cwd,
		.user = (char *)p->user,
		.env = (char **)p->env,
		.timeout_usec = p->timeout_usec,
	};
	int r;

	while (p->env && p->env[start.n_env])
		start.n_env++;
	r = exec_new(event, &start, cb, userdata, ret);
	if (r < 0 || !p->stdin_text)
		return r;
	r = exec_stdin_text(*ret, p->stdin_text, p->n_stdin);
	if (r < 0)
		*ret = exec_free(*ret);
	return r;
}

static int make(struct command *c, const struct command_params *p)
{
	struct manager *m = manager_of(c);
	int r = command_exec_new(m->event, p, &exec_events, c, &c->exec);

	if (r < 0)
		return r;
	exec_keep_exit(c->exec);
	r = command_fill_row(c, p);
	c->opened = true;
	return r < 0 ? r
		     : transcript_new(m->writer, c->commands->dir, c->row.id, output_limit(c),
			       &transcript_events, c, &c->transcript);
}

int command_start(
	struct machine *mc, const struct command_params *p, struct command **ret, struct error *err)
{
	struct commands *cs = commands_of(mc);
	_cleanup_(command_freep) struct command *c = cs ? command_new(cs) : NULL;
	int r = c ? 0 : -ENOMEM;

	if (machine_state(mc) == MACHINE_DELETING)
		return error_set(err, ERROR_WRONG_STATE, "its deletion was requested",
			"pyro workspace list", "workspace %s is being deleted", machine_id(mc));
	/* It is not booted again by a command: its error would be lost. */
	if (workspace_refuse_failed(mc, err) < 0)
		return -EBUSY;
	if (r >= 0 && running(cs) >= LIMIT_AGENT_EXECS)
		return error_set(err, ERROR_QUOTA_EXCEEDED, NULL,
			"wait until one of them has ended, or end one with exec-signal",
			"%s runs %d commands, which is the limit", machine_id(mc),
			LIMIT_AGENT_EXECS);
	if (r >= 0)
		r = make(c, p);
	machine_used(mc);
	if (r >= 0 && machine_state(mc) != MACHINE_STARTED)
		r = command_put(c, on_prepared);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot start the command");
	TAILQ_INSERT_TAIL(&cs->queue, c, entry);
	if (machine_state(mc) == MACHINE_STARTED)
		advance(c);
	*ret = TAKE_PTR(c);
	return 0;
}

/* A previous daemon's */

static int open_transcript(struct command *c, transcript_done_fn done)
{
	return transcript_open(manager_of(c)->writer, c->commands->dir, c->row.id, output_limit(c),
		&transcript_events, c, done, &c->transcript);
}

static void on_opened(int r, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct command *c = userdata;

	c->opened = r >= 0;
	c->open_error = MIN_OF(r, 0);
	if (r < 0) {
		error_set_errno(&err, ERROR_INTERNAL, r, "run it again",
			"the output of command %s cannot be read", c->row.id);
		if (c->exec && !exec_has_ended(c->exec))
			exec_fail(c->exec, &err);
		listeners_unreadable(c, &err);
	} else if (!c->exec) {
		transcript_end(c->transcript);
		listeners_ready(c);
	} else {
		take(c);
	}
}

int command_open(struct command *c)
{
	return c->transcript ? 0 : open_transcript(c, on_opened);
}

void command_settle(struct command *c)
{
	if (!c->settled || !LIST_EMPTY(&c->listeners))
		return;
	c->transcript = transcript_free(c->transcript);
	c->opened = false;
	c->open_error = 0;
}

static int adopt_running(struct command *c)
{
	struct machine *mc = c->commands->machine;
	struct msg_start start = {
		.flags = c->row.with_stdin ? START_STDIN : 0U,
		.command = c->row.command,
		.cwd = (char *)"",
		.user = (char *)"",
		.timeout_usec = c->row.timeout_usec,
	};
	int r;

	memcpy(start.exec_id, c->row.id, sizeof(start.exec_id));
	r = exec_adopt(manager_of(c)->event, &start, c->row.channel, machine_link(mc), &exec_events,
		c, &c->exec);
	if (r < 0)
		return r;
	exec_keep_exit(c->exec);
	machine_hold_exec(mc, c->exec, c->row.channel);
	return open_transcript(c, on_opened);
}

/* Its machine no longer runs, or it was never started: whether it ran at all is not known. */
static void adopt_lost(struct command *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_GUEST_DIED,
		c->state == COMMAND_PREPARING ? "pyrod ended while its machine was being started"
					      : "its machine ended while pyrod was not running",
		"run it again", "command %s was lost", c->row.id);
	(void)error_copy(&c->err, &err);
	command_note_lost(c, &err);
	save_end(c);
}

/* Nothing is saved: a later daemon may find its machine, and the command in it. */
static void leave_unknown(struct command *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERROR_GUEST_UNRESPONSIVE, "it is not known whether its machine runs",
		"restart pyrod, which looks for it again", "command %s cannot be reached",
		c->row.id);
	(void)error_copy(&c->err, &err);
	command_note_lost(c, &err);
	c->settled = true;
}

int commands_adopt(struct machine *mc, const struct exec_row *row)
{
	struct commands *cs = commands_of(mc);
	_cleanup_(command_freep) struct command *c = cs ? command_new(cs) : NULL;
	int r = c ? command_copy_row(c, row) : -ENOMEM;

	if (r < 0)
		return r;
	if (has_ended(c))
		c->settled = true;
	else if (c->state == COMMAND_RUNNING && machine_state(mc) == MACHINE_ADOPTING)
		r = adopt_running(c);
	else if (machine_state(mc) == MACHINE_UNKNOWN)
		leave_unknown(c);
	else
		adopt_lost(c);
	if (r < 0)
		return r;
	TAILQ_INSERT_TAIL(&cs->queue, c, entry);
	(void)TAKE_PTR(c);
	return 0;
}

/* Requests */

unsigned commands_find(struct manager *m, const char *id, uid_t uid, struct command **ret)
{
	struct commands *cs;
	struct command *c;
	unsigned n = 0;

	LIST_FOREACH (cs, &m->core->commands, entry) {
		if (uid != 0 && machine_row(cs->machine)->owner_uid != uid)
			continue;
		TAILQ_FOREACH (c, &cs->queue, entry) {
			if (!startswith(c->row.id, id))
				continue;
			*ret = c;
			n++;
		}
	}
	return n;
}

static int not_running(const struct command *c, const char *what, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro workspace exec-read %s", c->row.id);

	return error_set(err, ERROR_WRONG_STATE,
		c->state == COMMAND_PREPARING ? "its machine is being started"
					      : "it has ended; its output is kept",
		fix, "command %s is %s and cannot %s", c->row.id, command_state_name(c->state),
		what);
}

int command_signal(struct command *c, int signo, struct error *err)
{
	if (c->state != COMMAND_RUNNING || !c->exec || exec_kill(c->exec, signo) < 0)
		return not_running(c, "receive a signal now", err);
	machine_used(c->commands->machine);
	return 0;
}
