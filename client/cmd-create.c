/* SPDX-License-Identifier: MIT */
/*
 * `pyro vm create`: one call that may pull, in a poll() loop over the signals and the daemon's socket. Called from the
 * verb table. What must stay true: no machine is left whose id nobody was told. A signal cancels the creation, and a
 * machine that was made nevertheless is deleted; the answer is awaited for CANCEL_WAIT, or until a second signal.
 */
#include "cmd.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "client/output.h"
#include "proto/json.h"

struct creator {
	struct pyro *pyro; /* owned */
	int signals;       /* owned */
	int64_t id;        /* of vm.create, then of vm.delete */
	struct out_progress progress;
	bool more; /* events may be here that poll() does not tell of */
	bool deleting;
	bool done;
	json_object *result; /* owned */
	struct error failed; /* the answer, or what ended the connection */
	int ended_by;        /* signal, 0 */
	uint64_t deadline;   /* monotonic; UINT64_MAX: none */
};

static void creator_done(struct creator *c)
{
	out_progress_end(&c->progress);
	pyro_free(c->pyro);
	fd_close(c->signals);
	if (c->result)
		json_object_put(c->result);
	error_clear(&c->failed);
}

static int start_call(struct creator *c, const char *method, json_object *params, struct error *err)
{
	struct pyro_error *e = NULL;

	c->id = pyro_call_start(c->pyro, method,
		json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), NULL, 0, &e);
	return c->id < 0 ? cli_take_error(e, err) : 0;
}

/* The cancellation came too late. */
static int delete_made(struct creator *c)
{
	_cleanup_json_ json_object *params = json_object_new_object();

	c->deleting = true;
	if (!params || json_add_str(params, "vm_id", out_member(c->result, "vm_id")) < 0)
		return error_no_memory(&c->failed, "out of memory");
	return start_call(c, "vm.delete", params, &c->failed);
}

static void take_event(struct creator *c, struct pyro_event *e)
{
	if (e->id != c->id)
		return;
	if (e->progress) {
		if (!c->ended_by)
			cmd_on_pull(e->progress, &c->progress);
		return;
	}
	c->done = true;
	if (e->error)
		cli_take_error(TAKE_PTR(e->error), &c->failed);
	else if (!c->deleting &&
		 cli_take_result(e->result, "vm.create", &c->result, &c->failed) >= 0 &&
		 c->ended_by)
		c->done = delete_made(c) < 0;
}

static void read_daemon(struct creator *c)
{
	struct pyro_event e = { 0 };
	struct pyro_error *lost = NULL;
	int r = pyro_process(c->pyro, &e, &lost);

	c->more = r > 0;
	if (r > 0) {
		take_event(c, &e);
		pyro_event_done(&e);
	} else if (r < 0) {
		cli_take_error(lost, &c->failed);
		c->done = true;
	}
}

static void read_signals(struct creator *c)
{
	struct signalfd_siginfo si;

	while (read(c->signals, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		c->deadline = now_usec();
		if (c->ended_by)
			continue;
		c->ended_by = (int)si.ssi_signo;
		out_progress_end(&c->progress);
		if (pyro_call_cancel(c->pyro, c->id) >= 0)
			c->deadline += CANCEL_WAIT;
	}
}

static int step(struct creator *c, struct error *err)
{
	struct pollfd fds[] = { { .fd = c->signals, .events = POLLIN },
		{ .fd = pyro_fd(c->pyro), .events = POLLIN } };
	int n = poll(fds, ARRAY_SIZE(fds), c->more ? 0 : cli_poll_timeout(c->deadline));

	if (n < 0 && errno != EINTR)
		return error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot wait for the daemon");
	if (n < 0)
		return 0;
	if (fds[0].revents)
		read_signals(c);
	if (fds[1].revents || c->more)
		read_daemon(c);
	return now_usec() >= c->deadline ? 1 : 0;
}

static void print_created(const struct cli *cli, const struct cmdline *line, json_object *result)
{
	if (cli->json) {
		out_json(result);
	} else if (line->extra & EXTRA_ID_ONLY) {
		out_text(stdout, out_member(result, "vm_id"));
		putchar('\n');
	} else {
		cmd_vm_print(result);
	}
}

static int finish(
	const struct cli *cli, const struct cmdline *line, struct creator *c, struct error *err)
{
	out_progress_end(&c->progress);
	if (c->ended_by) {
		if (!c->done || c->failed.code == ERROR_OUTCOME_UNKNOWN ||
			(c->deleting && c->failed.set))
			fputs("pyro: the machine's deletion was not confirmed; see with `pyro vm list` what is there\n",
				stderr);
		error_cancelled(&c->failed, "what was made of the machine is deleted",
			"the creation was cancelled");
		if (cli->json)
			out_error(cli, &c->failed);
		return 128 + c->ended_by;
	}
	if (c->failed.set) {
		error_move(err, &c->failed);
		return -error_code_errno(err->code);
	}
	print_created(cli, line, c->result);
	return 0;
}

int cmd_vm_create(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(creator_done) struct creator c = {
		.signals = -EBADF,
		.deadline = UINT64_MAX,
		.progress = {
			.cli = cli,
			.verb = "vm-create",
			.environment = json_get_str(line->checked, "environment", ""),
		},
	};
	int r = cli_connect(cli, &c.pyro, err);

	if (r < 0)
		return r;
	c.signals = cli_open_signals(err);
	if (c.signals < 0)
		return c.signals;
	r = start_call(&c, "vm.create", line->params, err);
	while (r == 0 && !c.done)
		r = step(&c, err);
	return r < 0 ? r : finish(cli, line, &c, err);
}
