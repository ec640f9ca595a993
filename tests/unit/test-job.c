/* SPDX-License-Identifier: MIT */
/*
 * Tests of daemon/job.c: lines and exits are reported once and in order, a held pipe or an endless
 * writer never blocks the loop, cancelling is safe from every callback, and no process is left. A
 * job that hangs fails by the timeout of its test.
 */

#include "daemon/job.h"
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

enum cancel_when { CANCEL_NEVER, CANCEL_IN_LINE, CANCEL_IN_DONE };

struct result {
	sd_event *event;
	unsigned lines, done;
	size_t longest;
	int status;
	char last[256], tail[5000];
	enum cancel_when cancel;
};

static void on_line(struct job *job, const char *line, size_t n, void *userdata)
{
	struct result *r = userdata;

	ck_assert_uint_eq(r->done, 0);
	ck_assert_int_eq(line[n], '\0');
	r->lines++;
	r->longest = MAX_OF(r->longest, n);
	memcpy(r->last, line, MIN_OF(n + 1, sizeof(r->last) - 1));
	if (r->cancel == CANCEL_IN_LINE) {
		ck_assert_ptr_null(job_cancel(job));
		(void)sd_event_exit(r->event, 0);
	}
}

static void on_done(struct job *job, int status, const char *tail, void *userdata)
{
	struct result *r = userdata;

	r->done++;
	r->status = status;
	ck_assert_uint_lt(strlen(tail), sizeof(r->tail));
	strcpy(r->tail, tail);
	if (r->cancel == CANCEL_IN_DONE)
		ck_assert_ptr_null(job_cancel(job));
	(void)sd_event_exit(r->event, 0);
}

static struct job *start(struct result *r, const char *line, uint64_t timeout_usec)
{
	const char *argv[] = { "/bin/sh", "-c", line, NULL };
	struct job_spec spec = {
		.name = "test",
		.child = { .argv = argv, .stdin_fd = -EBADF, .die_with_parent = true },
		.timeout_usec = timeout_usec,
		.on_line = on_line,
		.on_done = on_done,
		.userdata = r,
	};
	struct job *job = NULL;

	if (!r->event)
		ck_assert_int_ge(sd_event_new(&r->event), 0);
	ck_assert_int_eq(job_start(r->event, &spec, &job), 0);
	return job;
}

static void loop(struct result *r)
{
	ck_assert_int_ge(sd_event_loop(r->event), 0);
	r->event = sd_event_unref(r->event);
}

static void run(struct result *r, const char *line, uint64_t timeout_usec)
{
	(void)start(r, line, timeout_usec);
	loop(r);
	ck_assert_uint_eq(r->done, 1);
}

START_TEST(lines_and_status)
{
	struct result r = { 0 };

	run(&r, "echo one; echo; printf 'last without end'; echo oops >&2; exit 3", 0);
	ck_assert_uint_eq(r.lines, 3);
	ck_assert_str_eq(r.last, "last without end");
	ck_assert_str_eq(r.tail, "oops\n");
	ck_assert_int_eq(r.status, 3);
}
END_TEST

START_TEST(signal_is_negative)
{
	struct result r = { .cancel = CANCEL_IN_DONE };

	run(&r, "kill -SEGV $$", 0);
	ck_assert_int_eq(r.status, -SIGSEGV);
	ck_assert_str_eq(r.tail, "");
}
END_TEST

START_TEST(many_lines)
{
	struct result r = { 0 };

	run(&r, "seq 1 200000; seq 1 20000 >&2; echo end >&2", 0);
	ck_assert_uint_eq(r.lines, 200000);
	ck_assert_str_eq(r.last, "200000");
	ck_assert_int_eq(r.status, 0);
	ck_assert_uint_eq(strlen(r.tail), 4096);
	ck_assert_str_eq(r.tail + 4096 - 10, "20000\nend\n");
}
END_TEST

START_TEST(nul_in_stderr)
{
	struct result r = { 0 };

	run(&r, "printf 'a\\0b\\0' >&2", 0);
	ck_assert_str_eq(r.tail, "a b ");
}
END_TEST

START_TEST(longest_line)
{
	struct result r = { 0 }, longer = { 0 };

	run(&r, "head -c 65536 /dev/zero | tr '\\0' x; echo; head -c 65536 /dev/zero | tr '\\0' y",
		0);
	ck_assert_uint_eq(r.lines, 2);
	ck_assert_uint_eq(r.longest, 65536);
	ck_assert_int_eq(r.status, 0);
	run(&longer, "head -c 65537 /dev/zero | tr '\\0' x; echo; exit 0", 0);
	ck_assert_uint_eq(longer.lines, 0);
	ck_assert_int_eq(longer.status, -SIGKILL);
	ck_assert_ptr_nonnull(strstr(longer.tail, "64 KiB"));
	struct result endless = { 0 };
	run(&endless, "exec cat /dev/zero", 0);
	ck_assert_int_eq(endless.status, -SIGKILL);
}
END_TEST

START_TEST(timeout)
{
	struct result r = { 0 };

	run(&r, "echo begun; sleep 1000 & sleep 1000", 50 * USEC_PER_MSEC);
	ck_assert_int_eq(r.status, INT_MIN);
}
END_TEST

/* The child has its own session, so killing the group does not end it: it holds the pipes open and
 * keeps writing. The command substitution ends when it starts. */
START_TEST(held_pipe)
{
	struct result r = { 0 };

	run(&r, "exec 3>&1; x=$(setsid -f sh -c 'exec timeout 30 yes >&3'); echo bye >&2; exit 9",
		0);
	ck_assert_int_eq(r.status, 9);
	ck_assert_str_eq(r.tail, "bye\n");
}
END_TEST

