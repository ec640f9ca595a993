/* SPDX-License-Identifier: MIT */
/*
 * The client's relay of live stdio (client/relay.c) against a peer on the other end of its
 * socketpair: windows, acknowledgements, ends, a slow reader, a closed reader, protocol errors.
 */
#include "client/relay.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include "proto/frame.h"

struct side {
	struct relay *relay;
	int peer;         /* the daemon's end */
	int in, out, err; /* the test's ends of the caller's descriptors */
	struct decoder dec;
	uint64_t upto[STREAM_MAX], limit[STREAM_MAX], stdin_at;
	bool stdin_ended;
};

static void set_up(struct side *s, int pipe_size)
{
	int in[2], out[2], err[2];
	struct error e = ERROR_INIT;

	*s = (struct side){ .peer = -EBADF };
	ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(err, O_CLOEXEC), 0);
	ck_assert_int_ge(fcntl(out[1], F_SETPIPE_SZ, pipe_size), 0);
	ck_assert_int_eq(relay_new(in[0], out[1], err[1], &s->relay, &s->peer, &e), 0);
	ck_assert_int_eq(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0);
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
	ck_assert_int_eq(fcntl(s->out, F_SETFL, O_NONBLOCK), 0);
	decoder_init(&s->dec, DECODER_PLAIN, NULL);
}

static void tear_down(struct side *s)
{
	relay_free(s->relay);
	fd_close(s->peer);
	fd_close(s->in);
	fd_close(s->out);
	fd_close(s->err);
	decoder_done(&s->dec);
}

/* One turn of the relay's loop; never waits. */
static int turn(struct side *s)
{
	struct pollfd fds[RELAY_POLLS];
	_cleanup_error_ struct error e = ERROR_INIT;

	relay_poll(s->relay, fds);
	ck_assert_int_ge(poll(fds, RELAY_POLLS, 0), 0);
	return relay_process(s->relay, fds, &e);
}

/* Runs the loop as the program does: no iteration without an event. */
static void turns_until_it_waits(struct side *s)
{
	_cleanup_error_ struct error e = ERROR_INIT;
	struct pollfd fds[RELAY_POLLS];

	for (;;) {
		relay_poll(s->relay, fds);
		if (poll(fds, RELAY_POLLS, 0) == 0)
			return;
		ck_assert_int_eq(relay_process(s->relay, fds, &e), 0);
	}
}

/* Reads what the relay sent. */
static void listen_to(struct side *s)
{
	struct frame f;
	size_t room;
	ssize_t n;

	for (;;) {
		uint8_t *space = decoder_space(&s->dec, &room);

		n = recv(s->peer, space, room, MSG_DONTWAIT);
		if (n <= 0)
			return;
		decoder_fed(&s->dec, (size_t)n);
		while (decoder_next(&s->dec, &f) == DECODER_FRAME) {
			uint64_t upto, limit;
			struct frame_data d;
			uint8_t stream;

			if (f.type == FRAME_ACK) {
				ck_assert_int_eq(frame_get_ack(&f, &stream, &upto, &limit), 0);
				ck_assert_uint_le(s->upto[stream], upto);
				ck_assert_uint_le(limit, upto + STREAM_WINDOW);
				s->upto[stream] = upto;
				s->limit[stream] = limit;
			} else if (f.type == FRAME_DATA) {
				ck_assert_int_eq(frame_get_data(&f, &d), 0);
				ck_assert_uint_eq(d.offset, s->stdin_at);
				s->stdin_at += d.n;
			} else {
				ck_assert_int_eq(f.type, FRAME_END);
				s->stdin_ended = true;
			}
		}
	}
}

static void say(struct side *s, struct buf *b)
{
	while (buf_len(b) > 0) {
		ssize_t n = buf_write_fd(b, s->peer);

		ck_assert(n > 0 || n == -EAGAIN);
		if (n == -EAGAIN)
			ck_assert_int_ge(turn(s), 0);
	}
	buf_done(b);
}

static void say_data(struct side *s, uint8_t stream, uint64_t offset, size_t n)
{
	static const uint8_t bytes[FRAME_DATA_MAX];
	struct buf b;

	buf_init(&b, FRAME_PAYLOAD_MAX + FRAME_HEAD_SIZE);
	ck_assert_int_ge(frame_put_data(&b, 0, stream, offset, bytes, n), 0);
	say(s, &b);
}

static void say_end(struct side *s, uint8_t stream, uint64_t offset)
{
	struct buf b;

	buf_init(&b, 1024);
	ck_assert_int_ge(frame_put_end(&b, 0, stream, offset), 0);
	say(s, &b);
}

