/* SPDX-License-Identifier: MIT */
/*
 * The callers of kept commands: those that wait for the end (exec.wait, a buffered workspace.exec)
 * and those that are attached (exec.attach, a live workspace.exec). Made by rpc/, driven by
 * command.c; listener-read.c has those that read the transcript.
 *
 * What must stay true: on_done is called once, from an event of its own, unless the caller has
 * left; no caller's leaving, slowness or fault ends a command; one reply's output is collected at a
 * time, so that many callers that wait do not hold many outputs.
 */

#include "daemon/core/listener-internal.h"

#include <signal.h>

#include "daemon/receiver.h"
#include "proto/json.h"

#define ALL_BYTES (UINT64_MAX / 2) /* credit of a reader without a limit */

static void collect_next(struct core *core);

struct command *listener_command(const struct listener *l)
{
	return l->command;
}

/* The end of a listener */

static void leave_collectors(struct listener *l)
{
	bool first = TAILQ_FIRST(&l->core->collectors) == l;

	if (!l->collecting)
		return;
	l->collecting = false;
	TAILQ_REMOVE(&l->core->collectors, l, collector);
	if (first)
		collect_next(l->core);
}

/* Ends its use of the command. Not from within a callback of its stdio. */
static void detach(struct listener *l)
{
	struct command *c = TAKE_PTR(l->command);

	if (!c)
		return;
	LIST_REMOVE(l, entry);
	for (size_t i = 0; i < ARRAY_SIZE(l->readers); i++)
		l->readers[i] = transcript_reader_free(l->readers[i]);
	leave_collectors(l);
	l->stdio = stdio_free(l->stdio);
	if (c->input == l)
		c->input = NULL;
	if (c->holder == l) {
		c->holder = NULL;
		for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++)
			command_allow(c, s);
	}
	command_settle(c);
}

static void listener_free(struct listener *l)
{
	detach(l);
	LIST_REMOVE(l, all);
	sd_event_source_disable_unref(l->later);
	sd_event_source_disable_unref(l->timer);
	receivers_close(l->receivers, l->attach.stdio_fd, true);
	json_object_put(l->result);
	error_clear(&l->err);
	for (size_t i = 0; i < ARRAY_SIZE(l->out); i++)
		capture_done(&l->out[i]);
	buf_done(&l->text);
	free(l->jumps);
	free(l);
}

void listener_discard(struct listener *l)
{
	l->attach.stdio_fd = -EBADF; /* the caller still owns it */
	l->stdio = stdio_disown(l->stdio);
	listener_free(l);
}

static void report(struct listener *l)
{
	if (!l->left)
		l->cb.on_done(l, TAKE_PTR(l->result), l->err.set ? &l->err : NULL, l->userdata);
	listener_free(l);
}

static int on_later(_unused_ sd_event_source *source, void *userdata)
{
	struct listener *l = userdata;

	detach(l);
	report(l);
	return 0;
}

static void report_later(struct listener *l)
{
	l->finished = true;
	(void)sd_event_source_set_enabled(l->later, SD_EVENT_ONESHOT);
}

void listener_finish(struct listener *l, json_object *result)
{
	if (l->finished) {
		json_object_put(result);
		return;
	}
	l->result = result;
	report_later(l);
}

void listener_fail(struct listener *l, const struct error *err)
{
	if (l->finished)
		return;
	(void)error_copy(&l->err, err);
	report_later(l);
}

void listener_no_memory(struct listener *l)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_no_memory(&err, "cannot make the reply");
	listener_fail(l, &err);
}

void listeners_fail(struct command *c, const struct error *err)
{
	struct listener *l, *next;

	for (l = LIST_FIRST(&c->listeners); l; l = next) {
		next = LIST_NEXT(l, entry);
		listener_fail(l, err);
		detach(l);
	}
}

void listeners_end(struct core *core)
{
	struct listener *l;

	while ((l = LIST_FIRST(&core->listeners)))
		report(l);
}

void listener_leave(struct listener *l)
{
	l->left = true;
	report_later(l);
}

void listener_cancel(struct listener *l, bool kill)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct command *c = l->command;

	if (!c || l->finished)
		return;
	error_cancelled(&err,
		!kill                           ? "the command continues"
		: c->state == COMMAND_PREPARING ? "the command is not started"
						: "the command is killed; its output is kept",
		"the call was cancelled");
	listener_fail(l, &err);
	if (!kill)
		return;
	command_give_up(c);
	if (c->exec)
		(void)exec_kill(c->exec, SIGKILL);
}

