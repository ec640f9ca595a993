/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands of a machine that its owner keeps (a workspace): started once, running until their
 * own end also without callers, with a row and a transcript that are read until the machine is
 * deleted.
 * Callers come and go: each has a `struct listener` on one command.
 */

#include "daemon/machine/machine.h"
#include "proto/frame.h"
#include <json-c/json.h>

struct command;
struct commands;
struct listener;

#define COMMAND_STATES(X) \
	X(PREPARING, "preparing") /* its machine is being booted */ \
	X(RUNNING, "running") \
	X(EXITED, "exited") \
	X(LOST, "lost") /* its guest ended or forgot it: how it ended is not known */

enum command_state {
#define X(sym, name) COMMAND_##sym,
	COMMAND_STATES(X)
#undef X
		COMMAND_STATE_MAX
};
const char *command_state_name(enum command_state s);

struct command_params {
	const char *command; /* one shell line */
	const char *cwd, *user;
	const char *const *env; /* K=V, NULL-terminated */
	uint64_t timeout_usec;  /* 0 = none */
	bool with_stdin;        /* it has a pipe for its input; else /dev/null */
	const char *stdin_text; /* n_stdin bytes, copied, and the end of its input; NULL: none */
	size_t n_stdin;
};

/* The commands of a machine whose owner keeps them; made at the first call. NULL: out of memory. */
struct commands *commands_of(struct machine *mc);
/* on_state of such an owner, with deleted: ends the listeners with an error and frees it all. */
void commands_deleted(struct machine *mc);
/* on_pause of such an owner. */
void commands_on_pause(struct machine *mc);
/* adopt_exec of such an owner: adds a command of a previous daemon, running or ended. */
int commands_adopt(struct machine *mc, const struct exec_row *row);

/*
 * Starts a command: its row is committed first, then its machine is booted if it does not run, then
 * it starts. Failures after this call go to its listeners and its row. Fails with quota_exceeded if
 * too many commands run in the machine.
 */
int command_start(struct machine *mc, const struct command_params *p, struct command **ret,
	struct error *err);
/* The command is not started any more, unless it has been. */
void command_give_up(struct command *c);
/* Returns how many commands that uid may see (root: all) have this id or begin so; *ret: one of
 * them. */
unsigned commands_find(struct manager *m, const char *exec_id, uid_t uid, struct command **ret);

const char *command_id(const struct command *c);
struct machine *command_machine(const struct command *c);
enum command_state command_state(const struct command *c);

/* exec.signal: to the command's foreground process group. wrong_state unless it runs. */
int command_signal(struct command *c, int signo, struct error *err);
/* Results (fields of contract.md section 4). *ret is owned by the caller. */
int command_json(const struct command *c, json_object **ret); /* without output */
/* mc NULL: it is not made yet and has none. id: the workspace's. */
int commands_list_json(struct machine *mc, const char *id, json_object **ret);
/* Adds running[], command_count and last_command to a workspace's JSON. mc NULL: it has none. */
int commands_add_json(struct machine *mc, json_object *o);

struct listener_callbacks {
	/* "start", "execute", "paused", "resumed" and what a pull reports. May be NULL. */
	void (*on_progress)(struct listener *l, const char *phase, void *userdata);
	/* Called once and last, in a later iteration of the loop; the listener frees itself after
	 * it. result is owned by the callee; NULL: err is set. */
	void (*on_done)(
		struct listener *l, json_object *result, const struct error *err, void *userdata);
};

/*
 * exec.wait and a buffered workspace.exec: the result when the command is in the state or beyond
 * it, with its output if it has ended; or after wait_ms (negative: never), with its present state.
 * until: COMMAND_RUNNING or COMMAND_EXITED.
 */
int command_wait(struct command *c, enum command_state until, int64_t wait_ms,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err);

struct attach_params {
	int stdio_fd; /* owned on success */
	/* The caller has the bytes below; UINT64_MAX: none, and the rest is sent. */
	uint64_t have[STREAM_MAX];
	bool with_stdin; /* its input goes to the command; one caller at a time */
	/* It continues: it sends again what the guest has not accepted. Else its input follows what
	 * others have sent. */
	bool resumes;
	bool holds; /* no output that it does not have is dropped */
};
/* exec.attach and a live workspace.exec: the output by stdio_fd, then the result without it. */
int command_attach(struct command *c, const struct attach_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err);

struct read_params {
	unsigned streams;    /* mask */
	int64_t cursor;      /* negative: from the end */
	uint64_t since_usec; /* CLOCK_REALTIME; 0: any time */
	size_t max_chars;
	int64_t wait_ms; /* for output after the cursor, or the command's end */
	bool base64;
};
/* exec.read. */
int command_read(struct command *c, const struct read_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err);

struct write_params {
	const void *data; /* n bytes, copied; at most STREAM_WINDOW */
	size_t n;
	bool eof; /* its input ends after them */
};
/* exec.write: the result says how many bytes the guest has accepted within 10 s. wrong_state if it
 * takes no input now, or another caller's stdio is its input; no_space if it has not read what was
 * sent before. */
int command_write(struct command *c, const struct write_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err);

struct command *listener_command(const struct listener *l); /* for on_progress */
/* The caller has left: nothing is reported any more, and the command goes on. */
void listener_leave(struct listener *l);
/* The caller cancelled its call: a command that has not started never does, and one that runs is
 * killed if kill. on_done follows with `cancelled`. */
void listener_cancel(struct listener *l, bool kill);
