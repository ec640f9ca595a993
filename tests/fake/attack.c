/* SPDX-License-Identifier: MIT */
/*
 * What a compromised guest may send to pyrod on its agent stream. Called by script.c for the step
 * `attack NAME [N SEED]`, between two frames of the well-behaved agent.
 *
 * What must stay true: an attack sends the same bytes for the same N and SEED, so that a finding
 * can be reproduced. An attack for which pyrod must drop the connection starts again on the next
 * connection. An attack that pyrod may ignore ends after N, and the command goes on.
 */

#include "tests/fake/fake.h"

enum { BATCH = 48 * 1024, ROUND_FRAMES = 250, ROUND_CHANNEL = 1 << 20 };
#define ROUND_USEC (100 * USEC_PER_MSEC)

struct kind {
	const char *name;
	bool stays; /* never ends */
	/* One frame, or a few that belong together. */
	int (*put)(struct attack *a, struct buf *out);
};

struct attack {
	const struct kind *kind;
	uint64_t n, done, random;
	uint32_t channel;
	uint64_t sent; /* stdout's next offset */
	bool fresh;    /* nothing sent on this connection yet */
	/* For mutations: rounds of frames, each closed by an EXIT that pyrod acknowledges, so that
	 * only frames that it has read count. If a mutated length has swallowed that EXIT, another
	 * round follows. */
	uint32_t round, in_round;
	uint64_t round_end;
};

static uint64_t next_random(struct attack *a)
{
	/* Marsaglia's xorshift64* */
	a->random ^= a->random >> 12;
	a->random ^= a->random << 25;
	a->random ^= a->random >> 27;
	return a->random * UINT64_C(2685821657736338717);
}

static int put_raw(struct buf *out, uint32_t length, uint16_t type, uint16_t flags,
	uint32_t channel, const void *payload, size_t n)
{
	int r = 0;

	put_u32(out, length, &r);
	put_u16(out, type, &r);
	put_u16(out, flags, &r);
	put_u32(out, channel, &r);
	put_bytes(out, payload, n, &r);
	return r;
}

static int put_exit(struct attack *a, struct buf *out, uint32_t channel, uint64_t produced)
{
	const struct msg_exit m = { .produced = { [STREAM_STDOUT] = produced } };

	(void)a;
	return msg_send(out, AGENT_PROTOCOL_MAX, exit, FRAME_EXIT, channel, &m);
}

/* Lengths */

static int length_huge(struct attack *a, struct buf *out)
{
	return put_raw(out, UINT32_MAX, FRAME_DATA, 0, a->channel, "x", 1);
}

static int length_one_more(struct attack *a, struct buf *out)
{
	return put_raw(out, FRAME_PAYLOAD_MAX + 1, FRAME_DATA, 0, a->channel, "x", 1);
}

/* A header without its payload. */
static int length_owed(struct attack *a, struct buf *out)
{
	if (!a->fresh)
		return -EAGAIN;
	return put_raw(out, FRAME_PAYLOAD_MAX, FRAME_DATA, 0, a->channel, NULL, 0);
}

static int length_short(struct attack *a, struct buf *out)
{
	return put_raw(out, 3, FRAME_DATA, 0, a->channel, "abc", 3);
}

static int length_left_over(struct attack *a, struct buf *out)
{
	static const uint8_t zeros[600];

	return put_raw(out, sizeof(zeros), FRAME_EXIT, 0, a->channel, zeros, sizeof(zeros));
}

static int more_for_ever(struct attack *a, struct buf *out)
{
	static const uint8_t zeros[16 * 1024];

	return put_raw(
		out, sizeof(zeros), FRAME_EXIT, FRAME_FLAG_MORE, a->channel, zeros, sizeof(zeros));
}

static int more_mixed(struct attack *a, struct buf *out)
{
	int r = put_raw(out, 1, FRAME_EXIT, FRAME_FLAG_MORE, a->channel, "x", 1);

	return r < 0 ? r : put_raw(out, 1, FRAME_STARTED, 0, a->channel, "x", 1);
}

/* Types and flags */