/* Making one */

static int on_timer(_unused_ sd_event_source *source, _unused_ uint64_t usec, void *userdata)
{
	struct listener *l = userdata;
	json_object *o = NULL;

	if (l->finished || !l->command || l->collecting)
		return 0;
	if (l->kind == LISTENER_READS)
		read_late(l);
	else if (l->kind == LISTENER_WRITES)
		write_late(l);
	else if (listener_result(l, false, &o) < 0)
		listener_no_memory(l);
	else
		listener_finish(l, o);
	return 0;
}

int listener_set_timer(struct listener *l, int64_t wait_ms)
{
	if (wait_ms < 0)
		return 0;
	return sd_event_add_time_relative(machine_manager(command_machine(l->command))->event,
		&l->timer, CLOCK_MONOTONIC, (uint64_t)wait_ms * USEC_PER_MSEC, 0, on_timer, l);
}

/* Each may hold up to LIMIT_CAPTURE_BYTES until its caller has read the reply. */
static int check_number(const struct core *core, const struct command *c, struct error *err)
{
	const struct listener *l;
	unsigned n = 0;

	LIST_FOREACH (l, &core->listeners, all)
		n += l->owner_uid == c->row.owner_uid;
	if (n < LIMIT_LISTENERS_UID)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, NULL,
		"wait until some of these calls have been answered, or end their clients",
		"%u calls wait for commands of uid %u, which is the limit", n, c->row.owner_uid);
}

int listener_new(struct command *c, enum listener_kind kind, const struct listener_callbacks *cb,
	void *userdata, struct listener **ret, struct error *err)
{
	struct manager *m = machine_manager(command_machine(c));
	struct listener *l;
	int r = check_number(m->core, c, err);

	if (r < 0)
		return r;
	l = calloc(1, sizeof(*l));
	r = l ? sd_event_add_defer(m->event, &l->later, on_later, l) : -ENOMEM;

	if (r >= 0)
		r = sd_event_source_set_enabled(l->later, SD_EVENT_OFF);
	if (r < 0) {
		if (l)
			sd_event_source_disable_unref(l->later);
		free(l);
		return error_no_memory(err, "cannot wait for command %s", c->row.id);
	}
	l->command = c;
	l->core = m->core;
	l->owner_uid = c->row.owner_uid;
	l->receivers = m->receivers;
	l->kind = kind;
	l->cb = *cb;
	l->userdata = userdata;
	l->attach.stdio_fd = -EBADF;
	buf_init(&l->text, LIMIT_CAPTURE_BYTES);
	LIST_INSERT_HEAD(&c->listeners, l, entry);
	LIST_INSERT_HEAD(&m->core->listeners, l, all);
	*ret = l;
	return 0;
}

/* Waiting for the end, then collecting the output */

static void conclude(struct listener *l, bool output)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *o = NULL;

	if (command_state(l->command) == COMMAND_LOST) {
		command_lost_error(l->command, &err);
		listener_fail(l, &err);
	} else if (listener_result(l, output, &o) < 0) {
		listener_no_memory(l);
	} else {
		listener_finish(l, o);
	}
}

static int on_collected(_unused_ struct transcript_reader *r, uint8_t stream, const void *p,
	size_t n, _unused_ uint64_t usec, void *userdata)
{
	struct listener *l = userdata;

	return capture_add(&l->out[stream - STREAM_STDOUT], p, n);
}

static void on_collect_end(_unused_ struct transcript_reader *r, int error, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct listener *l = userdata;

	if (l->finished)
		return;
	if (error < 0) {
		error_set_errno(&err, error_code_for_errno(error), error, NULL,
			"the output of command %s cannot be read", l->command->row.id);
		listener_fail(l, &err);
	} else {
		conclude(l, true);
	}
	leave_collectors(l);
}

static int begin_collecting(struct listener *l)
{
	static const struct transcript_reader_callbacks events = {
		.on_bytes = on_collected,
		.on_end = on_collect_end,
	};
	int r = command_open(l->command);

	if (r >= 0)
		r = transcript_reader_new(
			l->command->transcript, 0, TRANSCRIPT_BOTH, &events, l, &l->readers[0]);
	if (r >= 0)
		transcript_reader_credit(l->readers[0], ALL_BYTES);
	return r;
}

