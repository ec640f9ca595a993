/* SPDX-License-Identifier: MIT */
/*
 * What is kept of a command: its row, and the JSON made of it (contract.md section 4). Called by
 * command.c, command-list.c and the listeners. What must stay true: a row is not committed once the
 * rows of its machine are being deleted.
 */

#include <assert.h>

#include "daemon/core/command-internal.h"
#include "daemon/machine/limit.h"
#include "proto/json.h"
#include "proto/utf8.h"

enum {
	EXIT_TIMED_OUT = 124,
	EXIT_SIGNALLED = 128,
	SHOWN_MAX = 1024, /* bytes of a command in lists, which hold many */
};

#define copy_text(dst, src) ((void)snprintf(dst, sizeof(dst), "%s", (src) ? (src) : ""))

const char *command_state_name(enum command_state s)
{
	static const char *const names[] = {
#define X(sym, name) [COMMAND_##sym] = (name),
		COMMAND_STATES(X)
#undef X
	};
	static_assert(ARRAY_SIZE(names) == COMMAND_STATE_MAX, "a name for each state");

	return names[s];
}

void command_set_state(struct command *c, enum command_state state)
{
	c->state = state;
	(void)snprintf(c->row.state, sizeof(c->row.state), "%s", command_state_name(state));
}

static uint64_t next_sequence(const struct commands *cs)
{
	const struct command *last = TAILQ_LAST(&cs->queue, command_queue);

	return last ? last->row.sequence + 1 : 1;
}

int command_fill_row(struct command *c, const struct command_params *p)
{
	struct exec_row *row = &c->row;

	copy_text(row->id, exec_id(c->exec));
	row->owner_uid = machine_row(c->commands->machine)->owner_uid;
	row->with_stdin = p->with_stdin;
	row->timeout_usec = p->timeout_usec;
	row->kept = true;
	row->sequence = next_sequence(c->commands);
	row->started_usec = wall_usec();
	row->exit_code = row->background_left = -1;
	row->stdin_bytes = p->stdin_text ? (int64_t)p->n_stdin : -1;
	row->command = strdup(p->command);
	row->cwd = strdup(p->cwd);
	row->user = strdup(p->user);
	command_set_state(c, COMMAND_PREPARING);
	return row->command && row->cwd && row->user ? 0 : -ENOMEM;
}

int command_copy_row(struct command *c, const struct exec_row *row)
{
	enum command_state s = 0;
	int r;

	while (s < COMMAND_STATE_MAX && !streq(row->state, command_state_name(s)))
		s++;
	if (s == COMMAND_STATE_MAX)
		return -EBADMSG;
	r = exec_row_copy(&c->row, row);
	c->state = s;
	return r;
}

void command_note_machine(struct command *c)
{
	const struct machine *mc = c->commands->machine;

	copy_text(c->row.execution_mode, machine_execution_mode(mc));
	copy_text(c->row.accelerator, machine_row(mc)->accelerator);
	copy_text(c->row.start_mode, machine_row(mc)->start_mode);
}

static void note_end(struct command *c, enum command_state state)
{
	command_set_state(c, state);
	c->row.ended_usec = wall_usec();
	c->row.stdout_bytes = transcript_size(c->transcript, STREAM_STDOUT);
	c->row.stderr_bytes = transcript_size(c->transcript, STREAM_STDERR);
}

void command_note_exit(struct command *c, const struct msg_exit *e)
{
	const struct agent_ended *ended = exec_ended(c->exec);
	const struct limit_end end = {
		.exit = e,
		.ended = ended,
		.killed = exec_was_killed(c->exec),
		.timeout_usec = exec_timeout_usec(c->exec),
	};
	struct limit limit = { 0 };

	limit_of(c->commands->machine, &end, &limit);
	c->row.exit_code = e->timed_out ? EXIT_TIMED_OUT
			   : e->signal  ? EXIT_SIGNALLED + e->signal
					: e->code;
	c->row.timed_out = e->timed_out;
	c->row.duration_usec = e->duration_usec;
	copy_text(c->row.ended_by, limit.ended_by);
	copy_text(c->row.limit_name, limit.name);
	copy_text(c->row.limit_flag, limit.flag);
	c->row.limit_value = limit.value;
	c->row.background_left = ended ? (ended->flags & ENDED_LEFT) != 0 : -1;
	note_end(c, COMMAND_EXITED);
}

void command_note_lost(struct command *c, const struct error *err)
{
	free(c->row.last_error);
	c->row.last_error = err->message ? strdup(err->message) : NULL;
	if (c->transcript) {
		note_end(c, COMMAND_LOST);
		return;
	}
	command_set_state(c, COMMAND_LOST);
	c->row.ended_usec = wall_usec();
}

/* A row that is being committed. The command may be freed before: with a machine whose creation is
 * undone at once, or as an old one. */
struct command_put {
	LIST_ENTRY(command_put) entry;
	struct command *command; /* borrowed; NULL: freed */
	store_done_fn done;
};