static void say_ack(struct side *s, uint64_t upto, uint64_t limit)
{
	struct buf b;

	buf_init(&b, 1024);
	ck_assert_int_ge(frame_put_ack(&b, 0, STREAM_STDIN, upto, limit), 0);
	say(s, &b);
}

START_TEST(test_first_limits)
{
	struct side s;

	set_up(&s, 4096);
	ck_assert_int_eq(turn(&s), 0);
	listen_to(&s);
	ck_assert_uint_eq(s.limit[STREAM_STDOUT], STREAM_WINDOW);
	ck_assert_uint_eq(s.limit[STREAM_STDERR], STREAM_WINDOW);
	tear_down(&s);
}
END_TEST

/* A slow reader, 4 KiB at a time: no byte is lost, the window is kept, and all is acknowledged. */
START_TEST(test_slow_reader)
{
	uint64_t sent = 0, got = 0, total = 3 * STREAM_WINDOW + 123;
	uint8_t bytes[4096];
	struct side s;
	ssize_t n;

	set_up(&s, 4096);
	ck_assert_int_eq(turn(&s), 0);
	while (got < total) {
		listen_to(&s);
		if (sent < total && sent < s.limit[STREAM_STDOUT]) {
			size_t k = (size_t)MIN_OF(MIN_OF(total, s.limit[STREAM_STDOUT]) - sent,
				(uint64_t)FRAME_DATA_MAX);

			say_data(&s, STREAM_STDOUT, sent, k);
			sent += k;
		}
		ck_assert_int_eq(turn(&s), 0);
		n = read(s.out, bytes, sizeof(bytes));
		got += n > 0 ? (uint64_t)n : 0;
		ck_assert_uint_le(sent, got + STREAM_WINDOW + 4096);
	}
	say_end(&s, STREAM_STDOUT, total);
	say_end(&s, STREAM_STDERR, 0);
	ck_assert_int_eq(turn(&s), 0);
	ck_assert_int_eq(turn(&s), 0);
	listen_to(&s);
	ck_assert(relay_finished(s.relay));
	ck_assert_uint_eq(s.upto[STREAM_STDOUT], total);
	tear_down(&s);
}
END_TEST

