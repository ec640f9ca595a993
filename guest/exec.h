/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The commands of the agent, kept from START to EXIT_ACK and then as long as a process of theirs
 * runs. serve.c passes them the host's messages and requests frames to send.
 */

#include "guest/loop.h"
#include "proto/agent.h"

struct exec;
struct execs;

struct execs_params {
	struct loop *loop;     /* borrowed */
	const char *workspace; /* borrowed: base of a relative cwd */
	int cgroup_fd;         /* borrowed: the common node; -EBADF: process groups only */
};

int execs_new(const struct execs_params *p, struct execs **ret);
/* Sends SIGKILL to the processes of every command, as far as cgroups or process groups reach. */
void execs_kill_all(struct execs *xs);
/* Frees all without ending any process. Accepts NULL. */
struct execs *execs_free(struct execs *xs);

/* LOGIN: captures root's login environment before a command needs it; the command reports a
 * failure. */
int execs_login(struct execs *xs);
/* START: owns the contents of m on success. STARTED reports every failure; -EBADMSG only for an
 * invalid channel. */
int execs_start(struct execs *xs, uint32_t channel, struct msg_start *m);
/* Other messages for a channel. An unknown channel is not an error: the command may have just
 * ended. */
int execs_kill(struct execs *xs, uint32_t channel, const struct msg_kill *m);
int execs_resume(struct execs *xs, uint32_t channel, const struct msg_resume *m);
int execs_exit_ack(struct execs *xs, uint32_t channel);
int execs_data(struct execs *xs, uint32_t channel, const struct frame_data *d);
int execs_ack(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit);
int execs_end(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t offset);

/* Call for a new connection: a command sends nothing on it until RESUME. */
void execs_reconnected(struct execs *xs);
/* Lists the commands for WELCOME; *ret is owned. */
int execs_held(struct execs *xs, struct msg_held **ret, uint32_t *ret_n);

/* Append the control frames of all commands, in the connection's version of the protocol, or one
 * DATA frame of the next command. Return true if any was appended. */
bool execs_send_control(struct execs *xs, uint16_t version, struct buf *out);
bool execs_send_data(struct execs *xs, struct buf *out);
/* Does bounded background work (discards output after the end of a command); true if there is
 * more. */
bool execs_step(struct execs *xs);
