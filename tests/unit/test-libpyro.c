/* SPDX-License-Identifier: MIT */
/*
 * libpyro by its public interface alone, against a peer in a child process that answers by a
 * script: it sends one line of the script per request, with "@" for the request's id. Lost
 * connections, answers out of order, progress, cancellation, limits.
 */
#include "client/pyro.h"

#include <check.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "proto/base.h"

#define PING "{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":{\"version\":\"9\",\"api_version\":1}}\n"

struct peer {
	char dir[32], path[64];
	pid_t pid;
};

static void send_script(int fd, const char *line, const char *id)
{
	for (const char *p = line; *p; p++)
		if (*p == '@')
			ck_assert_int_eq(write_all(fd, id, strlen(id)), 0);
		else
			ck_assert_int_eq(write_all(fd, p, 1), 0);
}

struct script {
	const char *const *lines;
	size_t n;
};

/* Serves one connection. NULL in the script: no answer; end of the script: close. */
static void serve_script(int listener, const void *what)
{
	const struct script *script = what;
	size_t n = script->n;
	int fd = accept(listener, NULL, NULL);
	FILE *f = fdopen(fd, "r");
	char *line = NULL;
	size_t size = 0;

	for (size_t i = 0; f && i < n && getline(&line, &size, f) > 0; i++) {
		const char *at = strstr(line, "\"id\":");
		char id[24] = "0";

		if (at)
			(void)snprintf(id, sizeof(id), "%ld", strtol(at + 5, NULL, 10));
		if (script->lines[i])
			send_script(fd, script->lines[i], id);
	}
	while (n > 0 && !script->lines[n - 1] && f && getline(&line, &size, f) > 0)
		; /* until the client closes */
	_exit(0);
}

static void peer_start_with(
	struct peer *p, void (*serve)(int listener, const void *what), const void *what)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(p->dir, sizeof(p->dir), "/tmp/pyro-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(p->dir));
	(void)snprintf(p->path, sizeof(p->path), "%s/s", p->dir);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0)
		serve(listener, what);
	(void)close(listener);
}

static void peer_start(struct peer *p, const char *const *lines, size_t n)
{
	peer_start_with(p, serve_script, &(struct script){ lines, n });
}

static void peer_stop(struct peer *p)
{
	int status;

	ck_assert_int_eq(waitpid(p->pid, &status, 0), p->pid);
	ck_assert_int_eq(status, 0);
	(void)unlink(p->path);
	(void)rmdir(p->dir);
}

#define SCRIPT(...) \
	(const char *const[]){ __VA_ARGS__ }, \
		sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *)

static struct pyro *connected(struct peer *p)
{
	struct pyro_error *e = NULL;
	struct pyro *c = NULL;

	ck_assert_msg(pyro_connect(p->path, PYRO_AUTO, &c, &e) == 0, "%s", e ? e->message : "?");
	return c;
}

static void expect_error(struct pyro_error *e, const char *code)
{
	ck_assert_ptr_nonnull(e);
	ck_assert_str_eq(e->code, code);
	ck_assert_uint_gt(strlen(e->message), 0);
	pyro_error_free(e);
}

static void count(const char *json, void *userdata)
{
	ck_assert_ptr_nonnull(strstr(json, "\"phase\":\"install\""));
	++*(int *)userdata;
}

