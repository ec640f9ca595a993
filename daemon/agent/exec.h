/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The link to one command in a guest: its streams by absolute offset, its exit, and the messages to
 * repeat after a reconnection.
 */

#include "daemon/agent/link.h"
#include <sys/queue.h>

struct exec;

struct exec_callbacks {
	void (*on_started)(struct exec *x, void *userdata);
	/* Bytes in order, without gap or repetition, never beyond the limit of exec_set_limit. */
	int (*on_output)(struct exec *x, uint8_t stream, const void *p, size_t n, void *userdata);
	void (*on_stdin_ack)(struct exec *x, uint64_t upto, void *userdata);
	/* The agent has answered and holds the command, so it can be taken. Called for each
	 * connection. */
	void (*on_held)(struct exec *x, void *userdata);
	/* Either on_exit or on_failed is called, once; on_exit after the last byte of output.
	 * Neither may free the exec. EXIT is acknowledged before on_exit, or by
	 * exec_acknowledge after exec_keep_exit. */
	void (*on_exit)(struct exec *x, const struct msg_exit *e, void *userdata);
	void (*on_failed)(struct exec *x, const struct error *err, void *userdata);
};

/* Copies start. Its exec_id is made here; its limits come from exec_set_limit. */
int exec_new(sd_event *event, const struct msg_start *start, const struct exec_callbacks *cb,
	void *userdata, struct exec **ret);
/*
 * Makes the exec of a command that a previous daemon started, from its row. Until exec_take no
 * output flows and no exit is reported. link: as in exec_start.
 */
int exec_adopt(sd_event *event, const struct msg_start *start, uint32_t channel, struct link *link,
	const struct exec_callbacks *cb, void *userdata, struct exec **ret);
bool exec_is_adopted(const struct exec *x); /* adopted, exec_take not called yet */
/* True when the command can be taken now. Otherwise on_held or its end follows. */
bool exec_within_reach(const struct exec *x);
/* The first output of the stream that the agent can send. Only valid when exec_within_reach. */
uint64_t exec_earliest(const struct exec *x, uint8_t stream);
/* Checks whether the agent can go on from have[stream], the output that the caller has. -ERANGE:
 * the agent has dropped what follows, or never had it. Only valid when exec_within_reach. */
int exec_has(const struct exec *x, const uint64_t have[STREAM_MAX]);
/*
 * Continues on_output from have[], which exec_has accepted. The offset may lie below what was
 * already received, as long as it is not acknowledged. The caller's input continues from
 * exec_stdin_accepted.
 */
void exec_take(struct exec *x, const uint64_t have[STREAM_MAX]);
uint64_t exec_timeout_usec(const struct exec *x);
/* Bytes of stdin that the guest has accepted: a new caller continues there. */
uint64_t exec_stdin_accepted(const struct exec *x);
/* The agent keeps the command's end until exec_acknowledge, which follows the commit of its row: a
 * later daemon would learn it again. Call before the command can end. */
void exec_keep_exit(struct exec *x);
void exec_acknowledge(struct exec *x);
bool exec_is_kept(const struct exec *x); /* on_exit was called, exec_acknowledge was not */
struct exec *exec_free(struct exec *x);
DEFINE_CLEANUP(struct exec *, exec_free)

const char *exec_id(const struct exec *x);
uint32_t exec_channel(const struct exec *x);
bool exec_has_ended(const struct exec *x);

/* Sends START over the link (borrowed until the exec is over or freed). */
int exec_start(struct exec *x, struct link *link, uint32_t channel);

/* Sets how far the reader of a stream has got (upto) and how far the guest may send (limit). Both
 * are absolute offsets. */
void exec_set_limit(struct exec *x, uint8_t stream, uint64_t upto, uint64_t limit);

/* Appends to stdin, skipping what an earlier caller has already sent. -ENOBUFS beyond STREAM_WINDOW
 * bytes that the guest has not accepted. */
int exec_stdin(struct exec *x, const void *p, size_t n);
/* The whole input as a text, which is copied and sent as the guest accepts it; then it ends. */
int exec_stdin_text(struct exec *x, const void *p, size_t n);
void exec_stdin_end(struct exec *x);
bool exec_stdin_ended(const struct exec *x);  /* or its rest is a text */
size_t exec_stdin_room(const struct exec *x); /* bytes that exec_stdin takes now */
/* The input of another caller follows: at the returned offset. again: it sends again what the guest
 * has not accepted, else it is new. */
uint64_t exec_stdin_begin(struct exec *x, bool again);

/* Sends a signal to the foreground group, once the guest can be reached. Of several signals
 * requested before that, SIGKILL or else the last one is sent. -ESRCH when the command is not
 * running. */
int exec_kill(struct exec *x, int signo);

/* How the command ended, as reported by the agent; NULL when the agent is too old to report it. */
const struct agent_ended *exec_ended(const struct exec *x);
/* True when exec_kill was called with SIGKILL. */
bool exec_was_killed(const struct exec *x);

/* The guest is paused (still) or resumed. Deadlines do not run while it is paused. */
void exec_hold(struct exec *x, bool still);

/* Ends the exec with an error, because its machine has failed or exited. */
void exec_fail(struct exec *x, const struct error *err);

/* Called by the link's owner: for a frame of this channel, for the agent's list after WELCOME, and
 * to append bulk data. */
int exec_on_frame(struct exec *x, const struct frame *f);
int exec_on_welcome(struct exec *x, const struct msg_welcome *w);
void exec_fill(struct exec *x, struct buf *out);

LIST_HEAD(exec_list, exec);
void exec_list_insert(struct exec_list *list, struct exec *x);
void exec_list_remove(struct exec *x);
struct exec *exec_list_next(const struct exec *x);
struct exec *exec_list_find(const struct exec_list *list, uint32_t channel);
