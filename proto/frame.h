/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The framing of design.md section 6: a 12-byte little-endian head {u32 length, u16 type, u16
 * flags, u32 channel} and at most FRAME_PAYLOAD_MAX payload bytes. Two streams speak it: host <->
 * agent (with SYNC), and daemon <-> client on the live-stdio socket (only DATA, ACK, END; no SYNC;
 * channel 0).
 *
 * Finding the beginning. A host connection opens with the 32 bytes of SYNC, then a HELLO frame. The
 * agent looks for SYNC at every byte position. Bytes at the tail of what has arrived that could be
 * the beginning of SYNC are held back from the frame decoder until it is clear that they are not:
 * else a frame cut short by a lost connection would be completed with the first bytes of SYNC. So
 * that a held byte never waits for ever, SYNC contains no zero byte, every frame head does (the top
 * byte of its length), and a host whose frame ends in a beginning of SYNC sends a NOP after it
 * (frame_needs_nop).
 *
 * The other direction: the host throws everything away until the nonce of its HELLO has gone by;
 * the nonce is random for each connection, so nothing sent earlier can contain it.
 *
 * Long messages. A payload beyond FRAME_PAYLOAD_MAX (a START with a 128 KiB command) goes as
 * consecutive frames of one type and channel, all but the last with FRAME_FLAG_MORE; only NOP may
 * stand between them. frame_put_long writes them, a frame_assembler at the other end puts them
 * together again. All together are at most LIMIT_MESSAGE_BYTES.
 */

#include "base.h"
#include "buf.h"
#include "limits.h"

#define FRAME_HEAD_SIZE 12
#define SYNC_SIZE       32
#define NONCE_SIZE      32

/* Before the first SETUP the machine has no secret: this constant opens the stream. */
extern const uint8_t frame_sync_initial[SYNC_SIZE];

enum frame_type {
	FRAME_NOP = 0,
	/* host -> agent */
	FRAME_HELLO = 1,    /* struct msg_hello */
	FRAME_SETUP = 2,    /* struct msg_setup */
	FRAME_START = 3,    /* struct msg_start; channel = the exec's */
	FRAME_KILL = 4,     /* struct msg_kill; channel = the exec's */
	FRAME_RESUME = 5,   /* struct msg_resume; channel = the exec's */
	FRAME_EXIT_ACK = 6, /* no payload; channel = the exec's: forget it */
	FRAME_SHUTDOWN = 7, /* no payload: stop everything in order, BYE, reset */
	FRAME_LOGIN = 8,    /* no payload: capture root's login environment; a command may come */
	/* agent -> host */
	FRAME_WELCOME = 32,    /* struct msg_welcome, preceded by the raw nonce */
	FRAME_SETUP_DONE = 33, /* struct msg_result */
	FRAME_STARTED = 34,    /* struct msg_result; channel = the exec's */
	FRAME_EXIT = 35,       /* struct msg_exit; channel = the exec's; repeated until EXIT_ACK */
	FRAME_BYE = 36,        /* struct msg_bye */
	/* both ways */
	FRAME_DATA = 64, /* u8 stream, u64 offset, bytes */
	FRAME_ACK = 65,  /* u8 stream, u64 upto, u64 limit: absolute and idempotent */
	FRAME_END = 66,  /* u8 stream, u64 offset: no byte follows at or after offset */
};

enum {
	FRAME_FLAG_MORE = 1 << 0, /* the message goes on in the next frame */
};

enum stream_id {
	STREAM_STDIN = 0,
	STREAM_STDOUT = 1,
	STREAM_STDERR = 2,
	STREAM_PTY = 3,
	STREAM_MAX
};

struct frame {
	uint16_t type;
	uint16_t flags; /* FRAME_FLAG_MORE; others are wrong */
	uint32_t channel;
	const uint8_t *payload; /* borrowed: the decoder's buffer, until the next call */
	uint32_t length;
};

#define FRAME_DATA_HEAD 9
#define FRAME_DATA_MAX  (FRAME_PAYLOAD_MAX - FRAME_DATA_HEAD)

/* Appends one frame. -EMSGSIZE, -ENOBUFS, -ENOMEM; on failure nothing was appended. */
int frame_put(struct buf *out, uint16_t type, uint32_t channel, const void *payload, size_t n);
/* The same for up to LIMIT_MESSAGE_BYTES: one frame where it fits, else several with
 * FRAME_FLAG_MORE. */
