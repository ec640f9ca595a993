/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Our end of a live-stdio socket: frames from and to the daemon on one side, the caller's stdin, stdout and
 * stderr on the other. Driven by somebody's poll().
 */

#include "proto/base.h"
#include "proto/error.h"

#include <poll.h>

#define RELAY_POLLS 4

struct relay;

/*
 * Makes the socketpair. *ret_peer (owned by the caller) is the daemon's end; close it once it is sent. Frames
 * with the first limits are queued. in_fd, out_fd and err_fd are borrowed and their flags never changed;
 * in_fd -EBADF: no stdin.
 */
int relay_new(
	int in_fd, int out_fd, int err_fd, struct relay **ret, int *ret_peer, struct error *err);
/*
 * The daemon's end is lost: another socketpair takes its place. What was not read of the old one is thrown
 * away, since whoever is at the other end of the new one sends it again from relay_offset on; stdin goes on
 * from where his first ACK says.
 */
int relay_renew(struct relay *r, int *ret_peer, struct error *err);
/* How many bytes of stdout and stderr are here. */
uint64_t relay_offset(const struct relay *r, bool of_stderr);
struct relay *relay_free(struct relay *r);
DEFINE_CLEANUP(struct relay *, relay_free)

/* Fills RELAY_POLLS entries; unused ones have fd -1. */
void relay_poll(const struct relay *r, struct pollfd fds[RELAY_POLLS]);

/* Moves what can be moved without waiting. Fails when the daemon breaks the rules, when stdin cannot be read or
 * stdout not be written; the relay then only throws away what still comes. */
int relay_process(struct relay *r, const struct pollfd fds[RELAY_POLLS], struct error *err);

/* Nobody reads stdout any more (EPIPE). */
bool relay_stdout_gone(const struct relay *r);
/* Everything that will come has come, and is written. */
bool relay_finished(const struct relay *r);
/* The daemon's end is closed, or both streams have ended. */
bool relay_ended(const struct relay *r);
/* True if the cursor of the terminal or file that stderr is stands behind the beginning of a line, which the caller then ends. */
bool relay_end_line(struct relay *r);
/* Ctrl-C came: a terminal has shown ^C in the middle of a line of its own accord. */
void relay_key_echoed(struct relay *r);
/* From now on output is thrown away (and acknowledged), and stdin is no longer read. */
void relay_discard(struct relay *r);