static int type_unknown(struct attack *a, struct buf *out)
{
	uint16_t type = (uint16_t)(100 + next_random(a) % 60000);

	return put_raw(out, 9, type, 0, (uint32_t)(next_random(a) % 3), "whatever.", 9);
}

static int type_of_host(struct attack *a, struct buf *out)
{
	static const uint8_t zeros[64];
	uint16_t type = (uint16_t)(FRAME_HELLO + next_random(a) % 7);

	return put_raw(out, sizeof(zeros), type, 0, a->channel, zeros, sizeof(zeros));
}

static int flags_unknown(struct attack *a, struct buf *out)
{
	return put_raw(out, 0, FRAME_NOP, 0x8000, a->channel, NULL, 0);
}

/* Offsets */

static int offset_back(struct attack *a, struct buf *out)
{
	return frame_put_data(
		out, a->channel, STREAM_STDOUT, 0, "again", MIN_OF(a->sent, UINT64_C(5)));
}

static int offset_gap(struct attack *a, struct buf *out)
{
	return frame_put_data(out, a->channel, STREAM_STDOUT, a->sent + 1000, "gap", 3);
}

static int offset_end(struct attack *a, struct buf *out)
{
	return frame_put_data(out, a->channel, STREAM_STDOUT, UINT64_MAX - 1, "wrap", 4);
}

/* Ignores the limit: a caller that does not read raises it no more. */
static int offset_beyond(struct attack *a, struct buf *out)
{
	static const uint8_t zeros[FRAME_DATA_MAX];
	int r = frame_put_data(out, a->channel, STREAM_STDOUT, a->sent, zeros, sizeof(zeros));

	a->sent += r < 0 ? 0 : sizeof(zeros);
	return r;
}

static int stream_wrong(struct attack *a, struct buf *out)
{
	static const uint8_t streams[] = { STREAM_STDIN, STREAM_PTY, 200 };
	uint8_t payload[10] = { streams[next_random(a) % ARRAY_SIZE(streams)] };

	return put_raw(out, sizeof(payload), FRAME_DATA, 0, a->channel, payload, sizeof(payload));
}

static int ack_unsent(struct attack *a, struct buf *out)
{
	return frame_put_ack(out, a->channel, STREAM_STDIN, UINT64_C(1) << 60, UINT64_MAX);
}

static int ack_back(struct attack *a, struct buf *out)
{
	return frame_put_ack(
		out, a->channel, STREAM_STDIN, 0, (uint64_t)next_random(a) % STREAM_WINDOW);
}

/* Ends */

static int exit_twice(struct attack *a, struct buf *out)
{
	int r = put_exit(a, out, a->channel, a->sent);

	return r < 0 ? r : put_exit(a, out, a->channel, a->sent);
}

/* The rest is never sent. */
static int exit_early(struct attack *a, struct buf *out)
{
	return a->fresh ? put_exit(a, out, a->channel, a->sent + 1000) : -EAGAIN;
}

static int exit_less(struct attack *a, struct buf *out)
{
	return put_exit(a, out, a->channel, a->sent > 0 ? a->sent - 1 : UINT64_MAX);
}

static int welcome_again(struct attack *a, struct buf *out)
{
	struct msg_welcome w = { .version = 1, .state = AGENT_SET_UP };

	(void)a;
	return msg_send(out, AGENT_PROTOCOL_MAX, welcome, FRAME_WELCOME, AGENT_CHANNEL_NONE, &w);
}

static int nothing(struct attack *a _unused_, struct buf *out _unused_)
{
	return -EAGAIN;
}

static int noise(struct attack *a, struct buf *out)
{
	uint8_t bytes[1024];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)next_random(a);
	return buf_append(out, bytes, sizeof(bytes));
}

/* Floods of valid frames */

static int flood_nop(struct attack *a _unused_, struct buf *out)
{
	return frame_put(out, FRAME_NOP, AGENT_CHANNEL_NONE, NULL, 0);
}

static int flood_empty(struct attack *a, struct buf *out)
{
	return frame_put_data(out, a->channel, STREAM_STDOUT, a->sent, NULL, 0);
}

static int flood_started(struct attack *a, struct buf *out)
{
	const struct msg_result m = { 0 };

	return msg_send(out, AGENT_PROTOCOL_MAX, result, FRAME_STARTED, a->channel, &m);
}

