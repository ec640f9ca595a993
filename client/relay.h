/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The client's end of a live-stdio socket: frames from and to the daemon on one side, the caller's
 * stdin, stdout and stderr on the other. Driven by the caller's poll().
 */

#include "proto/base.h"
#include "proto/error.h"

#include <poll.h>

#define RELAY_POLLS 4

struct relay;

/*
 * Makes the socketpair and queues frames with the first limits. *ret_peer (owned by the caller) is
 * the daemon's end; close it once it is sent. in_fd, out_fd and err_fd are borrowed, and their
 * flags never change; in_fd -EBADF: no stdin.
 */
int relay_new(
	int in_fd, int out_fd, int err_fd, struct relay **ret, int *ret_peer, struct error *err);
/*
 * Makes another socketpair after the daemon's end was lost. Unread bytes of the old one are
 * dropped, because the new peer sends them again from relay_offset() on. stdin resumes at the
 * offset of the new peer's first ACK.
 */
int relay_renew(struct relay *r, int *ret_peer, struct error *err);
/* For a peer whose streams begin at any offset, as those of exec.attach: each stream begins with
 * the offset of its first frame. */
void relay_accept_offsets(struct relay *r);
/* Writes how far stdout or stderr has been received. False while that is unknown. */
bool relay_offset(const struct relay *r, bool of_stderr, uint64_t *ret);
struct relay *relay_free(struct relay *r);
DEFINE_CLEANUP(struct relay *, relay_free)

/* Fills RELAY_POLLS entries; unused ones have fd -1. */
void relay_poll(const struct relay *r, struct pollfd fds[RELAY_POLLS]);

/* Moves bytes without waiting. Fails when the daemon breaks the protocol, stdin cannot be read or
 * stdout cannot be written; the relay then drops all further output. */
int relay_process(struct relay *r, const struct pollfd fds[RELAY_POLLS], struct error *err);

/* True if stdout has no reader any more (EPIPE). */
bool relay_stdout_closed(const struct relay *r);
/* True if relay_ended() and all output is written. */
bool relay_finished(const struct relay *r);
/* True if the daemon's end is closed, or both streams have ended. */
bool relay_ended(const struct relay *r);
/* True if the last output where stderr goes ended in mid-line: the caller must end the line. */
bool relay_end_line(struct relay *r);
/* Notes that Ctrl-C came: the terminal itself printed ^C, so the cursor is in mid-line. */
void relay_key_echoed(struct relay *r);
/* From now on drops output (and acknowledges it), and reads no stdin. */
void relay_discard(struct relay *r);