START_TEST(test_stderr_is_not_held_by_stdout)
{
	uint8_t bytes[64];
	uint64_t sent = 0;
	struct side s;

	set_up(&s, 4096);
	for (; sent + FRAME_DATA_MAX <= STREAM_WINDOW; sent += FRAME_DATA_MAX)
		say_data(&s, STREAM_STDOUT, sent, FRAME_DATA_MAX);
	say_data(&s, STREAM_STDERR, 0, 5);
	for (int i = 0; i < 50; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert_int_eq(read(s.err, bytes, sizeof(bytes)), 5);
	ck_assert(!relay_finished(s.relay));
	tear_down(&s);
}
END_TEST

START_TEST(test_repeated_data_is_skipped)
{
	uint8_t bytes[64];
	struct side s;

	set_up(&s, 4096);
	say_data(&s, STREAM_STDOUT, 0, 10);
	say_data(&s, STREAM_STDOUT, 5, 10);
	say_data(&s, STREAM_STDOUT, 0, 3);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert_int_eq(read(s.out, bytes, sizeof(bytes)), 15);
	tear_down(&s);
}
END_TEST

static int until_failure(struct side *s)
{
	int r = 0;

	for (int i = 0; i < 50 && r == 0; i++)
		r = turn(s);
	return r;
}

START_TEST(test_broken_rules)
{
	static const uint8_t huge[FRAME_HEAD_SIZE] = { 0xff, 0xff, 0xff, 0xff };
	struct side s;

	for (int i = 0; i < 7; i++) {
		set_up(&s, 4096);
		switch (i) {
		case 0: say_data(&s, STREAM_STDOUT, 1, 1); break;
		case 1: say_data(&s, STREAM_STDIN, 0, 1); break;
		case 2: say_data(&s, STREAM_PTY, 0, 1); break;
		case 3: say_end(&s, STREAM_STDERR, 1); break;
		case 4: say_ack(&s, 1, 2); break;
		case 5: ck_assert_int_eq(send(s.peer, huge, sizeof(huge), 0), sizeof(huge)); break;
		case 6:
			say_end(&s, STREAM_STDOUT, 0);
			say_data(&s, STREAM_STDOUT, 0, 1);
			break;
		}
		ck_assert_msg(until_failure(&s) < 0, "case %d", i);
		ck_assert(relay_ended(s.relay));
		tear_down(&s);
	}
}
END_TEST

/* The daemon sends beyond the limit while stdout is not read. */
START_TEST(test_beyond_the_limit)
{
	static const uint8_t bytes[FRAME_DATA_MAX];
	struct buf b;
	uint64_t sent = 0;
	struct side s;
	int r = 0;

	set_up(&s, 4096);
	buf_init(&b, 1024 * 1024);
	for (int i = 0; i < 20; i++, sent += FRAME_DATA_MAX)
		ck_assert_int_ge(
			frame_put_data(&b, 0, STREAM_STDOUT, sent, bytes, FRAME_DATA_MAX), 0);
	for (int i = 0; i < 200 && r == 0; i++) {
		(void)buf_write_fd(&b, s.peer);
		r = turn(&s);
	}
	ck_assert_int_lt(r, 0);
	buf_done(&b);
	tear_down(&s);
}
END_TEST

START_TEST(test_reader_gone)
{
	struct side s;

	(void)signal(SIGPIPE, SIG_IGN);
	set_up(&s, 4096);
	s.out = fd_close(s.out);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert(!relay_stdout_closed(s.relay)); /* nothing was written yet */
	say_data(&s, STREAM_STDOUT, 0, 10);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert(relay_stdout_closed(s.relay));
	listen_to(&s);
	ck_assert_uint_eq(s.upto[STREAM_STDOUT], 10);
	tear_down(&s);
}
END_TEST

START_TEST(test_stdin_follows_the_limit)
{
	static const uint8_t bytes[1000];
	struct side s;

	set_up(&s, 4096);
	ck_assert_int_eq(write(s.in, bytes, sizeof(bytes)), sizeof(bytes));
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(turn(&s), 0);
	listen_to(&s);
	ck_assert_uint_eq(s.stdin_at, 0);
	say_ack(&s, 0, 100);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(turn(&s), 0);
	listen_to(&s);
	ck_assert_uint_eq(s.stdin_at, 100);
	say_ack(&s, 100, 5000);
	s.in = fd_close(s.in);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(turn(&s), 0);
	listen_to(&s);
	ck_assert_uint_eq(s.stdin_at, 1000);
	ck_assert(s.stdin_ended);
	tear_down(&s);
}
END_TEST

/* The daemon dies with a window of stdin in flight. The next daemon gets all of it from the guest's
 * offset on, although no further byte can be read. */
START_TEST(test_held_stdin_is_sent_again)
{
	static const uint8_t bytes[4096];
	_cleanup_error_ struct error e = ERROR_INIT;
	uint64_t accepted = 12345;
	struct side s;

	set_up(&s, 4096);
	say_ack(&s, 0, STREAM_WINDOW);
	for (size_t sent = 0; sent < STREAM_WINDOW; sent += sizeof(bytes)) {
		ck_assert_int_eq(write(s.in, bytes, sizeof(bytes)), sizeof(bytes));
		turns_until_it_waits(&s);
		listen_to(&s);
	}
	ck_assert_uint_eq(s.stdin_at, STREAM_WINDOW);
	fd_close(s.peer);
	ck_assert_int_eq(relay_renew(s.relay, &s.peer, &e), 0);
	s.stdin_at = accepted;
	s.in = fd_close(s.in);
	say_ack(&s, accepted, accepted + STREAM_WINDOW);
	while (s.stdin_at < STREAM_WINDOW || !s.stdin_ended) {
		uint64_t before = s.stdin_at;
		bool ended = s.stdin_ended;

		turns_until_it_waits(&s);
		listen_to(&s);
		ck_assert_msg(s.stdin_at > before || s.stdin_ended > ended, "stands still at %ju",
			(uintmax_t)before);
	}
	ck_assert_uint_eq(s.stdin_at, STREAM_WINDOW);
	tear_down(&s);
}
END_TEST

/* A caller that attaches to a running command: the first frame of each stream gives its offset. */
START_TEST(test_streams_begin_anywhere)
{
	static const uint8_t typed[10];
	const uint64_t base = 3 * (uint64_t)STREAM_WINDOW + 5;
	uint8_t bytes[64];
	uint64_t offset;
	struct side s;

	set_up(&s, 4096);
	relay_accept_offsets(s.relay);
	ck_assert(!relay_offset(s.relay, false, &offset));
	ck_assert_int_eq(write(s.in, typed, sizeof(typed)), sizeof(typed));
	say_data(&s, STREAM_STDOUT, base, 10);
	turns_until_it_waits(&s);
	listen_to(&s);
	ck_assert_int_eq(read(s.out, bytes, sizeof(bytes)), 10);
	ck_assert(relay_offset(s.relay, false, &offset));
	ck_assert_uint_eq(offset, base + 10);
	ck_assert_uint_eq(s.upto[STREAM_STDOUT], base + 10);
	ck_assert_uint_eq(s.limit[STREAM_STDOUT], base + 10 + STREAM_WINDOW);
	ck_assert(!relay_offset(s.relay, true, &offset));

	s.stdin_at = 7000; /* what another caller has sent */
	say_ack(&s, 7000, 7000 + STREAM_WINDOW);
	turns_until_it_waits(&s);
	listen_to(&s);
	ck_assert_uint_eq(s.stdin_at, 7010);
	say_ack(&s, 7010, 7010 + STREAM_WINDOW);

	say_end(&s, STREAM_STDOUT, base + 10);
	say_end(&s, STREAM_STDERR, 99);
	turns_until_it_waits(&s);
	ck_assert(relay_finished(s.relay));
	tear_down(&s);
}
END_TEST

/* Only the first frame gives an offset. */
START_TEST(test_streams_continue_where_they_are)
{
	struct side s;

	for (int i = 0; i < 4; i++) {
		set_up(&s, 4096);
		relay_accept_offsets(s.relay);
		say_data(&s, STREAM_STDOUT, 1000, 10);
		say_ack(&s, 1000, 2000);
		turns_until_it_waits(&s);
		switch (i) {
		case 0: say_data(&s, STREAM_STDOUT, 1011, 1); break;
		case 1: say_end(&s, STREAM_STDOUT, 1009); break;
		case 2: say_ack(&s, 1001, 2000); break;
		case 3:
			say_end(&s, STREAM_STDERR, 5);
			say_data(&s, STREAM_STDERR, 9, 1);
			break;
		}
		ck_assert_msg(until_failure(&s) < 0, "case %d", i);
		tear_down(&s);
	}
}
END_TEST

/* The daemon is lost before stderr had a frame: the next one may begin anywhere with it. */
START_TEST(test_streams_begin_anywhere_after_a_loss)
{
	_cleanup_error_ struct error e = ERROR_INIT;
	uint64_t offset;
	struct side s;

	set_up(&s, 4096);
	relay_accept_offsets(s.relay);
	say_data(&s, STREAM_STDOUT, 1000, 10);
	turns_until_it_waits(&s);
	fd_close(s.peer);
	ck_assert_int_eq(relay_renew(s.relay, &s.peer, &e), 0);
	ck_assert(!relay_offset(s.relay, true, &offset));
	say_data(&s, STREAM_STDOUT, 1010, 5);
	say_data(&s, STREAM_STDERR, 50, 5);
	turns_until_it_waits(&s);
	ck_assert(relay_offset(s.relay, false, &offset) && offset == 1015);
	ck_assert(relay_offset(s.relay, true, &offset) && offset == 55);
	tear_down(&s);
}
END_TEST

START_TEST(test_mid_line)
{
	struct side s;

	set_up(&s, 4096);
	ck_assert(!relay_end_line(s.relay));
	say_data(&s, STREAM_STDOUT, 0, 1);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert(!relay_end_line(s.relay)); /* another file than stderr's */
	tear_down(&s);
}
END_TEST

START_TEST(test_peer_closes)
{
	uint8_t bytes[64];
	struct side s;

	set_up(&s, 4096);
	say_data(&s, STREAM_STDOUT, 0, 10);
	s.peer = fd_close(s.peer);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq(turn(&s), 0);
	ck_assert(relay_finished(s.relay));
	ck_assert_int_eq(read(s.out, bytes, sizeof(bytes)), 10);
	tear_down(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli-relay");
	TCase *t = tcase_create("all");
	SRunner *sr;

	suite_add_tcase(s, t);
	tcase_add_test(t, test_first_limits);
	tcase_add_test(t, test_slow_reader);
	tcase_add_test(t, test_stderr_is_not_held_by_stdout);
	tcase_add_test(t, test_repeated_data_is_skipped);
	tcase_add_test(t, test_broken_rules);
	tcase_add_test(t, test_beyond_the_limit);
	tcase_add_test(t, test_reader_gone);
	tcase_add_test(t, test_stdin_follows_the_limit);
	tcase_add_test(t, test_held_stdin_is_sent_again);
	tcase_add_test(t, test_streams_begin_anywhere);
	tcase_add_test(t, test_streams_continue_where_they_are);
	tcase_add_test(t, test_streams_begin_anywhere_after_a_loss);
	tcase_add_test(t, test_mid_line);
	tcase_add_test(t, test_peer_closes);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	srunner_free(sr);
	return 0;
}
