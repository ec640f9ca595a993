/* SPDX-License-Identifier: MIT */
/*
 * A forked program connects to the launch socket and receives its arguments and descriptors. The
 * test plays both ends: it runs itself as the program, with other arguments. (test-unit.c tests
 * units.)
 */
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

#include "daemon/handover.h"
#include "daemon/service.h"
#include "daemon/sock.h"
#include "proto/fdpass.h"

#define ID "vm-0123456789ab"

struct fixture {
	char dir[64];
	sd_event *event;
	struct launcher *launcher;
	struct service *service;
	int out; /* a descriptor given to the program, to read from */
	unsigned n_known, n_replies, n_exited;
	pid_t pid;
	int status;
	bool free_when_exited, kill_when_known;
};

/* The program: reports what it found on its given stdout, and by a reply on the connection. */
static int play_program(const char *id, const char *path)
{
	_cleanup_(launch_msg_done) struct launch_msg m = {};
	int conn = sock_dial(path, SOCK_SEQPACKET);
	char text[64] = "";
	struct fd_queue q;

	if (conn < 0)
		return 10;
	fd_queue_init(&q);
	if (handover_receive(conn, &m, &q) < 0)
		return 11;
	if (handover_place(&q, &conn) < 0)
		return 12;
	if (read(LAUNCH_FIRST_FD, text, sizeof(text) - 1) <= 0)
		return 13;
	if (fcntl(LAUNCH_FIRST_FD, F_GETFD) != 0 || fcntl(conn, F_GETFD) != FD_CLOEXEC)
		return 14;
	if (send(conn, "here", 4, MSG_NOSIGNAL) != 4)
		return 15;
	printf("%s %s %s %s\n", id, m.args[0], m.args[1], text);
	return 7;
}

static void on_known(struct service *s, void *userdata)
{
	struct fixture *t = userdata;

	t->n_known++;
	t->pid = service_pid(s);
	if (t->kill_when_known) {
		struct pollfd p = { .fd = pidfd_open(t->pid, 0), .events = POLLIN };

		service_kill(s);
		/* Its end of the connection is closed before it receives anything. */
		ck_assert_int_eq(poll(&p, 1, 30000), 1);
		(void)close(p.fd);
	}
}

static void on_reply(_unused_ struct service *s, const char *p, size_t n, void *userdata)
{
	struct fixture *t = userdata;

	ck_assert_uint_eq(n, 4);
	ck_assert_mem_eq(p, "here", 4);
	t->n_replies++;
}

static void on_exited(struct service *s, int status, const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	ck_assert_ptr_null(err);
	t->n_exited++;
	t->status = status;
	if (t->free_when_exited)
		t->service = service_free(s);
}

static const struct service_callbacks callbacks = {
	.on_known = on_known,
	.on_reply = on_reply,
	.on_exited = on_exited,
};

static void begin(struct fixture *t)
{
	*t = (struct fixture){ .dir = "/tmp/test-service-XXXXXX", .out = -EBADF };
	ck_assert_ptr_nonnull(mkdtemp(t->dir));
	ck_assert_int_ge(sd_event_new(&t->event), 0);
	ck_assert_int_ge(launcher_new(t->event, t->dir, NULL, &t->launcher), 0);
}

static void end(struct fixture *t)
{
	service_free(t->service);
	launcher_free(t->launcher);
	sd_event_unref(t->event);
	(void)fd_close(t->out);
	ck_assert_int_eq(rmdir(t->dir), 0);
}

static int start(struct fixture *t, const char *program)
{
	const char *const args[] = { "/the/program", "--word", NULL };
	_cleanup_error_ struct error err = ERROR_INIT;
	int out[2], given[2], r;

	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(given, O_CLOEXEC), 0);
	ck_assert_int_eq(write_all(given[1], "given", 5), 0);
	const int fds[] = { out[1], given[0] };
	const struct service_spec spec = { .id = ID,
		.template = "none",
		.program = program,
		.args = args,
		.fds = fds,
		.n_fds = 2 };
	r = service_start(t->launcher, &spec, &callbacks, t, &t->service, &err);
	(void)close(out[1]);
	(void)close(given[0]);
	(void)close(given[1]);
	t->out = out[0];
	if (r < 0)
		ck_assert_int_eq(err.code, ERROR_VM_UNAVAILABLE);
	return r;
}

