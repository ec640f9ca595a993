/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The agent's event loop: epoll, deadlines by CLOCK_MONOTONIC, signals and children. Descriptors
 * are watched edge-triggered: the owner works until EAGAIN, or calls loop_again to continue in the
 * next iteration.
 */

#include "proto/base.h"
#include <sys/queue.h>
#include <sys/types.h>

struct loop;

/* Embedded in its owner; zero it, then loop_watch. */
struct source {
	void (*on_event)(struct source *s, uint32_t events);
	void *userdata; /* borrowed: the owner */
	int fd;         /* borrowed: the owner closes it after loop_unwatch */
	bool watched;
};

struct timer {
	TAILQ_ENTRY(timer) entry;
	void (*on_timer)(struct timer *t);
	void *userdata; /* borrowed: the owner */
	uint64_t when;  /* CLOCK_MONOTONIC, usec */
	bool armed;
};

/* A child to be reaped; status is that of waitpid. The loop drops it before the call. */
struct child {
	TAILQ_ENTRY(child) entry;
	void (*on_exit)(struct child *c, int status);
	void *userdata; /* borrowed: the owner */
	pid_t pid;      /* 0: not running */
};

/* Called in each iteration after all events; returns true to run the next one without waiting. */
typedef bool (*loop_step_fn)(void *userdata);
/* Called for a signal other than SIGCHLD. */
typedef void (*loop_signal_fn)(int signo, void *userdata);

int loop_new(struct loop **ret);
struct loop *loop_free(struct loop *l);
DEFINE_CLEANUP(struct loop *, loop_free)
#define _cleanup_loop_ _cleanup_(loop_freep)

void loop_set_step(struct loop *l, loop_step_fn fn, void *userdata);
/* Sets a function that is called after processes were reaped. */
void loop_set_reaped(struct loop *l, void (*fn)(void *userdata), void *userdata);
/* Blocks the signals that end or reboot a machine and delivers them here. */
int loop_take_signals(struct loop *l, loop_signal_fn fn, void *userdata);

int loop_watch(struct loop *l, struct source *s, int fd, uint32_t events);
void loop_unwatch(struct loop *l, struct source *s);
void loop_arm(struct loop *l, struct timer *t, uint64_t when);
void loop_disarm(struct loop *l, struct timer *t);
void loop_own_child(struct loop *l, struct child *c, pid_t pid);
void loop_disown_child(struct loop *l, struct child *c);
/* True while this process has children, adopted orphans included. */
bool loop_has_children(struct loop *l);
/* Makes the next iteration start without waiting. */
void loop_again(struct loop *l);

int loop_run(struct loop *l); /* until loop_stop */
void loop_stop(struct loop *l);