static void collect_next(struct core *core)
{
	struct listener *l;

	struct listener *other;

	while ((l = TAILQ_FIRST(&core->collectors))) {
		/* Users take turns. */
		TAILQ_FOREACH (other, &core->collectors, collector)
			if (other->owner_uid != core->collected_uid)
				break;
		if (other && other != l) {
			TAILQ_REMOVE(&core->collectors, other, collector);
			TAILQ_INSERT_HEAD(&core->collectors, other, collector);
			l = other;
		}
		core->collected_uid = l->owner_uid;
		if (begin_collecting(l) >= 0)
			return;
		l->collecting = false;
		TAILQ_REMOVE(&core->collectors, l, collector);
		listener_no_memory(l);
	}
}

static void collect(struct listener *l)
{
	bool idle = TAILQ_EMPTY(&l->core->collectors);

	l->collecting = true;
	TAILQ_INSERT_TAIL(&l->core->collectors, l, collector);
	if (idle)
		collect_next(l->core);
}

int command_wait(struct command *c, enum command_state until, int64_t wait_ms,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err)
{
	struct listener *l;
	int r = listener_new(c, LISTENER_WAITS, cb, userdata, &l, err);

	if (r < 0)
		return r;
	l->until = until;
	if (c->settled) {
		collect(l);
	} else if (listener_set_timer(l, wait_ms) < 0) {
		listener_discard(l);
		return error_no_memory(err, "cannot wait for command %s", c->row.id);
	}
	*ret = l;
	return 0;
}

/* Attached callers */

static size_t index_of(uint8_t stream)
{
	return (size_t)stream - STREAM_STDOUT;
}

uint64_t listener_lag(const struct listener *l)
{
	uint64_t lag = 0;

	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++) {
		uint64_t size = transcript_size(l->command->transcript, s);

		lag += size - MIN_OF(size, l->have[index_of(s)]);
	}
	return lag;
}

static void check_done(struct listener *l)
{
	if (l->drained && l->command && l->command->settled && !l->finished)
		conclude(l, false);
}

static int on_attached_bytes(_unused_ struct transcript_reader *r, uint8_t stream, const void *p,
	size_t n, _unused_ uint64_t usec, void *userdata)
{
	struct listener *l = userdata;
	size_t i = index_of(stream), skip = (size_t)MIN_OF((uint64_t)n, l->skip[i]);
	int k = l->stdio ? stdio_output(l->stdio, stream, (const uint8_t *)p + skip, n - skip)
			 : -EPIPE;

	if (k < 0)
		return k;
	l->skip[i] -= skip;
	l->have[i] += n - skip;
	/* The lag is that of both streams, so both may go on. */
	for (uint8_t s = STREAM_STDOUT; l->command->holder == l && s <= STREAM_STDERR; s++)
		command_allow(l->command, s);
	return 0;
}

static void on_attached_gap(_unused_ struct transcript_reader *r, uint64_t n, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *fix = NULL;
	struct listener *l = userdata;

	if (l->finished)
		return;
	fix = str_printf("pyro workspace exec-read %s", l->command->row.id);
	error_set(&err, ERROR_OUTCOME_UNKNOWN, "its output is kept up to output_limit_mib", fix,
		"%llu bytes of the output of command %s are no longer kept", (unsigned long long)n,
		l->command->row.id);
	listener_fail(l, &err);
}

static void on_attached_end(struct transcript_reader *r, int error, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct listener *l = userdata;

	if (l->finished)
		return;
	if (error < 0) {
		error_set_errno(&err, error_code_for_errno(error), error, NULL,
			"the output of command %s cannot be read", l->command->row.id);
		listener_fail(l, &err);
		return;
	}
	l->ended[r == l->readers[1]] = true;
	if (l->ended[0] && l->ended[1])
		stdio_finish(l->stdio);
}

/* Passes on as much of its input as the guest takes. */
static int pass_input(struct listener *l)
{
	struct command *c = l->command;
	int r = 0;

	if (!c || c->input != l || !c->exec) {
		buf_clear(&l->text);
		return 0;
	}
	while (r >= 0 && buf_len(&l->text) > 0 && exec_stdin_room(c->exec) > 0) {
		size_t n = MIN_OF(buf_len(&l->text), exec_stdin_room(c->exec));

		r = exec_stdin(c->exec, buf_head(&l->text), n);
		if (r >= 0)
			buf_consume(&l->text, n);
	}
	if (r >= 0 && l->eof && buf_len(&l->text) == 0)
		exec_stdin_end(c->exec);
	return r;
}

