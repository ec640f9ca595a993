/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One byte stream of a command, by absolute offsets that never restart (design.md section 6.2):
 * output is a ring between the program's pipe and the host, input a bounded buffer the other way.
 */

#include "guest/loop.h"
#include "proto/buf.h"
#include "proto/limits.h"

struct out_stream {
	struct source source;
	int fd;            /* owned: the pipe's read end; -EBADF after its end */
	uint8_t *ring;     /* owned: STREAM_WINDOW bytes */
	uint64_t kept;     /* below: safe with the host */
	uint64_t sent;     /* below: put into DATA frames of this connection */
	uint64_t produced; /* below: read from the program */
	uint64_t limit;    /* the host allows no offset beyond */
	uint64_t owed;     /* below: what the program had written when it ended */
	bool readable;     /* the pipe may have more */
	bool fixed;        /* the command is over: what still comes is thrown away */
};

int out_open(struct out_stream *o, int fd, uint64_t limit); /* fd is taken over on success */
void out_close(struct loop *l, struct out_stream *o);       /* the pipe; the ring stays */
void out_done(struct loop *l, struct out_stream *o);

/* Reads the pipe until it is empty, at its end, or the host's window is full. Bytes read, -errno.
 */
ssize_t out_fill(struct loop *l, struct out_stream *o);
/* Throws away what is in the pipe, a bounded amount; true when more is there. */
bool out_discard(struct loop *l, struct out_stream *o);
/* Notes how much the program has left in the pipe (at its exit). */
void out_note_owed(struct out_stream *o);
/* The next bytes to send; *ret_p is NULL when there are none. */
size_t out_next(const struct out_stream *o, size_t max, const uint8_t **ret_p);
/* The host's ACK or RESUME; -EBADMSG when it claims bytes that never were. */
int out_ack(struct out_stream *o, uint64_t upto, uint64_t limit);
int out_resume(struct out_stream *o, uint64_t upto, uint64_t limit);

struct in_stream {
	struct source source;
	int fd;          /* owned: the pipe's write end; -EBADF when closed */
	struct buf data; /* owned: accepted and not yet written */
	uint64_t accepted, written;
	bool closed;  /* nobody reads: what comes is dropped and acknowledged */
	bool ended;   /* END came: close behind the last byte */
	bool ack_due; /* written or the limit moved */
};

void in_init(struct in_stream *in);         /* bytes may come before the program is there */
void in_open(struct in_stream *in, int fd); /* takes fd over */
void in_close(struct loop *l, struct in_stream *in);
void in_done(struct loop *l, struct in_stream *in);
/* DATA: what was accepted before is dropped; -EBADMSG for a gap or more than the window. */
int in_data(struct loop *l, struct in_stream *in, uint64_t offset, const uint8_t *p, size_t n);
int in_end(struct loop *l, struct in_stream *in, uint64_t offset);
/* Writes what the pipe takes. A program that closed its stdin makes the rest vanish, acknowledged.
 */
void in_flush(struct loop *l, struct in_stream *in);
