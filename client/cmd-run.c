/* SPDX-License-Identifier: MIT */
/*
 * `pyro run` and `pyro vm exec`: one command in a machine of its own, or in one there is, with live streams. One poll() loop over the signals,
 * the daemon's socket and the relay. Whatever ends it, the machine is asked to be deleted before we
 * leave: after a signal or when stdout is gone the call is cancelled and its answer awaited for
 * CANCEL_WAIT; should that not come, closing the connection lets the daemon delete it. The exit status is
 * the guest's; every failure of our own is 125 (contract.md section 1).
 */
#include "cmd.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "client/output.h"
#include "client/relay.h"
#include "proto/api.h"
#include "proto/deadline.h"
#include "proto/host.h"
#include "proto/json.h"

#define DRAIN_WAIT    (5 * USEC_PER_SEC) /* for the rest of the streams after the answer */
#define REDIAL_EVERY  50                 /* ms; there is no event for a socket that listens again */
#define MAX_EVENTS    64                 /* of the daemon, before signals are looked at again */
#define PAUSE_EVERY   (5 * USEC_PER_SEC)
#define SECOND_SIGNAL (2 * USEC_PER_SEC) /* two Ctrl-C within this end it */

enum { POLL_SIGNAL, POLL_DAEMON, POLL_RELAY, N_POLLS = POLL_RELAY + RELAY_POLLS };

struct runner {
	const struct cli *cli;
	const struct cmdline *line;
	const char *tag;     /* static: what its lines on stderr begin with */
	struct pyro *pyro;   /* owned */
	struct relay *relay; /* owned; NULL with --json */
	int signals;         /* owned */
	int64_t id;
	const char *environment; /* borrowed */
	char vm_id[API_ID_SIZE], exec_id[API_ID_SIZE];
	struct out_progress progress;
	bool executing;
	bool attached;      /* came back at least once */
	bool more;          /* events may be here that poll() does not tell of */
	bool redialling;    /* the daemon is gone, its machine is not */
	uint64_t redial_by; /* monotonic */
	bool done;
	json_object *result; /* owned */
	struct error failed; /* the answer, or what ended the connection */
	struct error own;    /* what failed on our side: stdin, stdout */
	int ended_by;        /* signal, 0 */
	uint64_t int_at;     /* when the last SIGINT went to the guest, 0 */
	uint64_t deadline;   /* monotonic; UINT64_MAX: none */
	bool cancelled;
	bool paused, pause_told; /* the machine stands still; a line says so */
	char *pause_detail;      /* owned or NULL */
	uint64_t pause_note_at;  /* monotonic: the next line about it */
};

static void runner_done(struct runner *r)
{
	out_progress_end(&r->progress);
	relay_free(r->relay);
	pyro_free(r->pyro);
	fd_close(r->signals);
	if (r->result)
		json_object_put(r->result);
	error_clear(&r->failed);
	error_clear(&r->own);
	free(r->pause_detail);
}

/* Sends the verb's call, with its live socket unless --json wants the output in the reply. */
static int start_call(struct runner *r, struct error *err)
{
	_cleanup_json_ json_object *params = NULL;
	_cleanup_close_ int peer = -EBADF;
	struct pyro_error *e = NULL;
	int q;

	if (json_object_deep_copy(r->line->params, &params, NULL) < 0)
		return -ENOMEM;
	if (!r->cli->json) {
		bool with_stdin = json_get_bool(params, "interactive", false);

		q = relay_new(with_stdin ? STDIN_FILENO : -EBADF, STDOUT_FILENO, STDERR_FILENO,
			&r->relay, &peer, err);
		if (q < 0)
			return q;
		q = json_add_int(params, "stdio", 0);
		if (q < 0)
			return q;
	}
	r->id = pyro_call_start(r->pyro, api_methods[r->line->verb->method].name,
		json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), &peer,
		peer >= 0 ? 1 : 0, &e);
	return r->id < 0 ? cli_take_error(e, err) : 0;
}

/* Ends the call; its machine goes. The answer is awaited until the deadline. */
static void cancel(struct runner *r)
{
	if (r->cancelled)
		return;
	r->cancelled = true;
	if (r->redialling) { /* nobody to be told: a daemon that comes deletes what nobody attaches to */
		r->redialling = false;
		r->done = true;
	}
	r->deadline = now_usec() + CANCEL_WAIT;
	if (r->relay)
		relay_discard(r->relay);
	/* When even this cannot be sent, the connection is lost, and pyro_process says so next. */
	if (!r->done && pyro_call_cancel(r->pyro, r->id) < 0)
		r->deadline = now_usec();
}

