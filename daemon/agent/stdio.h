/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The daemon's end of a caller's live stdio: one stream socket speaking DATA, ACK and END on channel 0
 * (design.md section 5).
 */

#include "proto/error.h"
#include "proto/frame.h"
#include <systemd/sd-event.h>

struct receivers;
struct stdio;

/* None of the callbacks may free the stdio. */
struct stdio_callbacks {
	/* The caller's input, in order; never more than STREAM_WINDOW beyond stdio_ack_stdin. */
	int (*on_stdin)(struct stdio *s, const void *p, size_t n, void *userdata);
	void (*on_stdin_end)(struct stdio *s, void *userdata);
	/* The caller has bytes below upto and takes bytes below limit: absolute, never going back. */
	void (*on_limit)(
		struct stdio *s, uint8_t stream, uint64_t upto, uint64_t limit, void *userdata);
	/* After stdio_finish: the last byte and both ENDs are written, or nobody reads them. */
	void (*on_drained)(struct stdio *s, void *userdata);
	/* The caller broke the protocol (invalid_argument); output is discarded from here on. */
	void (*on_broken)(struct stdio *s, const struct error *err, void *userdata);
};

/* Takes fd over on success. with_stdin false: the caller may send no byte of input. Only stream sockets
 * (invalid_argument); the file's flags, which the caller shares, are never changed. */
int stdio_new(sd_event *event, struct receivers *rs, int fd, bool with_stdin,
	const struct stdio_callbacks *cb, void *userdata, struct stdio **ret, struct error *err);
/* The same for a caller that comes again: it has the output below out[] (by stream), and its input goes on
 * from in, which it is told by the first ACK. */
int stdio_new_at(sd_event *event, struct receivers *rs, int fd, bool with_stdin, uint64_t in,
	const uint64_t out[STREAM_MAX], const struct stdio_callbacks *cb, void *userdata,
	struct stdio **ret, struct error *err);
struct stdio *stdio_free(struct stdio *s);
DEFINE_CLEANUP(struct stdio *, stdio_free)
/* Frees it and leaves the socket to whom it was taken over from. Takes NULL. */
struct stdio *stdio_disown(struct stdio *s);

/* Queues output within the limit; -ENOBUFS beyond it. */
int stdio_output(struct stdio *s, uint8_t stream, const void *p, size_t n);
/* Input below upto has been taken: the caller may send STREAM_WINDOW beyond it. */
void stdio_ack_stdin(struct stdio *s, uint64_t upto);
/* The caller's connection is lost: once its socket is too, nothing is acknowledged in its place. */
void stdio_hold(struct stdio *s);
/* No more output will come: END of both streams follows the last byte, then on_drained. */
void stdio_finish(struct stdio *s);
