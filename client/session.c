/* SPDX-License-Identifier: MIT */
/*
 * The only poll() loop of the CLI: signals, the daemon's socket, live stdio. Called by main.c for
 * the typed verb, whose struct waiting defines what is printed.
 *
 * What must stay true: nothing that the command made is left without a report to the caller. After
 * a signal, or when stdout is closed, the call is cancelled and its answer awaited for CANCEL_WAIT.
 * If no answer comes, the daemon deletes what the call made when the connection closes. Every wait
 * is bounded except those for the answer itself and for a reader of the output. The reported error
 * is the first one.
 */
#include "session.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "proto/deadline.h"
#include "proto/json.h"

#define CANCEL_WAIT \
	(15 * USEC_PER_SEC) /* for the answer to a cancelled call: a machine's deletion */
#define DRAIN_WAIT    (5 * USEC_PER_SEC) /* for the rest of the streams after the answer */
#define REDIAL_EVERY  50                 /* ms; no event reports a listening socket */
#define MAX_EVENTS    64                 /* from the daemon, before signals are checked again */
#define PAUSE_EVERY   (5 * USEC_PER_SEC) /* between two lines about a paused machine */
#define SECOND_SIGNAL (2 * USEC_PER_SEC) /* a second Ctrl-C within this ends the command */

enum { POLL_SIGNAL, POLL_DAEMON, POLL_RELAY, N_POLLS = POLL_RELAY + RELAY_POLLS };

static void session_done(struct session *s)
{
	out_progress_end(&s->progress);
	relay_free(s->relay);
	pyro_free(s->pyro);
	fd_close(s->signals);
	if (s->result)
		json_object_put(s->result);
	if (s->params)
		json_object_put(s->params);
	error_clear(&s->failed);
	error_clear(&s->own);
	free(s->pause_detail);
}

/* Calls */

static int64_t send_call(
	struct pyro *p, const char *method, json_object *params, int fd, struct error *err)
{
	struct pyro_error *e = NULL;
	int64_t id = pyro_call_start(p, method,
		json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), &fd, fd >= 0, &e);

	return id < 0 ? cli_take_error(e, err) : id;
}

static bool in_background(const struct session *s)
{
	return json_get_bool(s->line->checked, "background", false);
}

static bool is_read_only(const struct session *s)
{
	return json_get_bool(s->line->checked, "read_only", false);
}

/* Makes the verb's own call. */
static int begin_call(struct session *s, struct error *err)
{
	bool attach = s->line->verb->method == API_M_exec_attach;
	bool with_stdin = json_get_bool(s->line->checked, "interactive", false) ||
			  (attach && !is_read_only(s));
	_cleanup_close_ int peer = -EBADF;

	if (s->wait->live && !s->cli->json && !in_background(s)) {
		int r = relay_new(with_stdin ? STDIN_FILENO : -EBADF, STDOUT_FILENO, STDERR_FILENO,
			&s->relay, &peer, err);

		if (r >= 0)
			r = json_add_int(s->params, "stdio", 0);
		if (r < 0)
			return r;
		if (attach)
			relay_accept_offsets(s->relay);
	}
	if (s->wait->timeout_sec > 0)
		s->deadline = now_usec() + (uint64_t)s->wait->timeout_sec * USEC_PER_SEC;
	s->id = send_call(s->pyro, s->method, s->params, peer, err);
	return s->id < 0 ? (int)s->id : 0;
}

static bool signal_command(struct session *s, const char *name)
{
	_cleanup_json_ json_object *params = json_object_new_object();

	return params && json_add_str(params, "exec_id", s->exec_id) >= 0 &&
	       json_add_str(params, "signal_name", name) >= 0 &&
	       send_call(s->pyro, "exec.signal", params, -EBADF, NULL) >= 0;
}

/* Ends what the call began. A cancelled exec.attach leaves the command of a workspace running. */
static bool request_end(struct session *s)
{
	if (s->attached && s->wait->on_signal == SIGNAL_INTERRUPTS)
		return signal_command(s, "KILL");
	return pyro_call_cancel(s->pyro, s->id) >= 0;
}