static int forward_interrupt(struct runner *r)
{
	_cleanup_json_ json_object *params = json_object_new_object();
	int64_t id;

	if (!params || json_add_str(params, "exec_id", r->exec_id) < 0 ||
		json_add_str(params, "signal_name", "INT") < 0)
		return -ENOMEM;
	id = pyro_call_start(r->pyro, "exec.signal",
		json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), NULL, 0, NULL);
	return id < 0 ? (int)id : 0;
}

static void take_signal(struct runner *r, int sig)
{
	uint64_t now = now_usec();
	bool second = r->int_at && now - r->int_at < SECOND_SIGNAL;

	if (sig == SIGINT && r->relay)
		relay_key_echoed(r->relay);
	if (r->cancelled && r->ended_by) {
		r->deadline = now; /* asked again: do not wait for the deletion */
		return;
	}
	if (sig == SIGINT && r->executing && !second && !r->done) {
		r->int_at = now;
		if (forward_interrupt(r) >= 0)
			return;
	}
	r->ended_by = sig;
	cancel(r);
}

static void read_signals(struct runner *r)
{
	struct signalfd_siginfo si;

	while (read(r->signals, &si, sizeof(si)) == (ssize_t)sizeof(si))
		take_signal(r, (int)si.ssi_signo);
}

/* True the first time this user meets emulation; a file in the state directory remembers. */
static bool first_emulation(void)
{
	_cleanup_free_ char *dir = NULL, *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	const char *home = getenv("HOME");

	if (!home || access(home, W_OK) < 0 || host_state_dir(false, &dir) < 0)
		return true;
	path = str_printf("%s/emulation-noted", dir);
	if (!path)
		return true;
	for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		(void)mkdir(path, 0700); /* when it fails, so does the open */
		*p = '/';
	}
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd >= 0;
}

/* Said when the CPU could do better, and the first time. */
static void note_emulation(const struct runner *r, const char *reason)
{
	struct host_kvm kvm;

	if (r->cli->quiet)
		return;
	if (!host_cpu_virtualization()) {
		if (first_emulation()) {
			fprintf(stderr, "[%s] note accelerator=emulation reason=\"", r->tag);
			out_text(stderr, reason);
			fputs("\" fix=\"use a host with hardware virtualization; emulation works, slower\"\n",
				stderr);
		}
		return;
	}
	host_kvm_probe(&kvm);
	fprintf(stderr, "[%s] note accelerator=emulation reason=\"", r->tag);
	out_text(stderr, reason);
	fprintf(stderr, "\" fix=\"%s\"\n",
		kvm.exists ? "pyro doctor" : "sudo modprobe -a kvm_intel kvm_amd");
}

/* Takes an id as it has to be, and nothing else: it is printed, and sent back. */
static void copy_id(char ret[API_ID_SIZE], const char *prefix, const char *id)
{
	size_t n = strlen(prefix);

	if (startswith(id, prefix) && strlen(id) < API_ID_SIZE &&
		id[n + strspn(id + n, "0123456789abcdef")] == '\0')
		memcpy(ret, id, strlen(id) + 1);
}

/* A line of ours begins at column 0 whatever the command wrote last. */
static void end_line(struct runner *r)
{
	if (r->relay && relay_end_line(r->relay))
		fputc('\n', stderr);
}

/* One that stops and goes on again and again makes a line each PAUSE_EVERY; the last of them is right. */
static void note_pause(struct runner *r, bool at_end)
{
	uint64_t now = now_usec();

	if (r->paused == r->pause_told || (!at_end && now < r->pause_note_at))
		return;
	r->pause_told = r->paused;
	r->pause_note_at = now + PAUSE_EVERY;
	if (r->cli->quiet)
		return;
	out_progress_end(&r->progress);
	end_line(r);
	fprintf(stderr, "pyro: %s: ", r->paused ? "paused" : "resumed");
	out_text(stderr, r->pause_detail);
	fputc('\n', stderr);
}

/* The machine stands still, or goes on. */
static void take_pause(struct runner *r, bool paused, const char *detail)
{
	free(r->pause_detail);
	r->pause_detail = strdup(detail);
	r->paused = paused;
	note_pause(r, false);
}

