/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/stream.c and loop.c: the ring wraps without mixing bytes, never reads beyond
 * window or limit, and resumes from the acknowledged offset; input takes every byte once; timers
 * fire in order, and a removed source is never called.
 */

#include "guest/stream.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>

static struct loop *loop;
static struct out_stream out;
static struct in_stream in;
static int theirs;

static void setup_out(uint64_t limit)
{
	int fds[2];

	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_ge(fcntl(fds[1], F_SETPIPE_SZ, 1024 * 1024), 0);
	out = (struct out_stream){ 0 };
	theirs = fds[1];
	ck_assert_int_eq(out_open(&out, fds[0], limit), 0);
}

static int put_in(uint64_t offset, const void *p, size_t n)
{
	return in_data(loop, &in, (struct frame_data){ STREAM_STDIN, offset, p, n });
}

static void setup_in(void)
{
	int fds[2];

	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	in = (struct in_stream){ 0 };
	in_init(&in);
	in_open(&in, fds[1]);
	theirs = fds[0];
}

static void done(void)
{
	out_done(loop, &out);
	in_done(loop, &in);
	theirs = fd_close(theirs);
	loop = loop_free(loop);
}

static void put(size_t n)
{
	static uint64_t counter;
	uint8_t b[4096];

	while (n > 0) {
		size_t part = MIN_OF(n, sizeof(b));
		for (size_t i = 0; i < part; i++)
			b[i] = (uint8_t)((counter + i) * 7 >> 3);
		ck_assert_int_eq(write(theirs, b, part), (ssize_t)part);
		counter += part;
		n -= part;
	}
	out.readable = true;
}

static void take(uint64_t upto)
{
	struct buf b;

	buf_init(&b, FRAME_HEAD_SIZE + FRAME_PAYLOAD_MAX);
	while (out.w.sent < upto) {
		uint64_t at = out.w.sent;

		ck_assert_int_eq(window_sender_put_data(&out.w, &b, 1, STREAM_STDOUT), 1);
		buf_consume(&b, FRAME_HEAD_SIZE + FRAME_DATA_HEAD);
		ck_assert_uint_eq(buf_len(&b), out.w.sent - at);
		for (size_t i = 0; i < buf_len(&b); i++)
			ck_assert_uint_eq(buf_head(&b)[i], (uint8_t)((at + i) * 7 >> 3));
		buf_clear(&b);
	}
	ck_assert_uint_eq(out.w.sent, upto);
	ck_assert_int_eq(window_sender_put_data(&out.w, &b, 1, STREAM_STDOUT), 0);
	buf_done(&b);
}

START_TEST(ring)
{
	setup_out(1000);
	put(STREAM_WINDOW + 5000);
	ck_assert_int_eq(out_fill(loop, &out), 1000);
	ck_assert_int_eq(out_ack(&out, 0, UINT64_MAX), 0);
	ck_assert_int_eq(out_fill(loop, &out), STREAM_WINDOW - 1000);
	ck_assert_int_eq(out_fill(loop, &out), 0);
	take(STREAM_WINDOW);
	ck_assert_int_eq(out_ack(&out, 3000, 0), 0);
	ck_assert_int_eq(out_fill(loop, &out), 3000);
	take(STREAM_WINDOW + 3000);
	ck_assert_int_eq(out_ack(&out, 2000, 0), 0); /* older: ignored */
	ck_assert_uint_eq(out.w.acked, 3000);
	ck_assert_int_eq(out_ack(&out, STREAM_WINDOW + 3001, 0), -EBADMSG);
	ck_assert_int_eq(out_resume(&out, 100, 0), 0);
	ck_assert_uint_eq(out.w.sent, 3000);
	take(STREAM_WINDOW + 3000);
	out_note_owed(&out);
	ck_assert_uint_eq(out.owed, STREAM_WINDOW + 5000);
	theirs = fd_close(theirs);
	ck_assert_int_eq(out_ack(&out, STREAM_WINDOW + 3000, 0), 0);
	ck_assert_int_eq(out_fill(loop, &out), 2000);
	ck_assert_int_lt(out.fd, 0);
	take(STREAM_WINDOW + 5000);
	done();
}
END_TEST

START_TEST(discard)
{
	setup_out(0);
	put(700 * 1024);
	ck_assert(out_discard(loop, &out));
	while (out_discard(loop, &out))
		;
	theirs = fd_close(theirs);
	out.readable = true;
	ck_assert(!out_discard(loop, &out));
	ck_assert_int_lt(out.fd, 0);
	ck_assert_uint_eq(out.w.produced, 0);
	done();
}
END_TEST