/* Cancels the call. The loop then waits for its answer or for the deadline. */
static void cancel(struct session *s)
{
	if (s->cancelled)
		return;
	s->cancelled = true;
	/* No daemon is connected. The next one deletes a machine to which no client attaches, but
	 * not a workspace's command. */
	if (s->redialling) {
		s->redialling = false;
		s->done = true;
		s->unsure = s->wait->on_signal == SIGNAL_INTERRUPTS;
	}
	s->deadline = now_usec();
	if (s->relay)
		relay_discard(s->relay);
	/* If this fails, the connection is lost, and pyro_process() reports that next. */
	if (s->wait->unconfirmed && (s->done || request_end(s)))
		s->deadline += CANCEL_WAIT;
}

/* Ends the wait for the command, which continues. */
static void detach(struct session *s)
{
	s->detached = s->cancelled = s->done = true;
	s->redialling = false;
	s->deadline = now_usec();
}

/* Deletes a machine that the call made before its cancellation. */
static void undo(struct session *s)
{
	_cleanup_json_ json_object *params = json_object_new_object();
	const char *id = out_member(s->result, s->wait->made);

	s->undoing = true;
	s->deadline = now_usec() + CANCEL_WAIT;
	s->id = params && json_add_str(params, s->wait->made, id) >= 0
			? send_call(s->pyro, s->wait->undo, params, -EBADF, &s->failed)
			: error_no_memory(&s->failed, "cannot delete %s", id);
	s->done = s->id < 0;
}

/* Signals */

/* Blocks SIGINT, SIGTERM and SIGHUP and reads them by a signalfd. Signals ignored at the start
 * (nohup, a background job) stay ignored. */
static int open_signals(struct session *s, struct error *err)
{
	static const int wanted[] = { SIGINT, SIGTERM, SIGHUP };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct sigaction old;

		if (sigaction(wanted[i], NULL, &old) < 0 || old.sa_handler != SIG_IGN)
			sigaddset(&set, wanted[i]);
	}
	if (sigprocmask(SIG_BLOCK, &set, &s->blocked_before) < 0)
		return error_set_errno(err, ERROR_INTERNAL, -errno, NULL, "cannot block signals");
	s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals < 0)
		return error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot wait for signals");
	return 0;
}

static void take_signal(struct session *s, int sig)
{
	uint64_t now = now_usec();
	bool second = s->int_at && now - s->int_at < SECOND_SIGNAL;

	if (sig == SIGINT && s->relay)
		relay_key_echoed(s->relay);
	if (s->cancelled && s->ended_by) {
		s->deadline = now; /* second signal: do not wait for the deletion */
		return;
	}
	if (sig == SIGINT && s->wait->on_signal < SIGNAL_DETACHES && s->exec_id[0] && !second &&
		!s->done) {
		s->int_at = now;
		if (signal_command(s, "INT"))
			return;
	}
	s->ended_by = sig;
	out_progress_end(&s->progress);
	/* With a result the command has ended, and only its output is not yet written. */
	if (s->wait->on_signal != SIGNAL_ENDS && s->exec_id[0] && !(s->done && s->result))
		detach(s);
	else
		cancel(s);
}

static void read_signals(struct session *s)
{
	struct signalfd_siginfo si;

	while (read(s->signals, &si, sizeof(si)) == (ssize_t)sizeof(si))
		take_signal(s, (int)si.ssi_signo);
}

/* Events of the daemon */

void session_end_line(struct session *s)
{
	if (s->relay && relay_end_line(s->relay))
		fputc('\n', stderr);
}

void session_pull_phase(struct session *s, const char *phase, json_object *progress)
{
	out_pull_phase(&s->progress, phase, (int)out_int(progress, "percent", -1));
}

/* Prints that the machine was paused or resumed, at most once per PAUSE_EVERY. at_end: prints the
 * last state at once. */
static void note_pause(struct session *s, bool at_end)
{
	uint64_t now = now_usec();

	if (s->paused == s->pause_reported || (!at_end && now < s->pause_note_at))
		return;
	s->pause_reported = s->paused;
	s->pause_note_at = now + PAUSE_EVERY;
	if (s->cli->quiet)
		return;
	out_progress_end(&s->progress);
	session_end_line(s);
	fprintf(stderr, "pyro: %s: ", s->paused ? "paused" : "resumed");
	out_text(stderr, s->pause_detail);
	fputc('\n', stderr);
}

static void take_pause(struct session *s, bool paused, const char *detail)
{
	free(s->pause_detail);
	s->pause_detail = strdup(detail);
	s->paused = paused;
	note_pause(s, false);
}

