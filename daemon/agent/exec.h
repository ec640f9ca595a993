/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One command in a guest: its streams by absolute offset, its end, and what has to be said again after
 * a reconnection.
 */

#include "daemon/agent/link.h"
#include <sys/queue.h>

struct exec;

struct exec_callbacks {
	void (*on_started)(struct exec *x, void *userdata);
	/* Bytes in order, without gap or repetition, never beyond the limit that was set. */
	int (*on_output)(struct exec *x, uint8_t stream, const void *p, size_t n, void *userdata);
	void (*on_stdin_ack)(struct exec *x, uint64_t upto, void *userdata);
	/* The agent has answered and holds it: it can be taken. Comes with each connection. */
	void (*on_held)(struct exec *x, void *userdata);
	/* Once, after the last byte of output. Or on_failed, once. Neither may free the exec. */
	void (*on_exit)(struct exec *x, const struct msg_exit *e, void *userdata);
	void (*on_failed)(struct exec *x, const struct error *err, void *userdata);
};

/* start is copied; its exec_id is made here and its limits are set by exec_set_limit. */
int exec_new(sd_event *event, const struct msg_start *start, const struct exec_callbacks *cb,
	void *userdata, struct exec **ret);
/*
 * A command that a previous daemon started, by its row: before exec_take nothing of its output flows and its end is
 * not reported. link as of exec_start.
 */
int exec_adopt(sd_event *event, const struct msg_start *start, uint32_t channel, struct link *link,
	const struct exec_callbacks *cb, void *userdata, struct exec **ret);
bool exec_is_adopted(const struct exec *x); /* and not taken yet */
/* Whether it can be taken now; else on_held comes, or its end. */
bool exec_within_reach(const struct exec *x);
/* A caller has the output below have[stream]: -ERANGE when the agent does not have what follows any more, or never
 * had it. Only within reach. */
int exec_has(const struct exec *x, const uint64_t have[STREAM_MAX]);
/*
 * The caller wants the rest, which exec_has: on_output goes on from there. That may lie before what was received
 * already, as long as nobody has acknowledged it. The caller's input goes on from exec_stdin_accepted.
 */
void exec_take(struct exec *x, const uint64_t have[STREAM_MAX]);
uint64_t exec_timeout_usec(const struct exec *x);
/* How much of its stdin the guest has: where a new caller goes on. */
uint64_t exec_stdin_accepted(const struct exec *x);
struct exec *exec_free(struct exec *x);
DEFINE_CLEANUP(struct exec *, exec_free)

const char *exec_id(const struct exec *x);
uint32_t exec_channel(const struct exec *x);
bool exec_is_over(const struct exec *x);

/* Sends START over the link (borrowed until the exec is over or freed). */
int exec_start(struct exec *x, struct link *link, uint32_t channel);

/* How far the taker of a stream has got (upto) and how far the guest may send (limit): absolute. */
void exec_set_limit(struct exec *x, uint8_t stream, uint64_t upto, uint64_t limit);

/* Appends to stdin what no earlier caller has sent; -ENOBUFS beyond STREAM_WINDOW bytes that the guest has not taken. */
int exec_stdin(struct exec *x, const void *p, size_t n);
void exec_stdin_end(struct exec *x);

/* Asks for a signal to the foreground group, once the guest can be reached; of several until then the last, or
 * SIGKILL. -ESRCH when the command is not running. */
int exec_kill(struct exec *x, int signo);

/* How it ended, as its agent told; NULL when that is too old to tell. */
const struct agent_ended *exec_ended(const struct exec *x);
/* exec_kill was asked for SIGKILL. */
bool exec_was_killed(const struct exec *x);

/* The guest stands still, or goes on: its deadlines wait meanwhile. */
void exec_hold(struct exec *x, bool still);

/* The machine under it is gone. */
void exec_fail(struct exec *x, const struct error *err);

/* From the link's owner: a frame of its channel; the agent's holdings after WELCOME; bulk data. */
int exec_on_frame(struct exec *x, const struct frame *f);
int exec_on_welcome(struct exec *x, const struct msg_welcome *w);
void exec_fill(struct exec *x, struct buf *out);

LIST_HEAD(exec_list, exec);
void exec_list_insert(struct exec_list *list, struct exec *x);
void exec_list_remove(struct exec *x);
struct exec *exec_list_next(const struct exec *x);
struct exec *exec_list_find(const struct exec_list *list, uint32_t channel);
