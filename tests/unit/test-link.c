/* SPDX-License-Identifier: MIT */
/*
 * The host's end of an agent stream over socketpairs, with an agent that uses the guest's decoder:
 * greeting, both directions cut at every byte of a frame, junk before the nonce, and a peer that
 * breaks the protocol. Run by `meson test link`.
 */

#include "daemon/agent/link.h"

#include "tests/unit/recorded.h"

#include <check.h>
#include <signal.h>
#include <sys/socket.h>

#define DEADLINE_USEC (20 * USEC_PER_SEC)
#define FIRST_USEC    (10 * USEC_PER_SEC)
#define CHANNEL       7

static const uint8_t text[] = "0123456789abcdefghijklmnopqrstuvwxyz";

static struct world {
	sd_event *event;
	struct link *link;
	int agent; /* owned: the agent's end of the present connection */
	struct decoder in;
	bool refuse; /* a dial fails */
	bool later;  /* a dial returns -EINPROGRESS, */
	bool within; /* or calls link_take itself */
	unsigned dials, welcomes, frames, dead, syncs, hellos;
	struct msg_hello hello;
	uint64_t bytes; /* of DATA that reached the host; restarts with each connection */
	bool fill;      /* bulk data for the agent is pending */
	uint64_t filled;
	unsigned at_agent; /* whole DATA frames the agent has decoded */
	struct error err;
} w;

static int new_stream(void)
{
	int pair[2];

	w.agent = fd_close(w.agent);
	ck_assert_int_eq(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	w.agent = pair[1];
	return pair[0];
}

static int dial(_unused_ void *userdata)
{
	w.dials++;
	if (w.refuse)
		return -ECONNREFUSED;
	if (w.within)
		link_take(w.link, new_stream());
	return w.later || w.within ? -EINPROGRESS : new_stream();
}

static int on_welcome(_unused_ struct link *l, const struct msg_welcome *m, _unused_ void *userdata)
{
	ck_assert_uint_eq(m->version, AGENT_PROTOCOL_MAX);
	w.welcomes++;
	w.bytes = 0;
	return 0;
}

static int on_frame(_unused_ struct link *l, const struct frame *f, _unused_ void *userdata)
{
	struct frame_data d;
	int r = frame_get_data(f, &d);

	if (r < 0)
		return r;
	/* A frame made of two connections would fail here. */
	ck_assert_uint_eq(f->channel, CHANNEL);
	ck_assert_uint_eq(d.offset, w.bytes);
	ck_assert_uint_eq(d.n, sizeof(text));
	ck_assert_mem_eq(d.bytes, text, sizeof(text));
	w.bytes += d.n;
	w.frames++;
	return 0;
}

static void fill(_unused_ struct link *l, struct buf *out, _unused_ void *userdata)
{
	if (!w.fill)
		return;
	w.fill = false;
	ck_assert_int_ge(
		frame_put_data(out, CHANNEL, STREAM_STDIN, w.filled, text, sizeof(text)), 0);
}

static void on_dead(_unused_ struct link *l, const struct error *err, _unused_ void *userdata)
{
	w.dead++;
	ck_assert_int_ge(error_copy(&w.err, err), 0);
}

static const struct link_callbacks callbacks = { dial, on_welcome, on_frame, fill, on_dead };

static void setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	w = (struct world){ .agent = -EBADF, .err = ERROR_INIT };
	ck_assert_int_ge(sd_event_new(&w.event), 0);
	decoder_init(&w.in, DECODER_SYNC, frame_sync_initial);
	ck_assert_int_ge(link_new(w.event, &callbacks, NULL, FIRST_USEC, &w.link), 0);
}

static void teardown(void)
{
	link_free(w.link);
	decoder_done(&w.in);
	error_clear(&w.err);
	w.agent = fd_close(w.agent);
	w.event = sd_event_unref(w.event);
}

/* Lets the agent decode its pending input. */
static void agent_read(void)
{
	struct frame f;
	size_t room;
	int r;

	for (;;) {
		uint8_t *p = decoder_space(&w.in, &room);
		ck_assert_ptr_nonnull(p);
		ssize_t n = w.agent >= 0 ? recv(w.agent, p, room, MSG_DONTWAIT) : -1;
		if (n <= 0)
			return;
		decoder_fed(&w.in, (size_t)n);
		while ((r = decoder_next(&w.in, &f)) != DECODER_MORE) {
			ck_assert_int_ge(r, 0);
			if (r == DECODER_RESYNC) {
				w.syncs++;
			} else if (f.type == FRAME_HELLO) {
				ck_assert_int_ge(
					msg_hello_get(&f, AGENT_PROTOCOL_MAX, &w.hello), 0);
				w.hellos++;
			} else if (f.type == FRAME_DATA) {
				struct frame_data d;
				ck_assert_int_ge(frame_get_data(&f, &d), 0);
				ck_assert_uint_eq(d.n, sizeof(text));
				ck_assert_mem_eq(d.bytes, text, sizeof(text));
				w.at_agent++;
			}
		}
	}
}