/* What others have sent before may fill the window: then its own input waits here. */
static int on_stdin(_unused_ struct stdio *s, const void *p, size_t n, void *userdata)
{
	struct listener *l = userdata;
	int r = buf_append(&l->text, p, n);

	return r < 0 ? r : pass_input(l);
}

static void on_stdin_end(_unused_ struct stdio *s, void *userdata)
{
	struct listener *l = userdata;

	l->eof = !l->left;
	(void)pass_input(l); /* without memory the input stays open */
}

static void on_limit(_unused_ struct stdio *s, uint8_t stream, _unused_ uint64_t upto,
	uint64_t limit, void *userdata)
{
	struct listener *l = userdata;
	size_t i = index_of(stream);

	if (!l->readers[i] || limit <= l->allowed[i])
		return;
	transcript_reader_credit(l->readers[i], limit - l->allowed[i]);
	l->allowed[i] = limit;
}

static void on_drained(_unused_ struct stdio *s, void *userdata)
{
	struct listener *l = userdata;

	l->drained = true;
	check_done(l);
}

static void on_broken(_unused_ struct stdio *s, const struct error *err, void *userdata)
{
	listener_fail(userdata, err);
}

static int attach_readers(struct listener *l)
{
	static const struct transcript_reader_callbacks events = {
		.on_bytes = on_attached_bytes,
		.on_gap = on_attached_gap,
		.on_end = on_attached_end,
	};
	struct command *c = l->command;
	int r = 0;

	for (uint8_t s = STREAM_STDOUT; r >= 0 && s <= STREAM_STDERR; s++) {
		size_t i = index_of(s);

		r = transcript_reader_new_at(
			c->transcript, s, l->have[i] - l->skip[i], &events, l, &l->readers[i]);
		if (r < 0)
			return r;
		if (l->attach.holds)
			transcript_reader_hold(l->readers[i]);
		l->allowed[i] = l->have[i] + STREAM_WINDOW;
		transcript_reader_credit(l->readers[i], l->skip[i] + STREAM_WINDOW);
	}
	return r;
}

/*
 * Checks the offsets of a caller that continues. A live caller may have output that the previous
 * daemon had not written: the guest still keeps it, and sends it again.
 */
static int check_offsets(struct listener *l, struct error *err)
{
	struct command *c = l->command;
	uint64_t ahead = c->exec && !exec_has_ended(c->exec) ? STREAM_WINDOW : 0;

	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++) {
		uint64_t have = l->attach.have[s], from = transcript_earliest_of(c->transcript, s),
			 size = transcript_size(c->transcript, s);

		if (have == UINT64_MAX)
			have = from;
		if (have < from || have > size + ahead)
			return error_set(err, ERROR_OUTCOME_UNKNOWN,
				have < from ? "the next part of the output is no longer kept"
					    : "it never had as much output",
				"read what is kept with exec.read",
				"command %s cannot be continued at this offset", c->row.id);
		l->have[index_of(s)] = have;
		l->skip[index_of(s)] = have > size ? have - size : 0;
	}
	return 0;
}

static int check_input(const struct command *c, const struct attach_params *p, struct error *err)
{
	if (!p->with_stdin || !c->row.with_stdin || c->settled || !c->input)
		return 0;
	return error_set(err, ERROR_WRONG_STATE, "its input comes from one caller at a time",
		"attach with read_only=true (--read-only)",
		"another caller sends input to command %s", c->row.id);
}

static int attach_now(struct listener *l, struct error *err)
{
	static const struct stdio_callbacks events = {
		.on_stdin = on_stdin,
		.on_stdin_end = on_stdin_end,
		.on_limit = on_limit,
		.on_drained = on_drained,
		.on_broken = on_broken,
	};
	struct manager *m = machine_manager(command_machine(l->command));
	struct command *c = l->command;
	uint64_t have[STREAM_MAX] = { 0 }, in = 0;
	bool with_stdin = l->attach.with_stdin && c->exec && !exec_has_ended(c->exec) &&
			  !exec_stdin_ended(c->exec);
	int r = check_input(c, &l->attach, err);

	if (r >= 0)
		r = check_offsets(l, err);

	if (r < 0)
		return r;
	for (uint8_t s = STREAM_STDOUT; s <= STREAM_STDERR; s++)
		have[s] = l->have[index_of(s)];
	if (with_stdin)
		in = exec_stdin_begin(c->exec, l->attach.resumes);
	r = stdio_new_at(m->event, m->receivers, l->attach.stdio_fd, l->attach.with_stdin, in, have,
		&events, l, &l->stdio, err);
	if (r < 0)
		return r;
	l->attach.stdio_fd = -EBADF;
	r = attach_readers(l);
	if (r < 0)
		return error_no_memory(err, "cannot attach to command %s", c->row.id);
	if (with_stdin)
		c->input = l;
	if (l->attach.holds && !c->holder)
		c->holder = l;
	if (l->cb.on_progress && !l->left && c->state == COMMAND_RUNNING)
		l->cb.on_progress(l, "execute", l->userdata);
	return 0;
}