/* EXIT of protocol 1 although the newest was agreed on. */
static int exit_short(struct attack *a, struct buf *out)
{
	static const uint8_t zeros[43];

	return put_raw(out, sizeof(zeros), FRAME_EXIT, 0, a->channel, zeros, sizeof(zeros));
}

/* STARTED with the trailing fields of a newer protocol than agreed on. */
static int put_longer(struct buf *out, uint32_t channel)
{
	static const uint8_t zeros[600];

	return put_raw(out, sizeof(zeros), FRAME_STARTED, 0, channel, zeros, sizeof(zeros));
}

static int fields_more(struct attack *a, struct buf *out)
{
	return put_longer(out, a->channel);
}

/* A failed start whose reason contains unprintable characters and quotes. */
static int started_bytes(struct attack *a, struct buf *out)
{
	const struct msg_result m = { .error = 2, .what = (char *)"\033[2J\xff\xc3 \u202e" };

	return msg_send(out, AGENT_PROTOCOL_MAX, result, FRAME_STARTED, a->channel, &m);
}

static int flood_setup_done(struct attack *a _unused_, struct buf *out)
{
	struct msg_result m = { .error = 5, .what = (char *)"once more" };

	return msg_send(out, AGENT_PROTOCOL_MAX, result, FRAME_SETUP_DONE, AGENT_CHANNEL_NONE, &m);
}

/* pyrod answers each by an EXIT_ACK, which the relay may take slowly. */
static int flood_exits(struct attack *a, struct buf *out)
{
	return put_exit(a, out, (uint32_t)(1000 + next_random(a) % 1000000), 0);
}

static int channels(struct attack *a, struct buf *out)
{
	static const uint32_t others[] = { 0, 2, 77, UINT32_MAX };
	uint32_t channel = others[next_random(a) % ARRAY_SIZE(others)];
	const struct msg_result m = { .error = 1, .what = (char *)"not yours" };
	int r = frame_put_data(out, channel, STREAM_STDOUT, 0, "stray", 5);

	if (r >= 0)
		r = frame_put_ack(out, channel, STREAM_STDIN, 5, 10);
	if (r >= 0)
		r = frame_put_end(out, channel, STREAM_STDERR, 7);
	return r < 0 ? r : msg_send(out, AGENT_PROTOCOL_MAX, result, FRAME_STARTED, channel, &m);
}

/* Mutations: changes some bytes of a frame that the agent may send. Most frames are for unused
 * channels, so that thousands pass between two that cost the connection. */
static int put_sound(struct attack *a, struct buf *out, uint32_t channel)
{
	const struct msg_result started = { 0 };

	switch (next_random(a) % 8) {
	case 0: return frame_put_data(out, channel, STREAM_STDOUT, a->sent, "mutant", 0);
	case 1: return frame_put_data(out, channel, STREAM_STDERR, 0, NULL, 0);
	case 2: return frame_put_ack(out, channel, STREAM_STDIN, 0, STREAM_WINDOW);
	case 3: return frame_put_end(out, channel, STREAM_STDOUT, a->sent);
	case 4: return msg_send(out, AGENT_PROTOCOL_MAX, result, FRAME_STARTED, channel, &started);
	case 6: return put_longer(out, channel);
	case 5: return channel == a->channel ? flood_nop(a, out) : put_exit(a, out, channel, 0);
	default:
		return put_raw(out, 9, (uint16_t)(100 + next_random(a) % 60000), 0, channel,
			"whatever.", 9);
	}
}

static int put_mutant(struct attack *a, struct buf *out)
{
	bool own = next_random(a) % 1024 == 0, head = next_random(a) % 2048 == 0;
	struct buf b;
	uint8_t *p;
	size_t from, changes;
	int r;

	buf_init(&b, BATCH);
	r = put_sound(a, &b, own ? a->channel : (uint32_t)(2 + next_random(a) % 1000));
	p = b.data + b.start;
	from = head ? 0 : FRAME_HEAD_SIZE;
	changes = 1 + next_random(a) % 4;
	while (r >= 0 && buf_len(&b) > from && changes-- > 0)
		p[from + next_random(a) % (buf_len(&b) - from)] = (uint8_t)next_random(a);
	if (r >= 0)
		r = buf_append(out, buf_head(&b), buf_len(&b));
	buf_done(&b);
	return r;
}