START_TEST(test_call)
{
	struct pyro_error *e = NULL;
	char *result = NULL;
	struct pyro *c;
	struct peer p;
	int n = 0;

	peer_start(&p,
		SCRIPT(PING,
			"{\"jsonrpc\":\"2.0\",\"method\":\"progress\",\"params\":{\"call\":@,\"phase\":\"install\"}}\n"
			"{\"jsonrpc\":\"2.0\",\"method\":\"later\",\"params\":{}}\n"
			"{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":{\"a\":1}}\n",
			"{\"jsonrpc\":\"2.0\",\"id\":@,\"error\":{\"code\":-32000,\"message\":\"m\",\"data\":"
			"{\"code\":\"no_space\",\"cause\":\"c\",\"fix\":\"f\",\"retryable\":true}}}\n"));
	c = connected(&p);
	ck_assert_str_eq(pyro_socket_path(c), p.path);
	ck_assert_ptr_nonnull(strstr(pyro_daemon_info(c), "\"version\":\"9\""));
	ck_assert_int_eq(
		pyro_call(c, "env.pull", "{\"environment\":\n\"x\"}", -1, count, &n, &result, &e),
		0);
	ck_assert_str_eq(result, "{\"a\":1}");
	ck_assert_int_eq(n, 1);
	free(result);
	ck_assert_int_lt(pyro_call(c, "env.pull", NULL, -1, NULL, NULL, &result, &e), 0);
	ck_assert_str_eq(e->message, "m");
	ck_assert_str_eq(e->cause, "c");
	ck_assert_str_eq(e->fix, "f");
	ck_assert(e->retryable);
	expect_error(e, "no_space");
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

START_TEST(test_bad_params_are_refused_here)
{
	static char huge[1024 * 1024 + 16];
	struct pyro_error *e = NULL;
	char *result = NULL;
	struct pyro *c;
	struct peer p;

	peer_start(&p, SCRIPT(PING));
	c = connected(&p);
	ck_assert_int_lt(pyro_call(c, "env.list", "{", -1, NULL, NULL, &result, &e), 0);
	expect_error(e, "invalid_argument");
	memset(huge, 'x', sizeof(huge) - 1);
	memcpy(huge, "{\"a\":\"", 6);
	memcpy(huge + sizeof(huge) - 3, "\"}", 3);
	e = NULL;
	ck_assert_int_lt(pyro_call(c, "env.list", huge, -1, NULL, NULL, &result, &e), 0);
	expect_error(e, "invalid_argument");
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

static void lost(const char *method, const char *code)
{
	struct pyro_error *e = NULL;
	char *result = NULL;
	struct pyro *c;
	struct peer p;

	peer_start(&p, SCRIPT(PING, "{\"jsonrpc\":"));
	c = connected(&p);
	ck_assert_int_lt(pyro_call(c, method, "{}", -1, NULL, NULL, &result, &e), 0);
	expect_error(e, code);
	e = NULL;
	ck_assert_int_lt(
		pyro_call(c, method, "{}", -1, NULL, NULL, &result, &e), 0); /* it stays lost */
	expect_error(e, code);
	pyro_free(c);
	peer_stop(&p);
}

START_TEST(test_lost)
{
	lost("env.list", "daemon_unreachable");
	lost("env.prune", "outcome_unknown");
	lost("no.such_method", "outcome_unknown");
}
END_TEST

#define REFUSAL \
	"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"too many\",\"data\":" \
	"{\"code\":\"quota_exceeded\",\"cause\":\"32 are open\",\"fix\":\"close some\"}}}\n"

static void expect_refusal(struct pyro_error *e)
{
	ck_assert_str_eq(e->message, "too many");
	ck_assert_str_eq(e->cause, "32 are open");
	ck_assert_str_eq(e->fix, "close some");
	expect_error(e, "quota_exceeded");
}

/* A refusal has the daemon's text, both when the greeting is read and when a request cannot be
 * sent. */
START_TEST(test_refusal)
{
	struct pyro_event ev = { 0 };
	struct pyro_error *e = NULL;
	struct pyro *c = NULL;
	char *result = NULL;
	struct peer p;
	int64_t id;

	peer_start(&p, SCRIPT(REFUSAL));
	ck_assert_int_lt(pyro_connect(p.path, PYRO_AUTO, &c, &e), 0);
	expect_refusal(e);
	peer_stop(&p);
	e = NULL;
	peer_start(&p, SCRIPT(PING, "{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":1}\n" REFUSAL));
	c = connected(&p);
	id = pyro_call_start(c, "env.prune", NULL, NULL, 0, &e);
	ck_assert_int_gt(id, 0);
	(void)shutdown(pyro_fd(c), SHUT_WR);
	peer_stop(&p);
	ck_assert_int_lt(pyro_call(c, "env.prune", NULL, -1, NULL, NULL, &result, &e), 0);
	expect_refusal(e);
	ck_assert_int_eq(pyro_process(c, &ev, &e), 1); /* what was answered stays answered */
	ck_assert_int_eq(ev.id, id);
	ck_assert_str_eq(ev.result, "1");
	pyro_event_done(&ev);
	pyro_free(c);
}
END_TEST

START_TEST(test_wrong_answers)
{
	static const char *const answers[] = {
		"x\n",
		"[]\n",
		"{}\n",
		"\n",
		"{\"jsonrpc\":\"2.0\",\"id\":@}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":{}}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":\"@\",\"result\":{}}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":1,\"error\":{\"code\":1,\"message\":\"m\"}}\n",
		"{\"jsonrpc\":\"2.0\",\"id\":@,\"id\":@,\"result\":1}\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		struct pyro_error *e = NULL;
		struct pyro *c = NULL;
		struct peer p;

		peer_start(&p, SCRIPT(answers[i]));
		ck_assert_msg(pyro_connect(p.path, PYRO_AUTO, &c, &e) < 0, "%s", answers[i]);
		expect_error(e, "daemon_unreachable");
		peer_stop(&p);
	}
}
END_TEST

static void wait_event(struct pyro *c, struct pyro_event *ev)
{
	struct pyro_error *e = NULL;
	int r;

	while ((r = pyro_process(c, ev, &e)) == 0) {
		struct pollfd pfd = { .fd = pyro_fd(c), .events = POLLIN };

		ck_assert_int_eq(poll(&pfd, 1, 10000), 1);
	}
	ck_assert_msg(r == 1, "%s", e ? e->message : "?");
}

/* Two calls are pending and the second is answered first; pyro_call in between keeps their
 * events. */
START_TEST(test_out_of_order)
{
	struct pyro_event ev = { 0 };
	struct pyro_error *e = NULL;
	char *result = NULL;
	int64_t one, two;
	struct pyro *c;
	struct peer p;

	peer_start(&p,
		SCRIPT(PING, "", "{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":2}\n",
			"{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":1}\n{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":3}\n"));
	c = connected(&p);
	one = pyro_call_start(c, "env.list", NULL, NULL, 0, &e);
	two = pyro_call_start(c, "env.list", NULL, NULL, 0, &e);
	ck_assert(one == 2 && two == 3);
	wait_event(c, &ev);
	ck_assert(ev.id == two && ev.done);
	ck_assert_str_eq(ev.result, "2");
	pyro_event_done(&ev);
	ck_assert_int_eq(pyro_call(c, "env.list", NULL, -1, NULL, NULL, &result, &e), 0);
	ck_assert_str_eq(result, "3");
	free(result);
	wait_event(c, &ev);
	ck_assert(ev.id == one && ev.done);
	ck_assert_str_eq(ev.result, "1");
	pyro_event_done(&ev);
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

/* The answer to the cancel itself makes no event. */
START_TEST(test_cancel)
{
	struct pyro_event ev = { 0 };
	struct pyro_error *e = NULL;
	struct pyro *c;
	struct peer p;
	int64_t id;

	peer_start(&p,
		SCRIPT(PING, "",
			"{\"jsonrpc\":\"2.0\",\"id\":@,\"result\":{\"cancelled\":true}}\n"
			"{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":1,\"message\":\"m\",\"data\":"
			"{\"code\":\"cancelled\"}}}\n"));
	c = connected(&p);
	id = pyro_call_start(c, "vm.run", NULL, NULL, 0, &e);
	ck_assert_int_eq(pyro_call_cancel(c, id), 0);
	ck_assert_int_eq(pyro_call_cancel(c, 99), -ENOENT);
	wait_event(c, &ev);
	ck_assert(ev.id == id && ev.done);
	ck_assert_str_eq(ev.error->code, "cancelled");
	pyro_event_done(&ev);
	ck_assert_int_eq(pyro_call_cancel(c, id), -ENOENT);
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

START_TEST(test_timeout)
{
	struct pyro_error *e = NULL;
	char *result = NULL;
	struct pyro *c;
	struct peer p;

	peer_start(&p, SCRIPT(PING, "", NULL));
	c = connected(&p);
	ck_assert_int_eq(pyro_call(c, "env.list", NULL, 50, NULL, NULL, &result, &e), -ETIMEDOUT);
	expect_error(e, "daemon_unreachable");
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

static void nothing(_unused_ const char *json, _unused_ void *userdata)
{
}

/* Answers the first request, then sends the same line for ever, faster than it can be read. */
static void flood(int listener, const void *line)
{
	static char lines[256 * 1024];
	int fd = accept(listener, NULL, NULL);
	size_t n = strlen(line), filled = 0;

	(void)signal(SIGPIPE, SIG_IGN);
	ck_assert_int_gt(read(fd, lines, sizeof(lines)), 0);
	send_script(fd, PING, "1");
	for (; filled + n <= sizeof(lines); filled += n)
		memcpy(lines + filled, line, n);
	while (write_all(fd, lines, filled) >= 0)
		;
	_exit(0);
}

/* An endless stream of events or unknown lines does not extend the deadline. */
START_TEST(test_flood_keeps_the_deadline)
{
	static const char *const lines[] = {
		"{\"jsonrpc\":\"2.0\",\"method\":\"x\",\"params\":{}}\n",
		"{\"jsonrpc\":\"2.0\",\"method\":\"progress\",\"params\":{\"call\":2}}\n",
	};
	struct pyro_error *e = NULL;
	char *result = NULL;
	struct pyro *c;
	struct peer p;

	peer_start_with(&p, flood, lines[_i]);
	c = connected(&p);
	ck_assert_int_eq(
		pyro_call(c, "env.list", NULL, 50, nothing, NULL, &result, &e), -ETIMEDOUT);
	expect_error(e, "daemon_unreachable");
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

START_TEST(test_in_flight_is_bounded)
{
	struct pyro_error *e = NULL;
	const char *script[66] = { PING };
	struct pyro *c;
	struct peer p;

	for (size_t i = 1; i < 66; i++)
		script[i] = "";
	script[65] = NULL;
	peer_start(&p, script, 66);
	c = connected(&p);
	for (int i = 0; i < 64; i++)
		ck_assert_int_gt(pyro_call_start(c, "env.list", NULL, NULL, 0, &e), 0);
	ck_assert_int_lt(pyro_call_start(c, "env.list", NULL, NULL, 0, &e), 0);
	expect_error(e, "quota_exceeded");
	pyro_free(c);
	peer_stop(&p);
}
END_TEST

START_TEST(test_nobody_there)
{
	struct pyro_error *e = NULL;
	struct pyro *c = NULL;

	ck_assert_int_lt(pyro_connect("/nonexistent/socket", PYRO_AUTO, &c, &e), 0);
	ck_assert_ptr_nonnull(e->fix);
	expect_error(e, "daemon_unreachable");
	ck_assert_int_lt(pyro_connect("/nonexistent/socket", PYRO_AUTO, &c, NULL), 0);
	pyro_free(NULL);
	pyro_error_free(NULL);
}
END_TEST

/* Starts a peer at a path of this test's own /run, with an owner and a mode; it exits with this
 * process. */
static void peer_start_at(struct peer *p, const char *dir, uid_t uid, mode_t mode)
{
	static const char *const lines[] = { PING };
	static const struct script script = { lines, 1 };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(p->path, sizeof(p->path), "%s/pyrod.sock", dir);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
	ck_assert_int_eq(mkdir(dir, 0755), 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(listener, 4), 0);
	ck_assert_int_eq(chown(p->path, uid, uid), 0);
	ck_assert_int_eq(chmod(p->path, mode), 0);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
		serve_script(listener, &script);
	(void)close(listener);
}

#define NOBODY     65534
#define NOBODY_RUN "/run/user/65534"

/* A server of another user in a folder that all users can write. Exits cleanly when it receives
 * nothing. */
static void serve_as(struct peer *p, const char *dir, uid_t uid)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int ready[2], listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	char byte = 0;

	(void)snprintf(p->path, sizeof(p->path), "%s/pyrod.sock", dir);
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
	ck_assert_int_eq(mkdir(dir, 0755), 0);
	ck_assert_int_eq(chmod(dir, 0777), 0);
	ck_assert_int_eq(pipe(ready), 0);
	p->pid = fork();
	ck_assert_int_ge(p->pid, 0);
	if (p->pid == 0) {
		if (setresuid(uid, uid, uid) < 0 ||
			bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
			listen(listener, 4) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		fd = accept(listener, NULL, NULL);
		_exit(fd >= 0 && read(fd, &byte, 1) == 0 ? 0 : 1);
	}
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	ck_assert_int_eq(chown(p->path, NOBODY, NOBODY), 0);
	(void)close(ready[0]);
	(void)close(ready[1]);
	(void)close(listener);
}

/* The process has its own /run and runs as nobody, whom the system's socket refuses. */
static void be_refused(struct peer *system, struct peer *own, uid_t server)
{
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("tmpfs", "/run", "tmpfs", 0, "mode=755"), 0);
	ck_assert_int_eq(mkdir("/run/user", 0755), 0);
	ck_assert_int_eq(mkdir(NOBODY_RUN, 0755), 0);
	ck_assert_int_eq(chown(NOBODY_RUN, NOBODY, NOBODY), 0);
	peer_start_at(system, "/run/pyro", 0, 0600);
	if (own && server == NOBODY)
		peer_start_at(own, NOBODY_RUN "/pyro", NOBODY, 0600);
	else if (own)
		serve_as(own, NOBODY_RUN "/pyro", server);
	ck_assert_int_eq(unsetenv("PYRO_SOCKET"), 0);
	ck_assert_int_eq(unsetenv("PYRO_RUNTIME_DIR"), 0);
	ck_assert_int_eq(setenv("HOME", "/nonexistent", 1), 0);
	ck_assert_int_eq(setgroups(0, NULL), 0);
	ck_assert_int_eq(setresgid(NOBODY, NOBODY, NOBODY), 0);
	ck_assert_int_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
}

START_TEST(test_refused_gives_way_to_ones_own)
{
	struct pyro *again = NULL, *c = NULL;
	struct pyro_error *e = NULL;
	struct peer system, own;

	if (getuid() != 0)
		return; /* needs root, to change the user */
	be_refused(&system, &own, NOBODY);
	ck_assert_msg(pyro_connect(NULL, PYRO_AUTO | PYRO_NO_START, &c, &e) == 0, "%s",
		e ? e->message : "?");
	ck_assert_str_eq(pyro_socket_path(c), own.path);
	/* A caller that names the system's socket gets its error, whose fix names only one way. */
	ck_assert_int_eq(pyro_connect(NULL, PYRO_SYSTEM, &again, &e), -EACCES);
	ck_assert_ptr_null(strstr(e->fix, "--user"));
	expect_error(e, "permission_denied");
	/* A lost connection is reopened at the same socket. */
	ck_assert_int_lt(pyro_connect_again(c, &again, &e), 0);
	ck_assert_ptr_nonnull(strstr(e->message, own.path));
	expect_error(e, "daemon_unreachable");
	pyro_free(c);
}
END_TEST

START_TEST(test_refused_names_both_ways)
{
	struct pyro_error *e = NULL;
	struct pyro *c = NULL;
	struct peer system;

	if (getuid() != 0)
		return;
	be_refused(&system, NULL, NOBODY);
	ck_assert_int_eq(pyro_connect(NULL, PYRO_AUTO, &c, &e), -EACCES);
	ck_assert_str_eq(e->message, "no permission to use the socket /run/pyro/pyrod.sock");
	ck_assert_ptr_nonnull(strstr(e->fix, "usermod -aG pyro nobody"));
	ck_assert_ptr_nonnull(strstr(e->fix, "pyro --user"));
	expect_error(e, "permission_denied");
}
END_TEST

/* The owner of the file does not show who listens. */
START_TEST(test_another_users_server_is_told_nothing)
{
	struct pyro_error *e = NULL;
	struct pyro *c = NULL;
	struct peer system, own;
	int status;

	if (getuid() != 0)
		return;
	be_refused(&system, &own, 4000);
	ck_assert_int_eq(pyro_connect(NULL, PYRO_USER, &c, &e), -EACCES);
	ck_assert_str_eq(e->message, "the socket " NOBODY_RUN "/pyro/pyrod.sock is another user's");
	ck_assert_str_eq(e->cause, "it is served by uid 4000");
	expect_error(e, "permission_denied");
	ck_assert_int_eq(waitpid(own.pid, &status, 0), own.pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("libpyro");
	TCase *t = tcase_create("all");
	SRunner *sr;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 30);
	tcase_add_test(t, test_call);
	tcase_add_test(t, test_bad_params_are_refused_here);
	tcase_add_test(t, test_lost);
	tcase_add_test(t, test_refusal);
	tcase_add_test(t, test_wrong_answers);
	tcase_add_test(t, test_out_of_order);
	tcase_add_test(t, test_cancel);
	tcase_add_test(t, test_timeout);
	tcase_add_loop_test(t, test_flood_keeps_the_deadline, 0, 2);
	tcase_add_test(t, test_in_flight_is_bounded);
	tcase_add_test(t, test_nobody_there);
	tcase_add_test(t, test_refused_gives_way_to_ones_own);
	tcase_add_test(t, test_refused_names_both_ways);
	tcase_add_test(t, test_another_users_server_is_told_nothing);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	srunner_free(sr);
	return 0;
}
