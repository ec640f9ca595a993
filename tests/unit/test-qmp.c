/* SPDX-License-Identifier: MIT */
/*
 * The QMP client against a correct peer, a silent one, and several that lie. The peer is the other
 * end of a socketpair; the loop runs until the expected event.
 */
#include <check.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "daemon/vmm/qmp.h"
#include "proto/base.h"

#define GREETING \
	"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7}}, \"capabilities\": [\"oob\"]}}\r\n"
#define WAIT_USEC (5 * USEC_PER_SEC)

struct fixture {
	sd_event *event;
	struct qmp *q;
	int peer;
	unsigned greetings, events, closed, replies;
	int reply;
	bool flag;
	char text[256]; /* last event's name, reply's description or closing message */
};

static void on_greeting(struct qmp *q, void *userdata)
{
	struct fixture *t = userdata;

	(void)q;
	t->greetings++;
}

static void on_event(struct qmp *q, const char *name, json_object *data, void *userdata)
{
	struct fixture *t = userdata;

	(void)q;
	t->events++;
	t->flag = qmp_bool(data, "guest", false);
	snprintf(t->text, sizeof(t->text), "%s", name);
}

static void on_closed(struct qmp *q, int r, const char *what, void *userdata)
{
	struct fixture *t = userdata;

	(void)q;
	t->closed++;
	snprintf(t->text, sizeof(t->text), "%s (%s)", what, strerror(-r));
}

static void on_reply(struct qmp *q, int r, json_object *ret, const char *desc, void *userdata)
{
	struct fixture *t = userdata;

	(void)q;
	t->replies++;
	t->reply = r;
	snprintf(t->text, sizeof(t->text), "%s", desc ? desc : qmp_str(ret, "status", ""));
}

static const struct qmp_callbacks callbacks = { on_greeting, on_event, on_closed };

static void begin(struct fixture *t)
{
	int s[2];

	*t = (struct fixture){};
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
	ck_assert_int_ge(sd_event_new(&t->event), 0);
	ck_assert_int_eq(qmp_new(t->event, s[0], &callbacks, t, &t->q), 0);
	t->peer = s[1];
}

static void end(struct fixture *t)
{
	qmp_free(t->q);
	(void)fd_close(t->peer);
	sd_event_unref(t->event);
}

static void run_until(struct fixture *t, const unsigned *counter, unsigned n)
{
	const uint64_t deadline = now_usec() + WAIT_USEC;

	while (*counter < n) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->event, WAIT_USEC), 0);
	}
}

static void say(struct fixture *t, const char *text)
{
	ck_assert_int_eq(write_all(t->peer, text, strlen(text)), 0);
}

/* Returns the client's output so far as text. */
static void hear(struct fixture *t, char *ret, size_t n)
{
	ssize_t got = recv(t->peer, ret, n - 1, 0);

	ck_assert_int_gt(got, 0);
	ret[got] = 0;
}