/* The job's process group is killed when the job ends. */
START_TEST(background_children_end)
{
	struct result r = { 0 };
	int p[2];
	char c;

	ck_assert_int_eq(pipe(p), 0); /* inherited by fork, but no descriptor goes through exec */
	const char *argv[] = { "/bin/sh", "-c", "sleep 1000 & echo x", NULL };
	struct job_spec spec = {
		.name = "test",
		.child = { .argv = argv, .stdin_fd = -EBADF, .fds = &p[1], .n_fds = 1 },
		.on_done = on_done,
		.userdata = &r,
	};
	struct job *job;
	ck_assert_int_ge(sd_event_new(&r.event), 0);
	ck_assert_int_eq(job_start(r.event, &spec, &job), 0);
	close(p[1]);
	loop(&r);
	ck_assert_int_eq(r.status, 0);
	ck_assert_int_eq(read(p[0], &c, 1), 0); /* the last process that held the pipe has exited */
	close(p[0]);
}
END_TEST

/* Waits for the cancelled job's watch, the only thing left. */
static void loop_until_reaped(struct result *r)
{
	siginfo_t si;

	while (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0)
		ck_assert_int_gt(sd_event_run(r->event, 10 * USEC_PER_SEC), 0);
	ck_assert_int_eq(errno, ECHILD);
	r->event = sd_event_unref(r->event);
}

START_TEST(cancel_from_outside)
{
	struct result r = { 0 };

	ck_assert_ptr_null(job_cancel(NULL));
	ck_assert_ptr_null(job_cancel(start(&r, "sleep 1000 & sleep 1000", USEC_PER_SEC)));
	loop_until_reaped(&r);
	ck_assert_uint_eq(r.done, 0);
}
END_TEST

START_TEST(cancel_from_line)
{
	struct result r = { .cancel = CANCEL_IN_LINE };

	(void)start(&r, "echo 1; echo 2; echo 3; sleep 1000", 0);
	ck_assert_int_ge(sd_event_loop(r.event), 0);
	r.event = sd_event_unref(r.event); /* the watch is still pending: freed with the loop */
	ck_assert_uint_eq(r.lines, 1);
	ck_assert_uint_eq(r.done, 0);
}
END_TEST

/* The line is delivered while the exit is handled: no process is left to kill. */
START_TEST(cancel_from_last_line)
{
	struct result r = { .cancel = CANCEL_IN_LINE };

	struct job *job = start(&r, "printf x", 0);
	siginfo_t si;
	ck_assert_ptr_nonnull(job);
	ck_assert_int_eq(waitid(P_ALL, 0, &si, WEXITED | WNOWAIT), 0);
	loop(&r);
	ck_assert_uint_eq(r.lines, 1);
	ck_assert_uint_eq(r.done, 0);
}
END_TEST

START_TEST(failed_start)
{
	const char *argv[] = { "/nonexistent", NULL };
	struct result r = { 0 };
	struct job_spec spec = {
		.name = "test",
		.child = { .argv = argv, .stdin_fd = -EBADF },
		.on_done = on_done,
		.userdata = &r,
	};
	struct job *job = NULL;

	ck_assert_int_ge(sd_event_new(&r.event), 0);
	ck_assert_int_eq(job_start(r.event, &spec, &job), -ENOENT);
	ck_assert_ptr_null(job);
	r.event = sd_event_unref(r.event);
	ck_assert_uint_eq(r.done, 0);
}
END_TEST

static int ten_lines(void *arg _unused_)
{
	for (char c = '0'; c <= '9'; c++) {
		char line[] = { c, '\n' };
		if (write(STDOUT_FILENO, line, sizeof(line)) != sizeof(line))
			return 1;
	}
	return 5;
}

START_TEST(function_job)
{
	struct result r = { 0 };
	struct job_spec spec = {
		.name = "test",
		.child = { .fn = ten_lines, .stdin_fd = -EBADF },
		.on_line = on_line,
		.on_done = on_done,
		.userdata = &r,
	};
	struct job *job;

	ck_assert_int_ge(sd_event_new(&r.event), 0);
	ck_assert_int_eq(job_start(r.event, &spec, &job), 0);
	loop(&r);
	ck_assert_uint_eq(r.lines, 10);
	ck_assert_str_eq(r.last, "9");
	ck_assert_int_eq(r.status, 5);
}
END_TEST

static int wait_for_ever(void *arg _unused_)
{
	while (pause() < 0)
		;
	return 0;
}

/* Cancelled early, also before the child has run at all. */
START_TEST(cancelled_function)
{
	struct result r = { 0 };
	struct job_spec spec = {
		.name = "test",
		.child = { .fn = wait_for_ever, .stdin_fd = -EBADF },
		.on_done = on_done,
		.userdata = &r,
	};
	struct job *job;

	ck_assert_int_ge(sd_event_new(&r.event), 0);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(job_start(r.event, &spec, &job), 0);
		ck_assert_ptr_null(job_cancel(job));
	}
	loop_until_reaped(&r);
	ck_assert_uint_eq(r.done, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("job");
	TCase *tc = tcase_create("job");

	tcase_set_timeout(tc, 20);
	tcase_add_test(tc, lines_and_status);
	tcase_add_test(tc, signal_is_negative);
	tcase_add_test(tc, many_lines);
	tcase_add_test(tc, nul_in_stderr);
	tcase_add_test(tc, longest_line);
	tcase_add_test(tc, timeout);
	tcase_add_test(tc, held_pipe);
	tcase_add_test(tc, background_children_end);
	tcase_add_test(tc, cancel_from_outside);
	tcase_add_test(tc, cancel_from_line);
	tcase_add_test(tc, cancel_from_last_line);
	tcase_add_test(tc, failed_start);
	tcase_add_test(tc, function_job);
	tcase_add_test(tc, cancelled_function);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