static void show_phase(struct runner *r, json_object *o)
{
	const char *phase = out_member(o, "phase"), *reason = out_member(o, "accelerator_reason");
	json_object *percent = json_get(o, "percent");

	copy_id(r->vm_id, "vm-", out_member(o, "vm_id"));
	copy_id(r->exec_id, "ex-", out_member(o, "exec_id"));
	if (streq(phase, "create") || streq(phase, "start") || streq(phase, "execute")) {
		out_progress_end(&r->progress);
		if (streq(r->progress.phase, phase))
			return;
		(void)snprintf(r->progress.phase, sizeof(r->progress.phase), "%s", phase);
	}
	if (streq(phase, "create")) {
		if (r->cli->quiet)
			return;
		fprintf(stderr, "[%s] phase=create environment=", r->tag);
		out_text(stderr, r->environment);
		fputc('\n', stderr);
	} else if (streq(phase, "start")) {
		if (streq(out_member(o, "accelerator"), "emulation") && reason[0])
			note_emulation(r, reason);
		out_note(r->cli, "[%s] phase=start vm_id=%s", r->tag, r->vm_id);
	} else if (streq(phase, "execute")) {
		out_note(r->cli, "[%s] phase=execute vm_id=%s", r->tag, r->vm_id);
		r->executing = r->exec_id[0];
	} else if (streq(phase, "paused") || streq(phase, "resumed")) {
		take_pause(r, streq(phase, "paused"), out_member(o, "detail"));
	} else if (phase[0]) {
		out_pull_phase(&r->progress, phase,
			json_object_is_type(percent, json_type_int) ? json_object_get_int(percent)
								    : -1);
	}
}

/* A command that the daemon we came back to does not know any more may well have ended. */
static void take_failure(struct runner *r, struct pyro_error *e)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	cli_take_error(e, &err);
	if (r->attached && err.code == ERROR_EXEC_NOT_FOUND)
		error_set(&r->failed, ERROR_OUTCOME_UNKNOWN,
			"pyrod ended at the same time and does not know it any more",
			"pyro vm list", "command %s may have been carried out or not", r->exec_id);
	else
		error_move(&r->failed, &err);
}

static void take_event(struct runner *r, struct pyro_event *e)
{
	_cleanup_json_ json_object *o = NULL;

	if (e->id != r->id) /* exec.signal's answer: had it failed, the command has just ended */
		return;
	if (e->progress) {
		o = json_tokener_parse(e->progress);
		if (o && !r->cancelled)
			show_phase(r, o);
		return;
	}
	r->done = true;
	r->deadline = now_usec() + DRAIN_WAIT;
	if (e->error) {
		take_failure(r, TAKE_PTR(e->error));
		return;
	}
	r->result = json_tokener_parse(e->result);
	if (!json_object_is_type(r->result, json_type_object))
		error_set(&r->failed, ERROR_INTERNAL, "client and daemon do not fit",
			"pyro --version", "the daemon's result cannot be read");
}

/* The connection is lost: a command that runs, and whose output comes by offset, is gone back to. */
static void lose_daemon(struct runner *r, struct pyro_error *lost)
{
	cli_take_error(lost, &r->failed);
	if (r->relay && r->exec_id[0] && !r->cancelled) {
		r->redialling = true;
		r->redial_by = now_usec() + deadline_usec(DEADLINE_REDIAL);
		return;
	}
	r->done = true;
	r->deadline = now_usec();
}

static int attach(struct runner *r, struct pyro *pyro, struct error *err)
{
	_cleanup_json_ json_object *params = json_object_new_object();
	_cleanup_close_ int peer = -EBADF;
	struct pyro_error *e = NULL;
	int q = params ? relay_renew(r->relay, &peer, err) : -ENOMEM;

	if (q >= 0)
		q = json_add_str(params, "exec_id", r->exec_id);
	if (q >= 0)
		q = json_add_int(params, "stdout_offset", (int64_t)relay_offset(r->relay, false));
	if (q >= 0)
		q = json_add_int(params, "stderr_offset", (int64_t)relay_offset(r->relay, true));
	if (q >= 0)
		q = json_add_int(params, "stdio", 0);
	if (q < 0)
		return q;
	r->id = pyro_call_start(pyro, "exec.attach",
		json_object_to_json_string_ext(params, JSON_C_TO_STRING_PLAIN), &peer, 1, &e);
	return r->id < 0 ? cli_take_error(e, err) : 0;
}

