/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands the agent holds: from START to EXIT_ACK, and after that as long as a process of
 * theirs lives. serve.c hands them what the host says and asks them for frames to send.
 */

#include "guest/loop.h"
#include "proto/agent.h"

struct exec;
struct execs;

struct execs_params {
	struct loop *loop;     /* borrowed */
	const char *workspace; /* borrowed: what a relative cwd is below */
	int cgroup_fd;         /* borrowed: the common node; -EBADF: process groups only */
};

int execs_new(const struct execs_params *p, struct execs **ret);
/* SIGKILL to every command's processes, as far as cgroups or process groups reach. */
void execs_kill_all(struct execs *xs);
/* Forgets all without ending any process. Takes NULL. */
struct execs *execs_free(struct execs *xs);

/* LOGIN: captures root's login environment ahead of the command that will want it; one that cannot be captured
 * is told by that command. */
int execs_login(struct execs *xs);
/* START: takes the contents of m over on success. Everything that goes wrong is told by STARTED;
 * -EBADMSG only for a channel that is not the host's to use. */
int execs_start(struct execs *xs, uint32_t channel, struct msg_start *m);
/* The others, for a channel. Unknown channels are no error: the host may not know yet that it
 * ended. */
int execs_kill(struct execs *xs, uint32_t channel, const struct msg_kill *m);
int execs_resume(struct execs *xs, uint32_t channel, const struct msg_resume *m);
int execs_exit_ack(struct execs *xs, uint32_t channel);
int execs_data(struct execs *xs, uint32_t channel, const struct frame_data *d);
int execs_ack(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit);
int execs_end(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t offset);

/* A new connection: nothing but STARTED and EXIT of resumed commands is sent until RESUME. */
void execs_reconnected(struct execs *xs);
/* What is held, for WELCOME; *ret is owned. */
int execs_held(struct execs *xs, struct msg_held **ret, uint32_t *ret_n);

/* Appends what is to be said next: control frames of all, in the connection's version of the protocol, or one DATA frame
 * (in turns). True if anything was. */
bool execs_send_control(struct execs *xs, uint16_t version, struct buf *out);
bool execs_send_data(struct execs *xs, struct buf *out);
/* Work left over from a turn (a background program that prints for ever); true when more is there.
 */
bool execs_turn(struct execs *xs);
