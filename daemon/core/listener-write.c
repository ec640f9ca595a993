/* SPDX-License-Identifier: MIT */
/*
 * exec.write: input to a command, answered when the guest has accepted it. Made by rpc/exec.c.
 *
 * What must stay true: input is sent at most once, after everything that was sent before; the reply
 * says how much of it the guest accepted; it waits while a previous daemon's command is adopted.
 */

#include "daemon/core/listener-internal.h"

#include "proto/deadline.h"
#include "proto/json.h"

static int not_running(const struct command *c, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro workspace exec-read %s", c->row.id);

	return error_set(err, ERROR_WRONG_STATE,
		c->state == COMMAND_PREPARING ? "its machine is being started"
					      : "it has ended; its output is kept",
		fix, "command %s is %s and takes no input", c->row.id,
		command_state_name(c->state));
}

static int check_input(const struct command *c, struct error *err)
{
	if (c->state != COMMAND_RUNNING || !c->exec)
		return not_running(c, err);
	if (!c->row.with_stdin || exec_stdin_ended(c->exec))
		return error_set(err, ERROR_WRONG_STATE,
			c->row.with_stdin ? "its input has ended"
					  : "it was started without input (-i)",
			"start it with -i", "command %s takes no input", c->row.id);
	if (c->input)
		return error_set(err, ERROR_WRONG_STATE, "another caller's input goes to it",
			"wait until that caller has left, or attach with --read-only",
			"command %s takes no other input now", c->row.id);
	return 0;
}

static void reply(struct listener *l, size_t accepted)
{
	_cleanup_json_ json_object *o = json_object_new_object();

	if (!o || json_add_str(o, "exec_id", l->command->row.id) < 0 ||
		json_add_int(o, "input_length", (int64_t)accepted) < 0)
		listener_no_memory(l);
	else
		listener_finish(l, TAKE_PTR(o));
}

/* Bytes of it that the guest has, also when the command has ended. */
static size_t accepted(struct listener *l)
{
	uint64_t upto = l->command->exec ? exec_stdin_accepted(l->command->exec) : 0;

	if (upto > l->from)
		l->accepted = (size_t)MIN_OF(upto - l->from, (uint64_t)buf_len(&l->text));
	return l->accepted;
}

void write_progress(struct listener *l)
{
	if (l->begun && !l->finished && accepted(l) == buf_len(&l->text))
		reply(l, buf_len(&l->text));
}

void write_late(struct listener *l)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (l->begun) {
		reply(l, accepted(l));
		return;
	}
	error_set(&err, ERROR_GUEST_UNRESPONSIVE, "pyrod has asked it since pyrod started",
		"send it again when `pyro workspace status` says that it is started",
		"the guest of command %s has not answered yet", l->command->row.id);
	listener_fail(l, &err);
}

void write_ended(struct listener *l)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (l->begun) {
		reply(l, accepted(l));
		return;
	}
	(void)not_running(l->command, &err);
	listener_fail(l, &err);
}

int write_begin(struct listener *l, struct error *err)
{
	struct command *c = l->command;
	size_t n = buf_len(&l->text);
	int r = check_input(c, err);

	if (r < 0)
		return r;
	l->from = exec_stdin_begin(c->exec, false);
	r = exec_stdin(c->exec, n ? (const void *)buf_head(&l->text) : "", n);
	if (r == -ENOBUFS)
		return error_set(err, ERROR_NO_SPACE, "it has not read what was sent before",
			"send it again when the command has read more",
			"command %s cannot take %zu more bytes of input", c->row.id, n);
	if (r < 0)
		return error_no_memory(err, "cannot send input to command %s", c->row.id);
	if (l->eof)
		exec_stdin_end(c->exec);
	l->begun = true;
	machine_used(command_machine(c));
	write_progress(l);
	return 0;
}

int command_write(struct command *c, const struct write_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err)
{
	struct listener *l;
	int r = check_input(c, err);

	if (r >= 0)
		r = listener_new(c, LISTENER_WRITES, cb, userdata, &l, err);
	if (r < 0)
		return r;
	l->eof = p->eof;
	r = buf_append(&l->text, p->data, p->n);
	if (r >= 0)
		r = listener_set_timer(l, (int64_t)(deadline_usec(DEADLINE_INPUT) / USEC_PER_MSEC));
	if (r < 0)
		error_no_memory(err, "cannot send input to command %s", c->row.id);
	else if (command_is_ready(c))
		r = write_begin(l, err);
	if (r < 0) {
		listener_discard(l);
		return r;
	}
	*ret = l;
	return 0;
}