/* Tries once. The first failure, that the daemon was lost, is what is told in the end. */
static void redial(struct runner *r)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_(pyro_freep) struct pyro *pyro = NULL;

	if (cli_connect_again(r->pyro, &pyro, &err) >= 0 && attach(r, pyro, &err) >= 0) {
		pyro_free(r->pyro);
		r->pyro = TAKE_PTR(pyro);
		r->redialling = false;
		r->attached = true;
		error_clear(&r->failed);
		return;
	}
	if (now_usec() < r->redial_by)
		return;
	r->redialling = false;
	r->done = true;
	r->deadline = now_usec();
}

/* All events that are here, so that phases are told before the output that follows them; but no more than
 * MAX_EVENTS, for a daemon that never stops talking is no reason not to see a signal or the clock. */
static void read_daemon(struct runner *r)
{
	struct pyro_event e = { 0 };
	struct pyro_error *lost = NULL;
	int q = 1;

	for (int i = 0; i < MAX_EVENTS && q > 0 && !r->done; i++) {
		q = pyro_process(r->pyro, &e, &lost);
		if (q > 0) {
			take_event(r, &e);
			pyro_event_done(&e);
		} else if (q < 0) {
			lose_daemon(r, lost);
		}
	}
	r->more = q > 0 && !r->done;
}

static bool finished(const struct runner *r)
{
	return r->done && (!r->relay || relay_finished(r->relay));
}

/* Time to wait in poll(); output that waits for a slow reader after the answer has no deadline. */
static int poll_timeout(const struct runner *r)
{
	if (r->more)
		return 0;
	if (r->redialling)
		return REDIAL_EVERY;
	if (r->done && !r->cancelled && r->relay && relay_ended(r->relay))
		return -1;
	return cli_poll_timeout(
		r->paused != r->pause_told ? MIN_OF(r->pause_note_at, r->deadline) : r->deadline);
}

static int step(struct runner *r, struct error *err)
{
	struct pollfd fds[N_POLLS];
	int n = poll_timeout(r);

	fds[POLL_SIGNAL] = (struct pollfd){ .fd = r->signals, .events = POLLIN };
	fds[POLL_DAEMON] = (struct pollfd){ .fd = r->done || r->redialling ? -1 : pyro_fd(r->pyro),
		.events = POLLIN };
	for (size_t i = POLL_RELAY; i < N_POLLS; i++)
		fds[i] = (struct pollfd){ .fd = -1 };
	if (r->relay)
		relay_poll(r->relay, fds + POLL_RELAY);
	n = poll(fds, N_POLLS, n);
	if (n < 0 && errno != EINTR)
		return error_set_errno(
			err, ERROR_INTERNAL, -errno, NULL, "cannot wait for the daemon");
	if (n < 0)
		return 0;
	note_pause(r, false);
	if (fds[POLL_SIGNAL].revents)
		read_signals(r);
	if (fds[POLL_DAEMON].revents || r->more)
		read_daemon(r);
	else if (r->redialling)
		redial(r);
	if (r->relay && relay_process(r->relay, fds + POLL_RELAY, &r->own) < 0) {
		error_internal(&r->own, NULL, "live output failed");
		cancel(r);
	}
	if (r->relay && relay_stdout_gone(r->relay))
		cancel(r);
	/* Once cancelled nobody wants what still comes, however much it is. */
	return (n == 0 || r->cancelled) && now_usec() >= r->deadline ? 1 : 0;
}

/* The limit that ended the command, or a process of it, and what gives more; true when it was told. */
static bool tell_limit(const struct runner *r, bool show)
{
	json_object *limit = json_get(r->result, "limit");
	const char *name = limit ? out_member(limit, "name") : "";
	const char *flag = limit ? out_member(limit, "flag") : "";
	/* Flags of a machine belong to what makes one. */
	const char *verb = r->line->verb->noun && flag[0] ? "pyro vm create " : "";
	const char *unit = " MiB", *what;

	if (streq(name, "mem_mib")) {
		what = "out of memory";
	} else if (streq(name, "disk_mib")) {
		what = "its disk is full";
	} else if (streq(name, "pids")) {
		what = "too many processes";
		unit = "";
	} else {
		return false;
	}
	if (!show)
		return true;
	fprintf(stderr, "%s: %s (limit %" PRId64 "%s; %s",
		out_member(r->result, "ended_by")[0] ? "command ended"
						     : "a process of the command was killed",
		what, out_int(limit, "value", 0), unit, verb);
	out_text(stderr, flag[0] ? flag : "nothing more can be had here");
	fputs(")\n", stderr);
	return true;
}