int command_attach(struct command *c, const struct attach_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err)
{
	struct listener *l;
	int r = check_input(c, p, err);

	if (r >= 0)
		r = listener_new(c, LISTENER_ATTACHED, cb, userdata, &l, err);
	if (r < 0)
		return r;
	l->attach = *p;
	l->attach.with_stdin = p->with_stdin && c->row.with_stdin;
	l->attach.holds = p->holds && !c->holder;
	r = command_open(c);
	if (r < 0)
		error_no_memory(err, "cannot attach to command %s", c->row.id);
	else if (c->open_error < 0)
		r = error_set_errno(err, ERROR_INTERNAL, c->open_error, "run it again",
			"the output of command %s cannot be read", c->row.id);
	else if (command_is_ready(c))
		r = attach_now(l, err);
	if (r < 0) {
		listener_discard(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* Events of the command */

void listeners_started(struct command *c)
{
	struct listener *l;

	LIST_FOREACH (l, &c->listeners, entry) {
		json_object *o = NULL;

		if (l->left || l->finished || l->kind == LISTENER_READS ||
			l->kind == LISTENER_WRITES)
			continue;
		if (l->cb.on_progress)
			l->cb.on_progress(l, "execute", l->userdata);
		if (l->kind != LISTENER_WAITS || l->until != COMMAND_RUNNING)
			continue;
		if (listener_result(l, false, &o) < 0)
			listener_no_memory(l);
		else
			listener_finish(l, o);
	}
}

void listeners_ready(struct command *c)
{
	struct listener *l;

	LIST_FOREACH (l, &c->listeners, entry) {
		_cleanup_error_ struct error err = ERROR_INIT;

		if (l->finished || !command_is_ready(c))
			continue;
		if (l->kind == LISTENER_ATTACHED && !l->stdio && attach_now(l, &err) < 0)
			listener_fail(l, &err);
		if (l->kind == LISTENER_WRITES && !l->begun && write_begin(l, &err) < 0)
			listener_fail(l, &err);
	}
}

void listeners_on_stdin(struct command *c, uint64_t upto)
{
	struct listener *l;

	if (c->input && c->input->stdio) {
		stdio_ack_stdin(c->input->stdio, upto);
		(void)pass_input(c->input); /* without memory it is tried at the next ACK */
	}
	LIST_FOREACH (l, &c->listeners, entry)
		if (l->kind == LISTENER_WRITES)
			write_progress(l);
}

void listeners_paused(struct command *c)
{
	const char *phase = machine_pause_cause(command_machine(c)) ? "paused" : "resumed";
	struct listener *l;

	LIST_FOREACH (l, &c->listeners, entry)
		if (l->cb.on_progress && !l->left && !l->finished)
			l->cb.on_progress(l, phase, l->userdata);
}

void listeners_unreadable(struct command *c, const struct error *err)
{
	struct listener *l;

	LIST_FOREACH (l, &c->listeners, entry)
		if (l->kind == LISTENER_ATTACHED && !l->stdio)
			listener_fail(l, err);
}

/* It may still wait for the output: then a lost command's reason is its answer. */
static void attached_ended(struct listener *l)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (l->stdio)
		check_done(l);
	else if (command_state(l->command) == COMMAND_LOST)
		conclude(l, false);
	else if (l->command->opened && attach_now(l, &err) < 0)
		listener_fail(l, &err);
}

void listeners_ended(struct command *c)
{
	struct listener *l;

	LIST_FOREACH (l, &c->listeners, entry) {
		if (l->finished)
			continue;
		if (l->kind == LISTENER_WAITS && !l->collecting)
			collect(l);
		else if (l->kind == LISTENER_ATTACHED)
			attached_ended(l);
		else if (l->kind == LISTENER_WRITES)
			write_ended(l);
		else if (l->at_end)
			read_late(l);
	}
}