/* Copies a well-formed id and nothing else, because it is printed and sent back. */
static void copy_id(char ret[API_ID_SIZE], const char *prefix, const char *id)
{
	size_t n = strlen(prefix);

	if (startswith(id, prefix) && strlen(id) < API_ID_SIZE &&
		id[n + strspn(id + n, "0123456789abcdef")] == '\0')
		memcpy(ret, id, strlen(id) + 1);
}

static void take_progress(struct session *s, const char *json)
{
	_cleanup_json_ json_object *o = json_tokener_parse(json);
	const char *phase = out_member(o, "phase");

	if (s->cancelled)
		return;
	copy_id(s->vm_id, "vm-", out_member(o, "vm_id"));
	copy_id(s->exec_id, "ex-", out_member(o, "exec_id"));
	if (streq(phase, "paused") || streq(phase, "resumed"))
		take_pause(s, streq(phase, "paused"), out_member(o, "detail"));
	else if (phase[0] && s->wait->on_phase)
		s->wait->on_phase(s, phase, o);
}

/* Takes a call's error. A command that the daemon does not know after a reconnection may have
 * run. */
static void take_failure(struct session *s, struct pyro_error *e)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	cli_take_error(e, &err);
	if (s->attached && err.code == ERROR_EXEC_NOT_FOUND)
		error_set(&s->failed, ERROR_OUTCOME_UNKNOWN,
			"pyrod ended at the same time and no longer knows it",
			s->wait->on_signal == SIGNAL_ENDS ? "pyro vm list" : "pyro workspace list",
			"command %s may have run, but its outcome is unknown", s->exec_id);
	else
		error_move(&s->failed, &err);
}

static void take_event(struct session *s, struct pyro_event *e)
{
	if (e->id != s->id) /* exec.signal's answer; it fails only if the command has just ended */
		return;
	if (e->progress) {
		take_progress(s, e->progress);
		return;
	}
	s->done = true;
	s->deadline = now_usec() + DRAIN_WAIT;
	if (e->error)
		take_failure(s, TAKE_PTR(e->error));
	else if (!s->undoing &&
		 cli_take_result(e->result, s->method, &s->result, &s->failed) >= 0 &&
		 s->cancelled && s->wait->undo)
		undo(s);
}

/* Handles a lost connection: reconnects to a running command, else ends. A command of a one-shot
 * machine is kept for live output alone. */
static void lose_daemon(struct session *s, struct pyro_error *lost)
{
	bool kept = s->relay || (s->wait->on_signal != SIGNAL_ENDS && !in_background(s));

	cli_take_error(lost, &s->failed);
	if (kept && s->exec_id[0] && !s->cancelled) {
		s->redialling = true;
		s->redial_by = now_usec() + deadline_usec(DEADLINE_REDIAL);
		return;
	}
	s->done = true;
	s->deadline = now_usec();
}

/* Handles all received events, so that phases are printed before the output that follows them. At
 * most MAX_EVENTS, so that a flood of events does not delay signals and deadlines. */
static void read_daemon(struct session *s)
{
	struct pyro_event e = { 0 };
	struct pyro_error *lost = NULL;
	int r = 1;

	for (int i = 0; i < MAX_EVENTS && r > 0 && !s->done; i++) {
		r = pyro_process(s->pyro, &e, &lost);
		if (r > 0) {
			take_event(s, &e);
			pyro_event_done(&e);
		} else if (r < 0) {
			lose_daemon(s, lost);
		}
	}
	s->more = r > 0 && !s->done;
}

static int64_t attach(struct session *s, struct pyro *pyro, struct error *err)
{
	_cleanup_json_ json_object *params = json_object_new_object();
	_cleanup_close_ int peer = -EBADF;
	uint64_t offset;
	int r = params ? json_add_str(params, "exec_id", s->exec_id) : -ENOMEM;

	if (r >= 0 && !s->relay)
		return send_call(pyro, "exec.wait", params, -EBADF, err);
	if (r >= 0)
		r = relay_renew(s->relay, &peer, err);
	if (r >= 0 && is_read_only(s))
		r = json_add_bool(params, "read_only", true);
	if (r >= 0 && relay_offset(s->relay, false, &offset))
		r = json_add_int(params, "stdout_offset", (int64_t)offset);
	if (r >= 0 && relay_offset(s->relay, true, &offset))
		r = json_add_int(params, "stderr_offset", (int64_t)offset);
	if (r >= 0)
		r = json_add_int(params, "stdio", 0);
	return r < 0 ? r : send_call(pyro, "exec.attach", params, peer, err);
}

