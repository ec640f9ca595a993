/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The guest's end of the agent stream: finds SYNC, answers HELLO, passes messages on and writes the
 * commands' frames. It does not depend on mounts or on being PID 1; the hooks do that.
 */

#include "guest/loop.h"
#include "proto/agent.h"

struct serve;

struct serve_hooks {
	/* Sets up the machine. Called again with the same message if the host repeats it.
	 * *ret_cgroup_fd (borrowed; -EBADF: none) is the commands' cgroup; *ret_what is owned. */
	int (*setup)(
		const struct msg_setup *m, int *ret_cgroup_fd, char **ret_what, void *userdata);
	/* Does the rest, which cannot fail, after setup was answered and before any command. */
	void (*finish)(void *userdata);      /* or NULL */
	void (*on_shutdown)(void *userdata); /* SHUTDOWN was received */
	void (*on_bye_sent)(void *userdata); /* the last byte of BYE was written */
	/* The host has disconnected (on a port it may reconnect); r < 0: protocol error. May be
	 * called repeatedly. */
	void (*on_hangup)(int r, void *userdata);
};

struct serve_params {
	struct loop *loop;               /* borrowed */
	int fd;                          /* owned on success; non-blocking */
	const char *workspace;           /* borrowed */
	uint16_t version_max;            /* the newest protocol it offers; 0: the newest there is */
	const struct serve_hooks *hooks; /* borrowed */
	void *userdata;                  /* borrowed */
};

int serve_new(const struct serve_params *p, struct serve **ret);
struct serve *serve_free(struct serve *s);
/* Kills all commands, for an agent that is not PID 1. */
void serve_kill_commands(struct serve *s);
/* Sends BYE, now or as soon as a host has sent HELLO. */
void serve_bye(struct serve *s, enum bye_reason reason, const char *what);
