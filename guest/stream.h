/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A byte stream of a command with absolute offsets that never restart (design.md section 6.2):
 * output is a ring between the program's pipe and the host, input a bounded buffer in the other
 * direction.
 */

#include "guest/loop.h"
#include "proto/window.h"

struct out_stream {
	struct source source;
	int fd;                 /* owned: the pipe's read end; -EBADF after EOF */
	struct window_sender w; /* owned; ended: further output is discarded */
	uint64_t owed;          /* bytes below were written before the program exited */
	bool readable;          /* the pipe may have data */
};

int out_open(struct out_stream *o, int fd, uint64_t limit); /* owns fd on success */
void out_close(struct loop *l, struct out_stream *o);       /* closes the pipe, keeps the ring */
void out_done(struct loop *l, struct out_stream *o);

/* Reads the pipe until it is empty, at EOF, or the host's window is full. Returns the bytes read,
 * -errno. */
ssize_t out_fill(struct loop *l, struct out_stream *o);
/* Discards a bounded amount from the pipe; returns true if there is more. */
bool out_discard(struct loop *l, struct out_stream *o);
/* Records at the program's exit how much of its output is in the pipe. */
void out_note_owed(struct out_stream *o);
/* Handles ACK or RESUME; -EBADMSG if it acknowledges bytes that were never produced. */
int out_ack(struct out_stream *o, uint64_t upto, uint64_t limit);
int out_resume(struct out_stream *o, uint64_t upto, uint64_t limit);

struct in_stream {
	struct source source;
	int fd;                   /* owned: the pipe's write end; -EBADF when closed */
	struct buf data;          /* owned: accepted and not yet written */
	struct window_receiver w; /* ended: close after the last byte */
	bool closed;              /* the program does not read: input is dropped and acknowledged */
	bool ack_due;             /* an ACK must be sent */
};

/* Returns the offset below which all bytes are written, or dropped. */
static inline uint64_t in_written(const struct in_stream *in)
{
	return in->w.received - buf_len(&in->data);
}

void in_init(struct in_stream *in);         /* bytes may arrive before the program starts */
void in_open(struct in_stream *in, int fd); /* owns fd */
void in_close(struct loop *l, struct in_stream *in);
void in_done(struct loop *l, struct in_stream *in);
/* Handles DATA: drops bytes accepted before; -EBADMSG for a gap or more than the window. After END
 * all further DATA and END is dropped: a new daemon may not know of a previous one's END. */
int in_data(struct loop *l, struct in_stream *in, struct frame_data d);
int in_end(struct loop *l, struct in_stream *in, uint64_t offset);
/* Writes as much as the pipe accepts. If the program has closed its stdin, drops and acknowledges
 * the rest. */
void in_flush(struct loop *l, struct in_stream *in);