static void negotiate(struct fixture *t)
{
	char heard[256];

	say(t, GREETING);
	ck_assert_int_gt(sd_event_run(t->event, WAIT_USEC), 0);
	hear(t, heard, sizeof(heard));
	ck_assert_str_eq(heard, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
	say(t, "{\"return\": {}, \"id\": 1}\r\n");
	while (sd_event_run(t->event, 0) > 0)
		;
	ck_assert_uint_eq(t->greetings, 1);
}

START_TEST(conversation)
{
	struct fixture t;
	char heard[256];

	begin(&t);
	negotiate(&t);
	ck_assert_int_eq(qmp_execute(t.q, "query-status", NULL, on_reply, &t), 0);
	hear(&t, heard, sizeof(heard));
	ck_assert_str_eq(heard, "{\"execute\":\"query-status\",\"id\":2}\n");
	say(&t, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\","
		" \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\r\n"
		"{\"return\": {\"status\": \"running\"}, \"id\": 2}\r\n");
	run_until(&t, &t.replies, 1);
	ck_assert_uint_eq(t.events, 1);
	ck_assert(t.flag);
	ck_assert_int_eq(t.reply, 0);
	ck_assert_str_eq(t.text, "running");
	ck_assert_int_eq(qmp_execute(t.q, "cont", NULL, on_reply, &t), 0);
	say(&t, "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b\"}}\n");
	run_until(&t, &t.replies, 2);
	ck_assert_int_eq(t.reply, -EREMOTEIO);
	ck_assert_str_eq(t.text, "no\\x1b");
	end(&t);
}
END_TEST

START_TEST(version)
{
	static const struct {
		const char *greeting, *version;
	} cases[] = {
		{ "{\"qemu\": {\"major\": 10, \"minor\": 0, \"micro\": 13}, "
		  "\"package\": \"Debian 1:10.0.13+ds-0+deb13u1\"}",
			"10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)" },
		{ "{\"qemu\": {\"major\": 9, \"minor\": 2, \"micro\": 0}, \"package\": \"\"}",
			"9.2.0" },
		{ "{\"qemu\": {\"major\": \"9\"}, \"package\": \"a\\u001b[31mb\"}",
			"0.0.0 (a\\x1b[31mb)" },
		{ "{\"package\": \"x\"}", "" },
		{ "7", "" },
	};
	_cleanup_free_ char *greeting =
		str_printf("{\"QMP\": {\"version\": %s, \"capabilities\": []}}\r\n"
			   "{\"return\": {}, \"id\": 1}\r\n",
			cases[_i].greeting);
	struct fixture t;

	begin(&t);
	ck_assert_str_eq(qmp_version(t.q), "");
	say(&t, greeting);
	run_until(&t, &t.greetings, 1);
	ck_assert_str_eq(qmp_version(t.q), cases[_i].version);
	end(&t);
}
END_TEST

/* Commands follow the request for capabilities at once; if that is refused, they fail. */
START_TEST(asks_without_waiting)
{
	char heard[256];
	struct fixture t;

	begin(&t);
	ck_assert_int_eq(sd_event_run(t.event, 0), 0);
	say(&t, GREETING);
	run_until(&t, &t.greetings, 1);
	ck_assert_int_eq(qmp_execute(t.q, "cont", NULL, on_reply, &t), 0);
	hear(&t, heard, sizeof(heard));
	ck_assert_str_eq(heard, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n"
				"{\"execute\":\"cont\",\"id\":2}\n");
	if (_i) {
		say(&t, "{\"return\": {}, \"id\": 1}\n{\"return\": {}, \"id\": 2}\n");
		run_until(&t, &t.replies, 1);
		ck_assert_int_eq(t.reply, 0);
	} else {
		say(&t, "{\"error\": {\"desc\": \"no\"}, \"id\": 1}\n");
		run_until(&t, &t.closed, 1);
		ck_assert_uint_eq(t.replies, 1);
		ck_assert_int_eq(t.reply, -ECONNRESET);
	}
	end(&t);
}
END_TEST

/* The driver gets no event before QEMU has accepted the capabilities. */
START_TEST(no_event_before_ready)
{
	struct fixture t;

	begin(&t);
	say(&t, GREETING "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\n");
	say(&t, "{\"return\": {}, \"id\": 1}\n");
	run_until(&t, &t.greetings, 1);
	ck_assert_uint_eq(t.events, 0);
	say(&t, "{\"event\": \"STOP\"}\n");
	run_until(&t, &t.events, 1);
	ck_assert_str_eq(t.text, "STOP");
	end(&t);
}
END_TEST

START_TEST(unknown_is_ignored)
{
	struct fixture t;

	begin(&t);
	negotiate(&t);
	ck_assert_int_eq(qmp_execute(t.q, "query-status", NULL, on_reply, &t), 0);
	say(&t, "{\"return\": {}, \"id\": 99}\n{\"return\": {}}\n{\"return\": {}, \"id\": \"2\"}\n{}\n"
		"{\"return\": {}, \"id\": 1}\n{\"event\": 7}\n{\"event\": \"STOP\", \"data\": [1]}\n");
	run_until(&t, &t.events, 1);
	ck_assert_uint_eq(t.replies, 0);
	ck_assert_uint_eq(t.closed, 0);
	say(&t, "{\"return\": \"odd\", \"id\": 2}\n{\"return\": {}, \"id\": 2}\n{\"event\":\"X\"}\n");
	run_until(&t, &t.events, 2);
	ck_assert_uint_eq(t.replies, 1);
	ck_assert_str_eq(t.text, "X");
	end(&t);
}
END_TEST

static int on_other(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	unsigned *others = userdata;

	(void)s, (void)fd, (void)revents;
	(*others)++;
	return 0;
}

/* A burst of messages is handled one by one, with other events in between. */
START_TEST(a_flood_leaves_turns)
{
	static const char event[] = "{\"event\": \"RESUME\"}\n";
	char flood[1000 * (sizeof(event) - 1) + 1] = "";
	unsigned others = 0;
	sd_event_source *other;
	int fd = eventfd(1, EFD_CLOEXEC);
	struct fixture t;

	begin(&t);
	negotiate(&t);
	t.events = 0;
	for (size_t i = 0; i < 1000; i++)
		memcpy(flood + i * (sizeof(event) - 1), event, sizeof(event));
	say(&t, flood);
	ck_assert_int_ge(sd_event_add_io(t.event, &other, fd, EPOLLIN, on_other, &others), 0);
	run_until(&t, &t.events, 1000);
	ck_assert_uint_ge(others, 5); /* they run after each 40 us of messages */
	sd_event_source_disable_unref(other);
	(void)close(fd);
	end(&t);
}
END_TEST

START_TEST(end_answers_all)
{
	struct fixture t;
	int r = 0;

	begin(&t);
	negotiate(&t);
	for (unsigned i = 0; i < 16; i++)
		ck_assert_int_eq(qmp_execute(t.q, "stop", NULL, on_reply, &t), 0);
	r = qmp_execute(t.q, "stop", NULL, on_reply, &t);
	ck_assert_int_eq(r, -EBUSY);
	say(&t, "{\"event\": \"RESET\"}\n{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true}}\n");
	t.peer = fd_close(t.peer);
	qmp_drain(t.q);
	ck_assert_uint_eq(t.events, 2);
	ck_assert(t.flag);
	ck_assert_uint_eq(t.replies, 16);
	ck_assert_uint_eq(t.closed, 1);
	end(&t);
}
END_TEST

static const char *const bad[] = {
	"hello\n",
	"\n",
	"[]\n",
	"{\"QMP\": 1}\n",
	"{\"event\": \"RESET\"}\n",
	GREETING "{\"event\": \"a\", \"event\": \"b\"}\n",
	GREETING "{\"event\": NaN}\n",
	GREETING "{\"event\": \"\xff\xfe\"}\n",
	GREETING
	"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":"
	"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}}}}}}}\n",
	GREETING "{\"error\": {\"desc\": \"no\"}, \"id\": 1}\n",
};

START_TEST(nonsense_closes)
{
	struct fixture t;

	begin(&t);
	say(&t, bad[_i]);
	run_until(&t, &t.closed, 1);
	ck_assert_uint_eq(t.events, 0);
	ck_assert_uint_eq(t.closed, 1);
	end(&t);
}
END_TEST

START_TEST(endless_line_closes)
{
	struct fixture t;
	char chunk[4096];
	uint64_t sent = 0;

	begin(&t);
	memset(chunk, ' ', sizeof(chunk));
	while (!t.closed) {
		ssize_t n = send(t.peer, chunk, sizeof(chunk), MSG_NOSIGNAL);

		ck_assert(n > 0 || errno == EAGAIN || errno == EPIPE);
		sent += n > 0 ? (uint64_t)n : 0;
		ck_assert_uint_lt(sent, 4 * MIB);
		ck_assert_int_ge(sd_event_run(t.event, 0), 0);
	}
	ck_assert_ptr_nonnull(strstr(t.text, "endless"));
	end(&t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qmp");
	TCase *tc = tcase_create("all");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, conversation);
	tcase_add_loop_test(tc, version, 0, 5);
	tcase_add_loop_test(tc, asks_without_waiting, 0, 2);
	tcase_add_test(tc, no_event_before_ready);
	tcase_add_test(tc, unknown_is_ignored);
	tcase_add_test(tc, a_flood_leaves_turns);
	tcase_add_test(tc, end_answers_all);
	tcase_add_loop_test(tc, nonsense_closes, 0, (int)ARRAY_SIZE(bad));
	tcase_add_test(tc, endless_line_closes);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