static void until(const unsigned *count, unsigned want)
{
	for (uint64_t end = now_usec() + DEADLINE_USEC; *count < want;) {
		ck_assert_msg(now_usec() < end, "waited too long for %u of %u", *count, want);
		ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
		agent_read();
	}
}

static void agent_send(const void *p, size_t n)
{
	ck_assert_int_eq(send(w.agent, p, n, MSG_NOSIGNAL), (ssize_t)n);
}

static void say_welcome(uint32_t version)
{
	struct msg_welcome m = { .version = version, .state = AGENT_READY };
	struct buf b;

	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_ge(buf_append(&b, w.hello.nonce, sizeof(w.hello.nonce)), 0);
	ck_assert_int_ge(
		msg_send(&b, AGENT_PROTOCOL_MAX, welcome, FRAME_WELCOME, AGENT_CHANNEL_NONE, &m),
		0);
	agent_send(buf_head(&b), buf_len(&b));
	buf_done(&b);
}

static void greet(void)
{
	unsigned before = w.welcomes;

	until(&w.hellos, w.hellos + 1);
	say_welcome(AGENT_PROTOCOL_MAX);
	until(&w.welcomes, before + 1);
	ck_assert(link_is_up(w.link));
}

/* Makes the bytes of one DATA frame from the agent. */
static size_t make_data(uint64_t offset, struct buf *ret)
{
	buf_init(ret, LIMIT_MESSAGE_BYTES);
	ck_assert_int_ge(
		frame_put_data(ret, CHANNEL, STREAM_STDOUT, offset, text, sizeof(text)), 0);
	return buf_len(ret);
}

static void send_data(uint64_t offset, size_t n)
{
	struct buf b;
	size_t whole = make_data(offset, &b);

	agent_send(buf_head(&b), MIN_OF(n, whole));
	buf_done(&b);
}

START_TEST(greets)
{
	greet();
	ck_assert_uint_eq(w.dials, 1);
	ck_assert_uint_eq(w.syncs, 1);
	send_data(0, SIZE_MAX);
	until(&w.frames, 1);
	w.fill = true;
	link_schedule(w.link);
	until(&w.at_agent, 1);
}
END_TEST

/*
 * Bytes of an earlier connection, left in the pipe, come before the nonce and are discarded. They
 * include half of the nonce. With all but its last byte, a byte that equals the first would
 * complete the whole nonce by chance, once in 256 runs; with half, 16 bytes would have to match.
 */
START_TEST(junk_before_the_nonce)
{
	until(&w.hellos, 1);
	send_data(99, (size_t)_i);
	agent_send(w.hello.nonce, sizeof(w.hello.nonce) / 2);
	say_welcome(AGENT_PROTOCOL_MAX);
	until(&w.welcomes, 1);
	send_data(0, SIZE_MAX);
	until(&w.frames, 1);
	ck_assert_uint_eq(w.dials, 1);
}
END_TEST

/* The connection ends at the _i-th byte of a frame from the agent: none of its bytes becomes part
 * of the next frame. */
START_TEST(agent_cut_in_a_frame)
{
	greet();
	send_data(0, SIZE_MAX);
	send_data(sizeof(text), (size_t)_i);
	until(&w.frames, 1);
	w.agent = fd_close(w.agent);
	greet();
	ck_assert_uint_eq(w.dials, 2);
	send_data(0, SIZE_MAX);
	until(&w.frames, 2);
	ck_assert_uint_eq(w.bytes, sizeof(text));
	ck_assert_uint_eq(w.dead, 0);
}
END_TEST

/* The host's frame is cut at the _i-th byte, and SYNC of the next connection follows directly. */
START_TEST(host_cut_in_a_frame)
{
	struct buf b;

	greet();
	buf_init(&b, LIMIT_MESSAGE_BYTES);
	ck_assert_int_ge(frame_put_data(&b, CHANNEL, STREAM_STDIN, 0, text, sizeof(text)), 0);
	size_t room;
	uint8_t *p = decoder_space(&w.in, &room);
	ck_assert_ptr_nonnull(p);
	memcpy(p, buf_head(&b), (size_t)_i);
	decoder_fed(&w.in, (size_t)_i); /* the part that arrived */
	buf_done(&b);
	w.agent = fd_close(w.agent);
	greet();
	ck_assert_uint_eq(w.syncs, 2);
	ck_assert_uint_eq(w.at_agent, 0);
	w.fill = true;
	link_schedule(w.link);
	until(&w.at_agent, 1);
}
END_TEST

