/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The framing of design.md section 6: a 12-byte little-endian head {u32 length, u16 type, u16
 * flags, u32 channel} and at most FRAME_PAYLOAD_MAX payload bytes. Two streams speak it: host <->
 * agent (with SYNC), and daemon <-> client on the live-stdio socket (only DATA, ACK, END; no SYNC;
 * channel 0).
 *
 * Synchronisation. A host connection starts with the 32 bytes of SYNC, then a HELLO frame. The
 * agent looks for SYNC at every byte position. Received bytes at the end that could be a prefix of
 * SYNC are held back from the frame decoder until it is clear that they are not: else a frame cut
 * off by a lost connection would be completed with the first bytes of SYNC. To bound the delay,
 * SYNC contains no zero byte, every frame head does (the top byte of its length), and a host whose
 * frame ends in a prefix of SYNC sends a NOP after it (frame_needs_nop).
 *
 * In the other direction the host discards everything up to the nonce of its HELLO; the nonce is
 * random for each connection, so nothing sent earlier contains it.
 *
 * Long messages. A payload above FRAME_PAYLOAD_MAX (a START with a 128 KiB command) is sent as
 * consecutive frames of one type and channel, all but the last with FRAME_FLAG_MORE; only NOP may
 * come between them. frame_put_long writes them, and a frame_assembler at the other end joins them.
 * The total is at most LIMIT_MESSAGE_BYTES, for FILE and FILE_DONE LIMIT_FILE_MESSAGE_BYTES.
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
	FRAME_EXIT_ACK = 6, /* no payload; channel = the exec's, to be forgotten */
	FRAME_SHUTDOWN = 7, /* no payload: shut down cleanly, BYE, reset */
	/* no payload: capture root's login environment before a command needs it */
	FRAME_LOGIN = 8,
	FRAME_FILE = 9, /* struct msg_file; channel = the operation's */
	/* agent -> host */
	FRAME_WELCOME = 32,    /* struct msg_welcome, preceded by the raw nonce */
	FRAME_SETUP_DONE = 33, /* struct msg_result */
	FRAME_STARTED = 34,    /* struct msg_result; channel = the exec's */
	FRAME_EXIT = 35,       /* struct msg_exit; channel = the exec's; repeated until EXIT_ACK */
	FRAME_BYE = 36,        /* struct msg_bye */
	FRAME_FILE_DONE = 38,  /* struct msg_file_done; channel = the operation's */
	/* both ways */
	FRAME_DATA = 64, /* u8 stream, u64 offset, bytes */
	FRAME_ACK = 65,  /* u8 stream, u64 upto, u64 limit: absolute and idempotent */
	FRAME_END = 66,  /* u8 stream, u64 offset: no byte follows at or after offset */
};

enum {
	FRAME_FLAG_MORE = 1 << 0, /* the message continues in the next frame */
};

enum stream_id {
	STREAM_STDIN = 0,
	STREAM_STDOUT = 1,
	STREAM_STDERR = 2,
	STREAM_PTY = 3,
	STREAM_MAX
};

/* A set of streams is a mask. */
#define STREAM_BIT(stream) (1u << (stream))
#define STREAMS_INPUT      STREAM_BIT(STREAM_STDIN)
#define STREAMS_OUTPUT \
	(STREAM_BIT(STREAM_STDOUT) | STREAM_BIT(STREAM_STDERR) | STREAM_BIT(STREAM_PTY))
#define STREAM_FOREACH(i, mask) \
	for (uint8_t i = 0; (i) < STREAM_MAX; (i)++) \
		if ((STREAM_BIT(i) & (mask)) == 0) { \
		} else

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
/* The same for a long message: one frame where it fits, else several with FRAME_FLAG_MORE. */
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
	DECODER_SYNC,  /* frames only after SYNC; SYNC anywhere starts again (the agent) */
	DECODER_NONCE, /* everything up to the nonce is discarded; frames after it (the host) */
};

struct decoder {
	enum decoder_mode mode;
	bool synced; /* frames may be decoded */
	bool found;  /* the mark starts at `scanned` */
	uint8_t mark[SYNC_SIZE];
	struct buf in;  /* owned */
	size_t frame;   /* bytes of the frame returned last, consumed at the next call */
	size_t scanned; /* bytes of `in` before a mark or a possible prefix of one */
};

/* mark is SYNC or the nonce (SYNC_SIZE bytes), NULL for DECODER_PLAIN. */
void decoder_init(struct decoder *d, enum decoder_mode mode, const uint8_t *mark);
/* DECODER_SYNC: sets the mark and searches the buffered bytes for it again. DECODER_NONCE: starts a
 * new connection and drops all buffered bytes. */
void decoder_set_mark(struct decoder *d, const uint8_t *mark);
void decoder_done(struct decoder *d);

/* Returns room to read into (at least 4 KiB after DECODER_MORE); call decoder_fed with the number
 * of bytes read. NULL with errno ENOMEM or ENOBUFS (complete frames are pending). Invalidates the
 * last frame. */
uint8_t *decoder_space(struct decoder *d, size_t *ret_n);
void decoder_fed(struct decoder *d, size_t n);

enum { DECODER_MORE = 0, DECODER_FRAME = 1, DECODER_RESYNC = 2 };

/*
 * Returns the next event: DECODER_FRAME with *ret filled (valid until the next call),
 * DECODER_RESYNC after the mark (drop all partial state), DECODER_MORE if more bytes are needed,
 * -EBADMSG for a length above FRAME_PAYLOAD_MAX. After -EBADMSG a decoder in DECODER_SYNC mode
 * waits for the next SYNC; in the other modes each call returns -EBADMSG again.
 */
int decoder_next(struct decoder *d, struct frame *ret);

/* Joins the parts of long messages. One per direction of a connection; reset it on
 * DECODER_RESYNC. */
struct frame_assembler {
	struct buf whole; /* owned */
	bool pending;     /* the last part is missing */
	uint16_t type;
	uint32_t channel;
};

void frame_assembler_init(struct frame_assembler *a, size_t max);
void frame_assembler_reset(struct frame_assembler *a); /* drops a partial message */
void frame_assembler_done(struct frame_assembler *a);

/*
 * Call with each frame of the decoder. Returns 1 if f is a complete message (a single frame,
 * unchanged; or with the payload of all parts, borrowed from the assembler until the next call), 0
 * if more parts follow, -EBADMSG for a part that does not continue the one before, unknown flags,
 * or more than max bytes; -ENOMEM.
 */
int frame_assembler_add(struct frame_assembler *a, struct frame *f);

/* True if the last bytes written end in a prefix of sync, so that the peer may hold them back. */
bool frame_needs_nop(const uint8_t sync[SYNC_SIZE], const uint8_t *tail, size_t n);

/* Returns random non-zero bytes for a machine's SYNC. */
void frame_make_sync(uint8_t ret[SYNC_SIZE]);