START_TEST(input_once)
{
	char b[16];

	setup_in();
	ck_assert_int_eq(put_in(0, "abc", 3), 0);
	ck_assert_int_eq(put_in(1, "bcd", 3), 0);
	ck_assert_int_eq(put_in(5, "f", 1), -EBADMSG);
	ck_assert_int_eq(put_in(UINT64_MAX, "f", 1), -EBADMSG);
	ck_assert_int_eq(in_end(loop, &in, 3), -EBADMSG);
	ck_assert_int_eq(in_end(loop, &in, 4), 0);
	ck_assert_int_eq(in_end(loop, &in, 4), 0);
	/* A daemon that does not know of the END goes on: nothing is taken, and the ACK says so. */
	in.ack_due = false;
	ck_assert_int_eq(put_in(4, "e", 1), 0);
	ck_assert_int_eq(put_in(9, "f", 1), 0);
	ck_assert_int_eq(in_end(loop, &in, 5), 0);
	ck_assert(in.ack_due && in.w.ended && in.w.received == 4);
	ck_assert_int_eq(read(theirs, b, sizeof(b)), 4);
	ck_assert_mem_eq(b, "abcd", 4);
	ck_assert_int_eq(read(theirs, b, sizeof(b)), 0);
	ck_assert_uint_eq(in_written(&in), 4);
	done();
}
END_TEST

START_TEST(input_window)
{
	static uint8_t b[STREAM_WINDOW];
	uint64_t at;

	setup_in();
	ck_assert_int_eq(put_in(0, b, sizeof(b)), 0);
	at = in_written(&in);
	ck_assert_uint_gt(at, 0);
	ck_assert_uint_lt(at, sizeof(b));
	ck_assert_int_eq(put_in(in.w.received, b, at), 0);
	ck_assert_int_eq(put_in(in.w.received, b, 1), -EBADMSG);
	/* The reader closes: all input is dropped but acknowledged. */
	theirs = fd_close(theirs);
	(void)signal(SIGPIPE, SIG_IGN);
	in_flush(loop, &in);
	ck_assert(in.closed);
	ck_assert_uint_eq(in_written(&in), in.w.received);
	ck_assert_int_eq(put_in(in.w.received, b, sizeof(b)), 0);
	ck_assert_uint_eq(in_written(&in), in.w.received);
	done();
}
END_TEST

static int order[4], n_order;
static struct timer timers[3];
static struct source sources[2];

static void on_timer(struct timer *t)
{
	order[n_order++] = (int)(t - timers);
	if (n_order == 2)
		loop_stop(loop);
}

/* The first of the two sources removes the other. */
static void on_event(struct source *s, uint32_t events)
{
	(void)events;
	n_order++;
	loop_unwatch(loop, &sources[s == &sources[0]]);
	loop_stop(loop);
}

START_TEST(timers_in_order)
{
	uint64_t now = now_usec();

	n_order = 0;
	ck_assert_int_eq(loop_new(&loop), 0);
	for (size_t i = 0; i < 3; i++)
		timers[i] = (struct timer){ .on_timer = on_timer };
	loop_arm(loop, &timers[0], now + 3000);
	loop_arm(loop, &timers[1], now + 2000);
	loop_arm(loop, &timers[2], now + 1000);
	loop_arm(loop, &timers[0], now + 500);
	loop_disarm(loop, &timers[2]);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_int_eq(order[0], 0);
	ck_assert_int_eq(order[1], 1);
	ck_assert_uint_ge(now_usec(), now + 2000);
	loop = loop_free(loop);
}
END_TEST

START_TEST(unwatched_in_the_same_turn)
{
	int fds[2];

	n_order = 0;
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	for (size_t i = 0; i < 2; i++)
		sources[i] = (struct source){ .on_event = on_event };
	ck_assert_int_eq(loop_watch(loop, &sources[0], fds[1], EPOLLOUT), 0);
	ck_assert_int_eq(write(fds[1], "x", 1), 1);
	ck_assert_int_eq(loop_watch(loop, &sources[1], fds[0], EPOLLIN), 0);
	ck_assert_int_eq(loop_run(loop), 0);
	ck_assert_int_eq(n_order, 1);
	loop = loop_free(loop);
	(void)close(fds[0]);
	(void)close(fds[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-stream");
	TCase *tc = tcase_create("guest-stream");

	tcase_add_test(tc, ring);
	tcase_add_test(tc, discard);
	tcase_add_test(tc, input_once);
	tcase_add_test(tc, input_window);
	tcase_add_test(tc, timers_in_order);
	tcase_add_test(tc, unwatched_in_the_same_turn);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
