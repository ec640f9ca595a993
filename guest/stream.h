/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A byte stream of a command with absolute offsets that never restart (design.md section 6.2):
 * output is a ring between the program's pipe and the host, input a bounded buffer in the other
 * direction.
 */

#include "guest/loop.h"
#include "proto/buf.h"
#include "proto/limits.h"

struct out_stream {
	struct source source;
	int fd;            /* owned: the pipe's read end; -EBADF after EOF */
	uint8_t *ring;     /* owned: STREAM_WINDOW bytes */
	uint64_t kept;     /* bytes below are acknowledged by the host */
	uint64_t sent;     /* bytes below were sent on this connection */
	uint64_t produced; /* bytes below were read from the pipe */
	uint64_t limit;    /* the host accepts bytes below this offset */
	uint64_t owed;     /* bytes below were written before the program exited */
	bool readable;     /* the pipe may have data */
	bool fixed;        /* the command has ended: further output is discarded */
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
/* Returns the next bytes to send; *ret_p is NULL if there are none. */
size_t out_next(const struct out_stream *o, size_t max, const uint8_t **ret_p);
/* Handles ACK or RESUME; -EBADMSG if it acknowledges bytes that were never produced. */
int out_ack(struct out_stream *o, uint64_t upto, uint64_t limit);
int out_resume(struct out_stream *o, uint64_t upto, uint64_t limit);

struct in_stream {
	struct source source;
	int fd;          /* owned: the pipe's write end; -EBADF when closed */
	struct buf data; /* owned: accepted and not yet written */
	uint64_t accepted, written;
	bool closed;  /* the program does not read: input is dropped and acknowledged */
	bool ended;   /* END arrived: close after the last byte */
	bool ack_due; /* an ACK must be sent */
};

void in_init(struct in_stream *in);         /* bytes may arrive before the program starts */
void in_open(struct in_stream *in, int fd); /* owns fd */
void in_close(struct loop *l, struct in_stream *in);
void in_done(struct loop *l, struct in_stream *in);
/* Handles DATA: drops bytes accepted before; -EBADMSG for a gap or more than the window. */
int in_data(struct loop *l, struct in_stream *in, uint64_t offset, const uint8_t *p, size_t n);
int in_end(struct loop *l, struct in_stream *in, uint64_t offset);
/* Writes as much as the pipe accepts. If the program has closed its stdin, drops and acknowledges
 * the rest. */
void in_flush(struct loop *l, struct in_stream *in);
