/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The host's end of one machine's agent stream (design.md section 6): SYNC, HELLO, WELCOME, frames,
 * and a new connection when the stream breaks while the VMM lives.
 */

#include "proto/agent.h"
#include "proto/error.h"
#include "proto/frame.h"
#include <systemd/sd-event.h>

#define LINK_TRY_USEC    (5 * USEC_PER_SEC) /* of one try: dial, HELLO, WELCOME */
#define LINK_TRIES       3                  /* after the first WELCOME */
#define LINK_AGAIN_USEC  (100 * USEC_PER_MSEC)
#define LINK_STEADY_USEC (10 * USEC_PER_SEC) /* without a fault: the count of tries starts again */

struct link;

struct link_callbacks {
	/* Opens a connection: returns a non-blocking stream socket, owned by the link, or -errno.
	 * -EINPROGRESS: the socket comes by link_take, now or later. */
	int (*dial)(void *userdata);
	/* The agent has answered, for the first time or after a reconnection. -errno drops the
	 * connection. */
	int (*on_welcome)(struct link *l, const struct msg_welcome *w, void *userdata);
	/* Any other frame. -errno drops the connection. */
	int (*on_frame)(struct link *l, const struct frame *f, void *userdata);
	/* All control frames are written: append at most a frame or two of bulk data, one FILE, or
	 * nothing. */
	void (*fill)(struct link *l, struct buf *out, void *userdata);
	/* All tries have failed (guest_unresponsive). The link does nothing afterwards. */
	void (*on_dead)(struct link *l, const struct error *err, void *userdata);
};

/*
 * Dials at once. first_usec bounds the wait for the first WELCOME (a cold boot); until then a
 * failed try is followed by another. No callback may free the link: free it from a later event.
 */
int link_new(sd_event *event, const struct link_callbacks *cb, void *userdata, uint64_t first_usec,
	struct link **ret);
struct link *link_free(struct link *l);
DEFINE_CLEANUP(struct link *, link_free)

/* Sets the machine's secret, which is used from the next connection on. While confirmed is false,
 * the guest may not know it yet, so connections alternate between the secret and the constant. */
void link_set_sync(struct link *l, const uint8_t sync[SYNC_SIZE], bool confirmed);
/* The guest is only now being booted: forgets the secret and connects again at once. */
void link_restart(struct link *l);

/* True between WELCOME and the loss of the connection. */
bool link_is_up(const struct link *l);
/* The protocol version from WELCOME; 0 while the link is not up. */
uint16_t link_version(const struct link *l);

/* The queue of control frames: append with link_send or frame_put, then call link_schedule. The
 * queue is dropped when the connection is lost; on_welcome sends its content again. */
struct buf *link_control(struct link *l);
#define link_send(l, name, frame_type, channel, msg) \
	msg_send(link_control(l), link_version(l), name, frame_type, channel, msg)
/* Schedules a write: of control frames, or of bulk data from fill. */
void link_schedule(struct link *l);
/* The guest is paused (still) or resumed. No deadline ends the link while it is paused. */
void link_hold(struct link *l, bool still);
/* Takes over a non-blocking stream socket: the one that dial promised, or one that the guest
 * dialled unasked. An unasked one replaces the current connection, which ends as on a fault. Of the
 * callbacks only dial may call this. */
void link_take(struct link *l, int fd);
/* Drops the connection after a protocol error and dials again; counts as a failed try. */
void link_fault(struct link *l);