/* An unconfirmed secret alternates with the initial SYNC; a confirmed one is the only one sent. */
START_TEST(secret)
{
	uint8_t sync[SYNC_SIZE];

	greet();
	frame_make_sync(sync);
	link_set_sync(w.link, sync, true);
	decoder_set_mark(&w.in, sync);
	w.agent = fd_close(w.agent);
	greet();
	ck_assert_uint_eq(w.syncs, 2);
	ck_assert_uint_eq(w.dials, 2);
}
END_TEST

/* A guest that is only now booted does not know the secret: it is greeted at once with the
 * constant, not after a try with the secret. */
START_TEST(restarted)
{
	uint8_t sync[SYNC_SIZE];

	frame_make_sync(sync);
	link_set_sync(w.link, sync, true);
	until(&w.dials, 1);
	link_restart(w.link);
	greet();
	ck_assert_uint_eq(w.dials, 2);
	ck_assert_uint_eq(w.syncs, 1);
}
END_TEST

/* A promised stream comes by link_take, later or from within the dial. */
START_TEST(stream_handed_up)
{
	w.later = _i == 0;
	w.within = _i == 1;
	until(&w.dials, 1);
	if (w.later) {
		ck_assert(!link_is_up(w.link));
		link_take(w.link, new_stream());
	}
	greet();
	ck_assert_uint_eq(w.dials, 1);
	w.agent = fd_close(w.agent);
	until(&w.dials, 2);
	if (w.later)
		link_take(w.link, new_stream());
	greet();
	ck_assert_uint_eq(w.dead, 0);
}
END_TEST

/* The guest dials: the new stream replaces the old one, and further bytes on the old one are
 * ignored. */
START_TEST(guest_dials)
{
	int before;

	greet();
	before = TAKE_FD(w.agent);
	link_take(w.link, new_stream());
	ck_assert(!link_is_up(w.link));
	greet();
	ck_assert_uint_eq(w.dials, 1);
	send_data(0, SIZE_MAX);
	until(&w.frames, 1);
	ck_assert_int_lt(send(before, "x", 1, MSG_NOSIGNAL), 0); /* its other end is closed */
	(void)close(before);
}
END_TEST

/* A hostile guest dials without end: its link ends, as one whose streams keep breaking. */
START_TEST(guest_dials_without_end)
{
	greet();
	for (unsigned i = 0; i < 50 && w.dead == 0; i++)
		link_take(w.link, new_stream());
	ck_assert_uint_eq(w.dead, 1);
	ck_assert_int_eq(w.err.code, ERROR_GUEST_UNRESPONSIVE);
	link_take(w.link, new_stream()); /* closed */
	ck_assert_int_eq(send(w.agent, "x", 1, MSG_NOSIGNAL), -1);
}
END_TEST

static const struct {
	uint16_t type;
	uint32_t length;
} wrong[] = {
	{ FRAME_DATA, FRAME_PAYLOAD_MAX + 1 }, { FRAME_DATA, UINT32_MAX },
	{ FRAME_DATA, 1 },     /* shorter than its header */
	{ FRAME_WELCOME, 0 },  /* a second one */
	{ FRAME_WELCOME, 40 }, /* and a cut one */
};

/* Wrong frames drop the connection, and connections that keep breaking end the link, once. */
START_TEST(broken_protocol)
{
	for (unsigned try = 0; try <= LINK_TRIES; try++) {
		uint8_t head[FRAME_HEAD_SIZE + 64] = { 0 };
		unsigned before = w.dials;

		greet();
		for (size_t i = 0; i < 4; i++)
			head[i] = (uint8_t)(wrong[_i].length >> 8 * i);
		head[4] = (uint8_t)wrong[_i].type;
		head[8] = CHANNEL;
		agent_send(head, sizeof(head));
		if (try < LINK_TRIES)
			until(&w.dials, before + 1);
	}
	until(&w.dead, 1);
	ck_assert_int_eq(w.err.code, ERROR_GUEST_UNRESPONSIVE);
	ck_assert(!link_is_up(w.link));
	unsigned dials = w.dials;
	for (int i = 0; i < 20; i++)
		ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(w.dials, dials);
	ck_assert_uint_eq(w.dead, 1);
}
END_TEST

/* An unsupported version, and a frame before WELCOME. */
START_TEST(bad_welcome)
{
	until(&w.hellos, 1);
	if (_i == 0) {
		say_welcome(AGENT_PROTOCOL_MAX + 1);
	} else {
		agent_send(w.hello.nonce, sizeof(w.hello.nonce));
		send_data(0, SIZE_MAX);
	}
	until(&w.dials, 2);
	greet();
	ck_assert_uint_eq(w.frames, 0);
}
END_TEST