static int mutate(struct attack *a, struct buf *out)
{
	if (a->in_round == ROUND_FRAMES) {
		if (a->round_end > now_usec())
			return -EAGAIN;
		a->in_round = 0;
	}
	if (++a->in_round < ROUND_FRAMES)
		return put_mutant(a, out);
	a->round_end = now_usec() + ROUND_USEC;
	return put_exit(a, out, ROUND_CHANNEL + ++a->round, 0);
}

static const struct kind kinds[] = {
	{ "length-huge", true, length_huge },
	{ "length-one-more", true, length_one_more },
	{ "length-owed", true, length_owed },
	{ "length-short", true, length_short },
	{ "length-left-over", true, length_left_over },
	{ "more-for-ever", true, more_for_ever },
	{ "more-mixed", true, more_mixed },
	{ "type-unknown", false, type_unknown },
	{ "type-of-host", false, type_of_host },
	{ "flags-unknown", true, flags_unknown },
	{ "offset-back", false, offset_back },
	{ "offset-gap", true, offset_gap },
	{ "offset-end", true, offset_end },
	{ "offset-beyond", true, offset_beyond },
	{ "stream-wrong", true, stream_wrong },
	{ "ack-unsent", true, ack_unsent },
	{ "ack-back", false, ack_back },
	{ "exit-twice", true, exit_twice },
	{ "exit-early", true, exit_early },
	{ "exit-less", true, exit_less },
	{ "welcome-again", true, welcome_again },
	{ "no-started", true, nothing }, /* script.c does not send STARTED */
	{ "no-started-but-bytes", true, started_bytes },
	{ "no-exit", true, nothing },
	{ "noise", true, noise },
	{ "flood-nop", false, flood_nop },
	{ "flood-empty", false, flood_empty },
	{ "flood-started", false, flood_started },
	{ "exit-short", true, exit_short },
	{ "fields-more", false, fields_more },
	{ "flood-setup-done", false, flood_setup_done },
	{ "flood-exits", false, flood_exits },
	{ "channels", false, channels },
	{ "mutate", false, mutate },
};

struct attack *attack_new(const char *name, uint64_t n, uint64_t seed, uint32_t channel)
{
	struct attack *a = calloc(1, sizeof(*a));

	for (size_t i = 0; a && i < ARRAY_SIZE(kinds); i++)
		if (streq(kinds[i].name, name))
			a->kind = &kinds[i];
	if (!a || !a->kind)
		return attack_free(a);
	a->n = n > 0 ? n : 1;
	a->random = seed * 2 + 1;
	a->channel = channel;
	a->fresh = true;
	return a;
}

struct attack *attack_free(struct attack *a)
{
	free(a);
	return NULL;
}

void attack_exit_acked(struct attack *a, uint32_t channel)
{
	if (channel != ROUND_CHANNEL + a->round)
		return;
	a->done += a->in_round;
	a->in_round = 0;
	fake_tell("frames %llu", (unsigned long long)a->done);
}

uint64_t attack_wait(const struct attack *a)
{
	return a->in_round == ROUND_FRAMES ? a->round_end : 0;
}

void attack_resumed(struct attack *a)
{
	a->fresh = true;
	a->in_round = 0;
	if (a->kind->stays)
		a->done = 0;
}

bool attack_fill(struct attack *a, struct buf *out, uint64_t sent)
{
	size_t had = buf_len(out);

	if (a->fresh)
		a->sent = sent;
	while (buf_len(out) - had < BATCH && (a->kind->stays || a->done < a->n)) {
		if (a->kind->put(a, out) < 0)
			break;
		a->fresh = false;
		a->done += a->kind->put != mutate; /* mutations count once pyrod has read them */
	}
	return buf_len(out) > had;
}

bool attack_over(const struct attack *a)
{
	return !a->kind->stays && a->done >= a->n;
}

void attack_list(FILE *out)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		(void)fprintf(out, "%s\n", kinds[i].name);
}