/* Tries once to reconnect. The error reported at the end is the first one, the lost connection. */
static void redial(struct session *s)
{
	_cleanup_(pyro_freep) struct pyro *pyro = NULL;
	int64_t id = pyro_connect_again(s->pyro, &pyro, NULL);

	if (id >= 0)
		id = attach(s, pyro, NULL);
	if (id >= 0) {
		pyro_free(s->pyro);
		s->pyro = TAKE_PTR(pyro);
		s->id = id;
		s->redialling = false;
		s->attached = true;
		error_clear(&s->failed);
	} else if (now_usec() >= s->redial_by) {
		s->redialling = false;
		s->done = true;
		s->deadline = now_usec();
	}
}

/* The loop */

static bool finished(const struct session *s)
{
	return s->done && (!s->relay || relay_finished(s->relay));
}

/* Returns poll()'s timeout in ms. Output for a slow reader has no deadline after the answer. */
static int poll_timeout(const struct session *s)
{
	uint64_t now = now_usec(), until = s->deadline;

	if (s->more)
		return 0;
	if (s->redialling)
		return REDIAL_EVERY;
	if (s->done && !s->cancelled && s->relay && relay_ended(s->relay))
		return -1;
	if (s->paused != s->pause_reported)
		until = MIN_OF(until, s->pause_note_at);
	if (until == UINT64_MAX)
		return -1;
	return now >= until ? 0 : (int)((until - now) / USEC_PER_MSEC) + 1;
}

static int step(struct session *s, struct error *err)
{
	struct pollfd fds[N_POLLS] = { { .fd = s->signals, .events = POLLIN },
		{ .fd = s->done || s->redialling ? -1 : pyro_fd(s->pyro), .events = POLLIN } };
	int n;

	for (size_t i = POLL_RELAY; i < N_POLLS; i++)
		fds[i] = (struct pollfd){ .fd = -1 };
	if (s->relay)
		relay_poll(s->relay, fds + POLL_RELAY);
	n = poll(fds, N_POLLS, poll_timeout(s));
	if (n < 0 && errno != EINTR)
		return error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot wait for the daemon");
	if (n < 0)
		return 0;
	note_pause(s, false);
	if (fds[POLL_SIGNAL].revents)
		read_signals(s);
	if (s->detached)
		return 1; /* what has not been read from stdin, and its end, stay here */
	if (fds[POLL_DAEMON].revents || s->more)
		read_daemon(s);
	else if (s->redialling)
		redial(s);
	if (s->relay && relay_process(s->relay, fds + POLL_RELAY, &s->own) < 0) {
		error_internal(&s->own, NULL, "live output failed");
		cancel(s);
	}
	if (s->relay && relay_stdout_closed(s->relay))
		cancel(s);
	/* After a cancellation the deadline holds even while events still come. */
	return (n == 0 || s->cancelled) && now_usec() >= s->deadline ? 1 : 0;
}

/* Connects, makes the call and waits for its result. */
static int wait_for_it(struct session *s, struct error *err)
{
	int r = cli_connect(s->cli, &s->pyro, err);

	if (r >= 0)
		r = open_signals(s, err);
	if (r >= 0 && s->wait->first_phase)
		s->wait->on_phase(s, s->wait->first_phase, NULL);
	if (r >= 0)
		r = begin_call(s, err);
	while (r == 0 && !finished(s))
		r = step(s, err);
	if (r > 0 && !s->done && !s->cancelled)
		r = error_set(err, ERROR_DAEMON_UNREACHABLE, "the call was abandoned",
			"pyro doctor", "pyrod at %s did not answer within %d s",
			pyro_socket_path(s->pyro), s->wait->timeout_sec);
	out_progress_end(&s->progress);
	if (!s->paused)
		note_pause(s, true);
	return r;
}

/* The end */

