/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One stream of bytes with absolute offsets that never restart (design.md section 6): the sender
 * and the receiver of DATA, ACK and END, for the guest, the daemon and the client.
 */

#include "buf.h"
#include "frame.h"

/* The limit of a receiver that has passed on the bytes below upto. */
static inline uint64_t window_limit(uint64_t upto)
{
	return upto > UINT64_MAX - STREAM_WINDOW ? UINT64_MAX : upto + STREAM_WINDOW;
}

/* Zeroed, it begins at 0 and may not send yet. */
struct window_sender {
	uint8_t *ring;     /* owned: STREAM_WINDOW bytes; NULL until the first is appended */
	size_t head;       /* place in the ring of the byte at `acked` */
	uint64_t acked;    /* the receiver has the bytes below */
	uint64_t sent;     /* the bytes below were sent on this connection */
	uint64_t produced; /* the bytes below were appended */
	uint64_t limit;    /* the receiver accepts the bytes below */
	bool ended;        /* set by the owner: no byte follows */
	bool end_sent;     /* on this connection */
};

/* Appends all n bytes, or none: -ENOBUFS beyond the window, -ENOMEM. */
int window_sender_append(struct window_sender *s, const void *p, size_t n);
/* To append without a copy: how many bytes the peer accepts now, and where they go (NULL: no
 * memory). The owner adds to `produced` what it wrote there. */
size_t window_sender_room(const struct window_sender *s);
uint8_t *window_sender_tail(struct window_sender *s);

/* Append one DATA frame, or END after the last byte. 1: appended; 0: nothing to send; -errno. */
int window_sender_put_data(
	struct window_sender *s, struct buf *out, uint32_t channel, uint8_t stream);
int window_sender_put_end(
	struct window_sender *s, struct buf *out, uint32_t channel, uint8_t stream);

/* Takes an ACK; lower offsets than before have no effect. -EBADMSG: the limit is below upto, or a
 * byte below upto was not sent on this connection. */
int window_sender_ack(struct window_sender *s, uint64_t upto, uint64_t limit);
/* Goes on from another offset. -EBADMSG: the byte there is no longer kept, or not produced yet. */
int window_sender_seek(struct window_sender *s, uint64_t offset);

/* Holds no bytes: the owner keeps or passes on what is new. */
struct window_receiver {
	uint64_t received; /* the next offset expected */
	uint64_t acked;    /* `upto` of the last ACK */
	uint64_t limit;    /* bytes from here on are refused */
	bool ended;        /* END has arrived */
	bool rewound;      /* frames beyond `received` are dropped: they were in flight */
};

/* Takes DATA and leaves in d the bytes that are new. -EBADMSG: a gap, a byte beyond the limit, or a
 * new byte after END. */
int window_receiver_data(struct window_receiver *w, struct frame_data *d);
/* Takes END, also a repeated one. -EBADMSG: it is not at the next offset. */
int window_receiver_end(struct window_receiver *w, uint64_t offset);
/* Raises what is acknowledged and accepted; false if neither was raised. */
bool window_receiver_allow(struct window_receiver *w, uint64_t upto, uint64_t limit);
/* True if upto should be acknowledged now: a quarter of the window is free again, or the sender may
 * be waiting for less. */
bool window_receiver_ack_due(const struct window_receiver *w, uint64_t upto, bool waiting);
/* Appends an ACK that opens a whole window from upto on. */
int window_receiver_put_ack(struct window_receiver *w, struct buf *out, uint32_t channel,
	uint8_t stream, uint64_t upto);
/* A new reader continues from an offset that may lie below what was received. */
void window_receiver_rewind(struct window_receiver *w, uint64_t offset);
