/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The daemon's end of a caller's live stdio: one stream socket speaking DATA, ACK and END on
 * channel 0 (design.md section 5).
 */

#include "proto/error.h"
#include "proto/frame.h"
#include <systemd/sd-event.h>

struct receivers;
struct stdio;

/* None of the callbacks may free the stdio. */
struct stdio_callbacks {
	/* The caller's input, in order; never more than STREAM_WINDOW bytes beyond
	 * stdio_ack_stdin. */
	int (*on_stdin)(struct stdio *s, const void *p, size_t n, void *userdata);
	void (*on_stdin_end)(struct stdio *s, void *userdata);
	/* The caller has the bytes below upto and accepts bytes below limit. Both are absolute and
	 * never decrease. */
	void (*on_limit)(
		struct stdio *s, uint8_t stream, uint64_t upto, uint64_t limit, void *userdata);
	/* After stdio_finish: the last byte and both ENDs are written, or the caller has closed the
	 * socket. */
	void (*on_drained)(struct stdio *s, void *userdata);
	/* The caller broke the protocol (invalid_argument); output is discarded from here on. */
	void (*on_broken)(struct stdio *s, const struct error *err, void *userdata);
};

/* Takes over fd on success. with_stdin false: the caller may send no input. fd must be a stream
 * socket (else invalid_argument). Its file flags are never changed, since the caller shares
 * them. */
int stdio_new(sd_event *event, struct receivers *rs, int fd, bool with_stdin,
	const struct stdio_callbacks *cb, void *userdata, struct stdio **ret, struct error *err);
/* The same for a caller that reconnects. It has the output below out[] (by stream), and its input
 * continues from in, which the first ACK tells it. */
int stdio_new_at(sd_event *event, struct receivers *rs, int fd, bool with_stdin, uint64_t in,
	const uint64_t out[STREAM_MAX], const struct stdio_callbacks *cb, void *userdata,
	struct stdio **ret, struct error *err);
struct stdio *stdio_free(struct stdio *s);
DEFINE_CLEANUP(struct stdio *, stdio_free)
/* Frees the stdio but not its socket, which its previous owner gets back. Takes NULL. */
struct stdio *stdio_disown(struct stdio *s);

/* Queues output within the limit; -ENOBUFS beyond it. */
int stdio_output(struct stdio *s, uint8_t stream, const void *p, size_t n);
/* Input below upto was accepted: the caller may send STREAM_WINDOW bytes beyond it. */
void stdio_ack_stdin(struct stdio *s, uint64_t upto);
/* The caller's connection is lost: once its stdio socket is closed too, no output is acknowledged
 * in the caller's place, so the guest keeps it. */
void stdio_hold(struct stdio *s);
/* No more output follows: sends END of both streams after the last byte, then calls on_drained. */
void stdio_finish(struct stdio *s);
