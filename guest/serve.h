/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The guest's end of the agent stream: finds SYNC, answers HELLO, hands messages on and writes what
 * the commands have to say. It knows nothing of mounts or of being PID 1; that comes through the
 * hooks.
 */

#include "guest/loop.h"
#include "proto/agent.h"

struct serve;

struct serve_hooks {
	/* Makes the machine itself. Called again with the same message when the host repeats it.
	 * *ret_cgroup_fd (borrowed, -EBADF: none) is where commands go; *ret_what is owned. */
	int (*setup)(
		const struct msg_setup *m, int *ret_cgroup_fd, char **ret_what, void *userdata);
	/* After setup has been answered, before any command: the rest, which may not fail. */
	void (*finish)(void *userdata);      /* or NULL */
	void (*on_shutdown)(void *userdata); /* the host said SHUTDOWN */
	void (*on_bye_sent)(void *userdata); /* the last byte of BYE has left */
	/* The host is gone (a port's may come back); r < 0: it broke the protocol. May come
	 * repeatedly. */
	void (*on_hangup)(int r, void *userdata);
};

struct serve_params {
	struct loop *loop;               /* borrowed */
	int fd;                          /* taken over on success; non-blocking */
	const char *workspace;           /* borrowed */
	uint16_t version_max;            /* the newest protocol it offers; 0: the newest there is */
	const struct serve_hooks *hooks; /* borrowed */
	void *userdata;                  /* borrowed */
};

int serve_new(const struct serve_params *p, struct serve **ret);
struct serve *serve_free(struct serve *s);
/* Ends all commands, for an agent that is not alone in its system. */
void serve_kill_commands(struct serve *s);
/* Says BYE, now or as soon as a host has said HELLO. */
void serve_bye(struct serve *s, enum bye_reason reason, const char *what);
