/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The host's end of one machine's agent stream (design.md section 6): SYNC, HELLO, WELCOME, frames,
 * and dialling again when the stream breaks while the VMM lives.
 */

#include "proto/agent.h"
#include "proto/error.h"
#include "proto/frame.h"
#include <systemd/sd-event.h>

#define LINK_TRY_USEC    (5 * USEC_PER_SEC) /* one try: dial, greet, WELCOME */
#define LINK_TRIES       3                  /* after the first WELCOME */
#define LINK_AGAIN_USEC  (100 * USEC_PER_MSEC)
#define LINK_STEADY_USEC (10 * USEC_PER_SEC) /* so long without a fault and the tries begin anew */

struct link;

struct link_callbacks {
	/* A new connection: an owned non-blocking stream socket, or -errno. -EINPROGRESS: it comes by link_take, or came by it
	 * meanwhile. */
	int (*dial)(void *userdata);
	/* The agent has answered: the first time, and after every reconnection. -errno drops the connection. */
	int (*on_welcome)(struct link *l, const struct msg_welcome *w, void *userdata);
	/* Any other frame. -errno drops the connection. */
	int (*on_frame)(struct link *l, const struct frame *f, void *userdata);
	/* Control frames are out: appends at most a frame or two of bulk data, nothing when there is none. */
	void (*fill)(struct link *l, struct buf *out, void *userdata);
	/* The tries are used up (guest_unresponsive). The link does nothing any more. */
	void (*on_dead)(struct link *l, const struct error *err, void *userdata);
};

/*
 * Dials at once. first_usec bounds the wait for the first WELCOME (a cold boot); until then a try that
 * fails is followed by another. None of the callbacks may free the link: do that in a later turn.
 */
int link_new(sd_event *event, const struct link_callbacks *cb, void *userdata, uint64_t first_usec,
	struct link **ret);
struct link *link_free(struct link *l);
DEFINE_CLEANUP(struct link *, link_free)

/* The machine's secret: tried first from the next connection on, the constant after it while the
 * guest may not know it yet (confirmed false). */
void link_set_sync(struct link *l, const uint8_t sync[SYNC_SIZE], bool confirmed);

/* True between WELCOME and the loss of the connection. */
bool link_is_up(const struct link *l);
/* The protocol's version that WELCOME chose; 0 while it is not up. */
uint16_t link_version(const struct link *l);

/* The queue of control frames: append with link_send or frame_put, then link_kick. What is queued when
 * the connection is lost is gone: on_welcome says it again. */
struct buf *link_control(struct link *l);
#define link_send(l, name, frame_type, channel, msg) \
	msg_send(link_control(l), link_version(l), name, frame_type, channel, msg)
/* There is something to write: a control frame, or fill has bulk data. */
void link_kick(struct link *l);
/* The guest stands still, or goes on: meanwhile no wait for it ends the link. */
void link_hold(struct link *l, bool still);
/* The stream that dial promised, or one that the guest has dialled unasked, which takes the place of the one before and
 * counts as its end; a non-blocking stream socket, taken over. Not from within another callback than dial. */
void link_take(struct link *l, int fd);
/* The peer broke the protocol: drop the connection and dial again (counts as a failed try). */
void link_fault(struct link *l);