static void on_put(int r, const struct error *err, void *userdata)
{
	_cleanup_free_ struct command_put *p = userdata;

	LIST_REMOVE(p, entry);
	if (p->command)
		p->done(r, err, p->command);
}

int command_put(struct command *c, store_done_fn done)
{
	struct machine *mc = c->commands->machine;
	struct command_put *p;
	int r;

	if (machine_state(mc) == MACHINE_DELETING)
		return -ESTALE;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->command = c;
	p->done = done;
	r = store_exec_put(machine_manager(mc)->store, &c->row, on_put, p);
	if (r < 0)
		free(p);
	else
		LIST_INSERT_HEAD(&c->commands->core->puts, p, entry);
	return r;
}

void command_forget_puts(struct command *c)
{
	struct command_put *p;

	LIST_FOREACH (p, &c->commands->core->puts, entry)
		if (p->command == c)
			p->command = NULL;
}

/* The store drops what it has not reported when the daemon ends. */
void command_puts_end(struct core *core)
{
	struct command_put *p;

	while ((p = LIST_FIRST(&core->puts))) {
		LIST_REMOVE(p, entry);
		free(p);
	}
}

int command_lost_error(const struct command *c, struct error *err)
{
	if (c->err.set) {
		(void)error_copy(err, &c->err);
		return -error_code_errno(c->err.code);
	}
	return error_set(err, ERROR_GUEST_DIED,
		c->row.last_error ? c->row.last_error : "its guest ended or forgot it",
		"run it again; its output so far is kept", "how command %s ended is not known",
		c->row.id);
}

enum command_state command_shown(const struct command *c)
{
	return c->state == COMMAND_EXITED && !c->settled ? COMMAND_RUNNING : c->state;
}

/* Its exit code; null until its end is committed. */
json_object *command_exit_code(const struct command *c)
{
	return c->settled && c->row.exit_code >= 0 ? json_object_new_int(c->row.exit_code) : NULL;
}

static int add_end(const struct command *c, json_object *o)
{
	const struct exec_row *row = &c->row;
	const struct agent_ended ended = { .flags = row->background_left == 1 ? ENDED_LEFT : 0 };
	struct limit limit = {
		.ended_by = row->ended_by[0] ? row->ended_by : NULL,
		.name = row->limit_name[0] ? row->limit_name : NULL,
		.value = row->limit_value,
	};
	int r = json_add(o, "exit_code", command_exit_code(c));

	copy_text(limit.flag, row->limit_flag);
	if (r >= 0)
		r = json_add_int(o, "duration_ms",
			(int64_t)MIN_OF(row->duration_usec / USEC_PER_MSEC, (uint64_t)INT64_MAX));
	if (r >= 0)
		r = json_add_bool(o, "timed_out", row->timed_out);
	return r < 0 ? r : limit_json(&limit, row->background_left < 0 ? NULL : &ended, o);
}

static int add_bytes(const struct command *c, json_object *o)
{
	uint64_t out = c->row.stdout_bytes, err = c->row.stderr_bytes;
	int r;

	if (c->opened && c->transcript && !c->settled) {
		out = transcript_size(c->transcript, STREAM_STDOUT);
		err = transcript_size(c->transcript, STREAM_STDERR);
	}
	r = json_add_int(o, "stdout_bytes", (int64_t)MIN_OF(out, (uint64_t)INT64_MAX));
	if (r < 0)
		return r;
	return json_add_int(o, "stderr_bytes", (int64_t)MIN_OF(err, (uint64_t)INT64_MAX));
}

int command_add_shown(const struct command *c, json_object *o)
{
	return json_add_strn(
		o, "command", c->row.command, (size_t)utf8_cut(c->row.command, SHOWN_MAX));
}

static int add_names(const struct command *c, json_object *o)
{
	const struct exec_row *row = &c->row;
	int r = json_add_str(o, "workspace_id", row->vm_id);

	if (r >= 0)
		r = json_add_str(o, "exec_id", row->id);
	if (r >= 0)
		r = json_add_int(o, "sequence", (int64_t)row->sequence);
	if (r >= 0)
		r = command_add_shown(c, o);
	if (r >= 0)
		r = json_add_strn(o, "cwd", row->cwd, (size_t)utf8_cut(row->cwd, SHOWN_MAX));
	if (r >= 0)
		r = json_add_str(o, "user", row->user);
	if (r >= 0)
		r = json_add_str(o, "state", command_state_name(command_shown(c)));
	if (r >= 0)
		r = json_add_time(o, "started_at", row->started_usec);
	if (r >= 0)
		r = json_add_time(o, "ended_at", row->ended_usec);
	if (r >= 0)
		r = json_add_str(
			o, "execution_mode", row->execution_mode[0] ? row->execution_mode : NULL);
	return r;
}

int command_add_json(const struct command *c, json_object *o)
{
	int r = add_names(c, o);

	if (r >= 0)
		r = add_end(c, o);
	return r < 0 ? r : add_bytes(c, o);
}

int command_json(const struct command *c, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	int r = o ? command_add_json(c, o) : -ENOMEM;

	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}