/* Names the command that continues, and how to see the rest of it. */
static int leave_running(struct session *s)
{
	_cleanup_free_ char *fix = str_printf("pyro workspace exec-attach %s", s->exec_id);
	_cleanup_free_ char *aimed = fix ? cli_aim_fix(s->cli, fix) : NULL;
	bool well = s->wait->on_signal == SIGNAL_DETACHES_WELL;
	_cleanup_error_ struct error err = ERROR_INIT;

	session_end_line(s);
	if (s->cli->json && !well) {
		error_set(&err, ERROR_CANCELLED, "the command continues", aimed ? aimed : fix,
			"detached from command %s", s->exec_id);
		out_error(s->cli, &err);
	} else {
		fprintf(stderr, "pyro: detached from command %s, which continues\n  next: %s\n",
			s->exec_id, aimed ? aimed : "out of memory");
	}
	return well ? 0 : 128 + s->ended_by;
}

/* Ends a command after a signal or without a reader of stdout: prints no result, but reports a
 * deletion that was not confirmed. */
static int leave(struct session *s)
{
	bool unsure = !s->done || s->unsure || s->failed.code == ERROR_OUTCOME_UNKNOWN ||
		      (s->undoing && s->failed.set);

	if (s->detached)
		return leave_running(s);
	if (s->wait->unconfirmed && unsure)
		fprintf(stderr, "pyro: %s\n", s->wait->unconfirmed);
	if (s->cli->json) {
		error_cancelled(&s->failed, NULL, "the command was cancelled");
		out_error(s->cli, &s->failed);
	}
	return s->ended_by ? 128 + s->ended_by : EXIT_NO_STDOUT;
}

static int fail(struct session *s, struct error *why, struct error *err)
{
	session_end_line(s);
	error_move(err, why);
	return -error_code_errno(err->code);
}

/* Prints the result or its replacement. Signals are unblocked first, so that they work while a
 * reader is slow; but not if the result names a new machine. */
static int finish(struct session *s, struct error *err)
{
	int status = 0;

	if (s->signals >= 0 && !s->wait->undo &&
		sigprocmask(SIG_SETMASK, &s->blocked_before, NULL) < 0)
		return -errno;

	if (s->failed.set && s->wait->without)
		s->result = s->wait->without(s, &s->failed);
	if (s->failed.set && !s->result)
		return fail(s, &s->failed, err);
	if (s->wait->last_phase)
		s->wait->on_phase(s, s->wait->last_phase, NULL);
	if (s->cli->json && s->wait->to_json) {
		s->result = s->wait->to_json(s, s->result);
		if (!s->result)
			return s->own.set ? fail(s, &s->own, err) : -ENOMEM;
	}
	if (s->cli->json)
		out_json(s->result);
	else if (s->wait->print)
		s->wait->print(s, s->result);
	if (s->wait->conclude)
		status = s->wait->conclude(s, s->result);
	return s->own.set ? fail(s, &s->own, err) : status;
}

int session_ask(struct session *s, const char *method, json_object *params, json_object **ret)
{
	return cli_call(s->pyro, method, params, ret, &s->own);
}

/* Copies the parameters, as the verb sends them. */
static int prepare(struct session *s, struct error *err)
{
	if (json_object_deep_copy(s->line->params, &s->params, NULL) < 0)
		return -ENOMEM;
	if (s->wait->on_signal != SIGNAL_ENDS)
		copy_id(s->exec_id, "ex-", json_get_str(s->params, "exec_id", ""));
	return s->wait->prepare ? s->wait->prepare(s, s->params, err) : 0;
}

int session_run(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(session_done) struct session s = {
		.cli = cli,
		.line = line,
		.wait = line->verb->wait,
		.signals = -EBADF,
		.deadline = UINT64_MAX,
		.method = api_methods[line->verb->method].name,
		.progress = { .cli = cli,
			.environment = json_get_str(line->checked, "environment", "") },
	};
	int r;

	if (s.wait->live && cli->json && !in_background(&s) &&
		json_get_bool(line->checked, "interactive", false))
		return error_set(err, ERROR_USAGE,
			"--json prints the output at the end, -i passes it through at once",
			"leave out one of them", "-i and --json exclude each other");
	r = prepare(&s, err);
	if (r < 0)
		return r;
	r = wait_for_it(&s, &s.failed);
	if (r < 0)
		error_set_errno(&s.failed, error_code_for_errno(r), r, NULL, "the command failed");
	if (s.own.set)
		return fail(&s, &s.own, err);
	if (s.ended_by || (s.relay && relay_stdout_closed(s.relay)))
		return leave(&s);
	return finish(&s, err);
}