static void run_until(struct fixture *t, const unsigned *counter)
{
	const uint64_t deadline = now_usec() + 30 * USEC_PER_SEC;

	while (*counter == 0) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->event, USEC_PER_SEC), 0);
	}
}

START_TEST(hands_over)
{
	char text[2048] = "";
	struct fixture t;

	begin(&t);
	ck_assert_int_ge(start(&t, "/proc/self/exe"), 0);
	ck_assert_int_gt(service_pid(t.service), 0);
	ck_assert_uint_gt(service_start_time(t.service), 0);
	ck_assert_str_eq(service_invocation(t.service), "");
	run_until(&t, &t.n_exited);
	ck_assert_int_gt(read(t.out, text, sizeof(text) - 1), 0);
	ck_assert_msg(t.status == 7, "%d: %s", t.status, text);
	ck_assert_uint_eq(t.n_known, 1);
	ck_assert_uint_eq(t.n_replies, 1);
	ck_assert_int_eq(t.pid, service_pid(t.service));
	ck_assert_str_eq(text, ID " /the/program --word given\n");
	end(&t);
}
END_TEST

START_TEST(killed_and_freed)
{
	struct fixture t;

	begin(&t);
	t.kill_when_known = t.free_when_exited = true;
	ck_assert_int_ge(start(&t, "/proc/self/exe"), 0);
	run_until(&t, &t.n_exited);
	ck_assert_int_eq(t.status, -SIGKILL);
	ck_assert_ptr_null(t.service);
	end(&t);
}
END_TEST

/* A program that exits without connecting is reported. */
START_TEST(does_not_come)
{
	struct fixture t;

	begin(&t);
	ck_assert_int_ge(start(&t, "/bin/false"), 0);
	run_until(&t, &t.n_exited);
	ck_assert_int_eq(t.status, 1);
	ck_assert_uint_eq(t.n_known, 0);
	end(&t);

	begin(&t);
	ck_assert_int_lt(start(&t, "/nonexistent"), 0);
	end(&t);
}
END_TEST

/* A process of a previous daemon: its exit is seen, but not its status. */
START_TEST(adopts)
{
	struct service_adoption a = { .id = ID, .template = "none", .invocation = "" };
	struct service *first;
	struct fixture t;

	begin(&t);
	ck_assert_int_ge(
		start(&t, "/bin/cat"), 0); /* exits because there are no files of these names */
	first = t.service;
	a.pid = service_pid(first);
	a.start_time = service_start_time(first);
	a.pidfd = pidfd_open(a.pid, 0);
	ck_assert_int_ge(a.pidfd, 0);
	ck_assert_int_ge(service_adopt(t.launcher, &a, &callbacks, &t, &t.service), 0);
	run_until(&t, &t.n_exited);
	while (t.n_exited < 2)
		ck_assert_int_ge(sd_event_run(t.event, USEC_PER_SEC), 0);
	service_free(first);
	end(&t);
}
END_TEST

/* A unit cannot be adopted without a service manager, which alone could identify it. */
START_TEST(adopts_no_unit)
{
	const struct service_adoption a = { .id = ID,
		.template = "none",
		.pid = getpid(),
		.pidfd = -EBADF,
		.invocation = "00112233445566778899aabbccddeeff" };
	struct fixture t;

	begin(&t);
	ck_assert_int_eq(service_adopt(t.launcher, &a, &callbacks, &t, &t.service), -ENOTCONN);
	end(&t);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s;
	TCase *tc;
	SRunner *sr;
	int failed;

	if (argc == 3)
		return play_program(argv[1], argv[2]);
	s = suite_create("service");
	tc = tcase_create("service");
	tcase_add_test(tc, hands_over);
	tcase_add_test(tc, killed_and_freed);
	tcase_add_test(tc, does_not_come);
	tcase_add_test(tc, adopts);
	tcase_add_test(tc, adopts_no_unit);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