/* A guest that has not booted yet is dialled again and again. */
/* A paused guest answers nothing: its time starts when it is resumed. */
START_TEST(no_deadline_while_it_stands_still)
{
	uint64_t end = now_usec() + 400 * USEC_PER_MSEC, left;

	link_free(w.link);
	w.refuse = true;
	ck_assert_int_ge(link_new(w.event, &callbacks, NULL, 200 * USEC_PER_MSEC, &w.link), 0);
	link_hold(w.link, true);
	link_hold(w.link, true); /* sent twice */
	while (now_usec() < end)
		ck_assert_int_ge(sd_event_run(w.event, 10 * USEC_PER_MSEC), 0);
	ck_assert_uint_eq(w.dead, 0);
	link_hold(w.link, false);
	left = now_usec() + 150 * USEC_PER_MSEC;
	until(&w.dead, 1);
	ck_assert_uint_ge(now_usec(), left);
}
END_TEST

START_TEST(refused_at_first)
{
	w.refuse = true;
	until(&w.dials, 3);
	w.refuse = false;
	greet();
	ck_assert_uint_eq(w.dead, 0);
}
END_TEST

/* A recorded agent */

static struct {
	unsigned version;
	struct recorded want; /* sent by the agent */
	unsigned came;
} played;

static int recorded_welcome(
	_unused_ struct link *l, const struct msg_welcome *m, _unused_ void *userdata)
{
	ck_assert_str_eq(played.want.name, "WELCOME");
	ck_assert_uint_eq(m->version, played.version);
	played.came++;
	return 0;
}

static int recorded_frame(_unused_ struct link *l, const struct frame *f, _unused_ void *userdata)
{
	ck_assert_uint_eq(f->type, played.want.frame.type);
	ck_assert_uint_eq(f->channel, played.want.frame.channel);
	ck_assert_uint_eq(f->length, played.want.frame.length);
	ck_assert_mem_eq(f->payload, played.want.frame.payload, f->length);
	played.came++;
	return 0;
}

static void play_line(const struct recorded *line)
{
	static const struct link_callbacks cb = { dial, recorded_welcome, recorded_frame, fill,
		on_dead };
	enum { SECRET = 64 + 8 + 16 }; /* its offset in SETUP */

	if (line->way == '=') {
		teardown();
		setup();
		link_free(w.link);
		ck_assert_int_ge(link_new(w.event, &cb, NULL, FIRST_USEC, &w.link), 0);
	} else if (line->way == '-') {
		w.agent = fd_close(w.agent);
		until(&w.hellos, w.hellos + 1);
	} else if (line->way == '>' && line->frame.type == FRAME_SETUP) {
		link_set_sync(w.link, line->frame.payload + SECRET, true);
		decoder_set_mark(&w.in, line->frame.payload + SECRET);
	} else if (streq(line->name, "NONCE")) {
		agent_send(w.hello.nonce, sizeof(w.hello.nonce));
	} else if (line->way == '<') {
		played.want = *line;
		played.want.frame.payload = played.want.data + FRAME_HEAD_SIZE;
		agent_send(line->data, line->n);
		/* Frame types unknown to this version are skipped. */
		if (agent_knows((uint16_t)played.version, line->frame.type))
			until(&played.came, played.came + 1);
	}
}

/* The link accepts the recorded frames of each version's agent, one connection after the other. */
START_TEST(recorded_agent)
{
	FILE *file = recorded_open((unsigned)_i);
	struct recorded line;

	played.version = (unsigned)_i;
	while (recorded_next(file, &line))
		play_line(&line);
	ck_assert_uint_gt(played.came, 30);
	ck_assert_uint_eq(w.dead, 0);
}
END_TEST

int main(void)
{
	const int frame = FRAME_HEAD_SIZE + FRAME_DATA_HEAD + sizeof(text);
	Suite *s = suite_create("link");
	TCase *t = tcase_create("link");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, greets);
	tcase_add_loop_test(t, junk_before_the_nonce, 0, frame);
	tcase_add_loop_test(t, agent_cut_in_a_frame, 0, frame);
	tcase_add_loop_test(t, host_cut_in_a_frame, 0, frame);
	tcase_add_test(t, secret);
	tcase_add_test(t, restarted);
	tcase_add_loop_test(t, stream_handed_up, 0, 2);
	tcase_add_test(t, guest_dials);
	tcase_add_test(t, guest_dials_without_end);
	tcase_add_loop_test(t, broken_protocol, 0, ARRAY_SIZE(wrong));
	tcase_add_loop_test(t, bad_welcome, 0, 2);
	tcase_add_test(t, refused_at_first);
	tcase_add_test(t, no_deadline_while_it_stands_still);
	tcase_add_loop_test(t, recorded_agent, AGENT_PROTOCOL_MIN, AGENT_PROTOCOL_MAX);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