static void tell_timeout(const struct runner *r)
{
	json_object *limit = json_get(r->result, "limit");
	const char *flag = limit ? out_member(limit, "flag") : "";

	fprintf(stderr, "command timed out after %" PRId64 "s",
		json_get_int(r->line->checked, "timeout_seconds", 0));
	if (!json_get(r->line->params, "timeout_seconds") && flag[0]) {
		fputs(" (the default; ", stderr);
		out_text(stderr, flag);
		fputc(')', stderr);
	}
	fputc('\n', stderr);
}

static int finish_result(struct runner *r)
{
	int64_t code = out_int(r->result, "exit_code", -1);
	int status = code < 0 || code > UINT8_MAX ? EXIT_PYRO : (int)code; /* no other is one */
	bool timed_out = json_object_get_boolean(json_get(r->result, "timed_out"));

	if (timed_out || tell_limit(r, false) || !r->cli->quiet)
		end_line(r);
	if (timed_out)
		tell_timeout(r);
	else
		(void)tell_limit(r, true);
	if (r->cli->json)
		out_json(r->result);
	if (r->cli->quiet)
		return status;
	fprintf(stderr, "[%s] %s=", r->tag, r->line->verb->noun ? "vm_id" : "environment");
	out_text(stderr, out_member(r->result, r->line->verb->noun ? "vm_id" : "environment"));
	fputs(" execution_mode=", stderr);
	out_text(stderr, out_member(r->result, "execution_mode"));
	fprintf(stderr, " exit_code=%d duration_ms=%" PRId64, status,
		json_object_get_int64(json_get(r->result, "duration_ms")));
	/* Of `vm exec`: its machine had been there before, and is deleted with the command. */
	if (r->line->verb->noun)
		fprintf(stderr, " deleted=%s",
			json_object_get_boolean(json_get(out_sub(r->result, "cleanup"), "deleted"))
				? "true"
				: "false");
	fputc('\n', stderr);
	return status;
}

static int finish(struct runner *r, struct error *err)
{
	out_progress_end(&r->progress);
	if (!r->paused)
		note_pause(r, true);
	if (r->own.set) {
		end_line(r);
		error_move(err, &r->own);
		return -error_code_errno(err->code);
	}
	if (r->ended_by || (r->relay && relay_stdout_gone(r->relay))) {
		if (!r->done)
			fprintf(stderr,
				"pyro: the machine's deletion was not confirmed; pyrod deletes it within 10 s\n");
		if (r->cli->json && r->failed.set)
			out_error(r->cli, &r->failed);
		if (!r->ended_by)
			return EXIT_NO_STDOUT;
		return 128 + r->ended_by;
	}
	if (!r->failed.set)
		return finish_result(r);
	end_line(r);
	error_move(err, &r->failed);
	return -error_code_errno(err->code);
}

int cmd_run(const struct cli *cli, const struct cmdline *line, struct error *err)
{
	_cleanup_(runner_done) struct runner r = {
		.cli = cli,
		.line = line,
		.tag = line->verb->noun ? "vm-exec" : "run",
		.signals = -EBADF,
		.deadline = UINT64_MAX,
		.environment = json_get_str(line->checked, "environment", ""),
	};
	int q;

	r.progress =
		(struct out_progress){ .cli = cli, .verb = r.tag, .environment = r.environment };
	if (cli->json && json_get_bool(line->checked, "interactive", false))
		return error_set(err, ERROR_USAGE,
			"--json gives the output at the end, -i passes it on as it comes",
			"leave out one of them", "-i and --json exclude each other");
	q = cli_connect(cli, &r.pyro, err);
	if (q < 0)
		return q;
	r.signals = cli_open_signals(err);
	if (r.signals < 0)
		return r.signals;
	q = start_call(&r, err);
	while (q == 0 && !finished(&r))
		q = step(&r, err);
	return q < 0 ? q : finish(&r, err);
}