int frame_put_long(struct buf *out, uint16_t type, uint32_t channel, const void *payload, size_t n);
int frame_put_data(struct buf *out, uint32_t channel, uint8_t stream, uint64_t offset,
	const void *bytes, size_t n); /* n <= FRAME_DATA_MAX */
int frame_put_ack(struct buf *out, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit);
int frame_put_end(struct buf *out, uint32_t channel, uint8_t stream, uint64_t offset);

/* Parses the payload of DATA/ACK/END; -EBADMSG on a wrong length or stream number. */
struct frame_data {
	uint8_t stream;
	uint64_t offset;
	const uint8_t *bytes; /* borrowed */
	size_t n;
};
int frame_get_data(const struct frame *f, struct frame_data *ret);
int frame_get_ack(
	const struct frame *f, uint8_t *ret_stream, uint64_t *ret_upto, uint64_t *ret_limit);
int frame_get_end(const struct frame *f, uint8_t *ret_stream, uint64_t *ret_offset);

enum decoder_mode {
	DECODER_PLAIN, /* frames from the first byte (the stdio socket) */
	DECODER_SYNC,  /* nothing is a frame before SYNC; SYNC anywhere begins anew (the agent) */
	DECODER_NONCE, /* everything is thrown away until the nonce; frames after it (the host) */
};

struct decoder {
	enum decoder_mode mode;
	bool synced; /* frames may be decoded */
	bool found;  /* the mark begins at `scanned` */
	uint8_t mark[SYNC_SIZE];
	struct buf in;  /* owned */
	size_t frame;   /* bytes of the frame handed out last, consumed at the next call */
	size_t scanned; /* bytes of `in` before a mark, or before what may begin one */
};

/* mark is SYNC or the nonce (SYNC_SIZE bytes), NULL for DECODER_PLAIN. */
void decoder_init(struct decoder *d, enum decoder_mode mode, const uint8_t *mark);
/* DECODER_SYNC: the mark from now on, bytes already fed are searched for it again. DECODER_NONCE:
 * begins a new connection, everything fed so far is dropped. */
void decoder_set_mark(struct decoder *d, const uint8_t *mark);
void decoder_done(struct decoder *d);

/* Room to read into (at least 4 KiB once decoder_next has said DECODER_MORE), then decoder_fed with
 * what came. NULL with errno ENOMEM or ENOBUFS (frames wait to be taken). Ends the life of the last
 * frame. */
uint8_t *decoder_space(struct decoder *d, size_t *ret_n);
void decoder_fed(struct decoder *d, size_t n);

enum { DECODER_MORE = 0, DECODER_FRAME = 1, DECODER_RESYNC = 2 };

/*
 * The next event: DECODER_FRAME with *ret filled (valid until the next call), DECODER_RESYNC when
 * the mark went by (drop all half-done state), DECODER_MORE when more bytes are needed, -EBADMSG
 * for a length beyond FRAME_PAYLOAD_MAX (the peer is wrong; in DECODER_SYNC mode the decoder then
 * waits for the next SYNC, in the others it says so again for ever).
 */
int decoder_next(struct decoder *d, struct frame *ret);

/* Puts long messages together. One for each direction of a connection; reset it on DECODER_RESYNC.
 */
struct frame_assembler {
	struct buf whole; /* owned */
	bool pending;     /* parts are there, the last is not */
	uint16_t type;
	uint32_t channel;
};

void frame_assembler_init(struct frame_assembler *a, size_t max);
void frame_assembler_reset(struct frame_assembler *a); /* drops a half-done message */
void frame_assembler_done(struct frame_assembler *a);

/*
 * Takes each frame of the decoder. 1: f is a whole message (a frame of its own, unchanged; or
 * payload and length now those of all parts, borrowed from the assembler until its next call). 0:
 * more parts are to come. -EBADMSG on a part that does not belong to the one before, unknown flags,
 * or more than max bytes; -ENOMEM.
 */
int frame_assembler_add(struct frame_assembler *a, struct frame *f);

/* True if the last bytes written end in a beginning of sync, so that the peer may be holding them
 * back. */
bool frame_needs_nop(const uint8_t sync[SYNC_SIZE], const uint8_t *tail, size_t n);

/* Random bytes without zero, for a machine's SYNC. */
void frame_make_sync(uint8_t ret[SYNC_SIZE]);
