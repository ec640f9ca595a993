/* SPDX-License-Identifier: MIT */
/*
 * The daemon's API over a real socket, with core, image and vmm replaced by rpc-fakes.c: lines,
 * errors, descriptors, limits, the life of calls. Run by `meson test rpc`. The loop runs in this
 * process: each step runs it until the answer comes, at most 10 s.
 */

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon/config.h"
#include "daemon/rpc/conn.h"
#include "daemon/rpc/server.h"
#include "proto/api.h"
#include "proto/fdpass.h"
#include "proto/json.h"
#include "proto/limits.h"
#include "rpc-fakes.h"

#define DEADLINE_USEC (10 * USEC_PER_SEC)

static struct manager m;
static char dir[] = "/tmp/pyro-test-rpc-XXXXXX";
static char path[100];
static char line[5 * 1024 * 1024];

static void setup(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	m = (struct manager){ .socket_path = path, .state_dir = dir, .cache_dir = dir };
	m.started_usec = now_usec();
	ck_assert_int_ge(sd_event_new(&m.event), 0);
	ck_assert_int_ge(receivers_new(m.event, &m.receivers), 0);
	ck_assert_int_ge(config_load(true, "/dev/null", &m.config, NULL), 0);
	ck_assert_int_ge(server_new(&m, rpc_handlers, -EBADF, &m.server, NULL), 0);
}

static void teardown(void)
{
	m.server = server_free(m.server);
	m.receivers = receivers_free(m.receivers);
	m.config = config_free(m.config);
	error_clear(&m.degraded);
	m.event = sd_event_unref(m.event);
	(void)rmdir(dir);
}

static void turn(void)
{
	ck_assert_int_ge(sd_event_run(m.event, 1000), 0);
}

static int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	strcpy(addr.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	turn();
	return fd;
}

/* Returns the next line, or NULL at the end of the connection. */
static const char *receive(int fd)
{
	size_t n = 0;
	for (uint64_t start = now_usec(); now_usec() - start < DEADLINE_USEC;) {
		ssize_t r = recv(fd, line + n, 1, MSG_DONTWAIT);
		if (r == 0 || (r < 0 && errno == ECONNRESET))
			return NULL;
		if (r < 0) {
			turn();
			continue;
		}
		if (line[n] == '\n') {
			line[n] = '\0';
			return line;
		}
		n++;
	}
	ck_abort_msg("no answer");
}

/* Sends everything, running the loop while the socket is full. */
static void transmit(int fd, const void *p, size_t n)
{
	const char *at = p;
	while (n > 0) {
		ssize_t r = send(fd, at, n, MSG_DONTWAIT);
		if (r < 0) {
			ck_assert_int_eq(errno, EAGAIN);
			turn();
			continue;
		}
		at += r;
		n -= (size_t)r;
	}
}

static void hang_up(int fd)
{
	(void)close(fd);
	while (server_connections(m.server) > 0)
		turn();
}

static const char *ask(int fd, const char *text)
{
	transmit(fd, text, strlen(text));
	return receive(fd);
}

#define RUN_(id, members) \
	"{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"vm.run\",\"params\":{\"environment\":" \
	"\"debian:12\",\"mem_mib\":128," members "}}\n"
#define CALL_(id, method, params) \
	"{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\",\"params\":" params "}\n"

static void finish_run(void)
{
	fake.cb.on_done(NULL, json_object_new_object(), NULL, fake.userdata);
}

static void finish_creation(void *userdata)
{
	fake.creation.on_done((struct machine *)(void *)&m, NULL, userdata);
}

START_TEST(pings)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, CALL_("\"x\"", "system.ping", "{}"));
	ck_assert_ptr_nonnull(strstr(a, "\"id\":\"x\",\"result\":{\"version\":"));
	a = ask(fd, "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"vm.list\"}\n");
	ck_assert_str_eq(a, "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"count\":0,\"vms\":[]}}");
}
END_TEST

/* Refused, and the connection goes on. */
static const struct {
	const char *send, *id, *number;
} refused[] = {
	{ "nonsense\n", "null", "-32700" },
	{ "\n", "null", "-32700" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"system.ping\"}\n", "null",
		"-32700" },
	{ "[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"system.ping\"}]\n", "null", "-32600" },
	{ "[]\n", "null", "-32600" },
	{ "1\n", "null", "-32600" },
	{ "null\n", "null", "-32600" },
	{ "{\"id\":1,\"method\":\"system.ping\"}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"system.ping\"}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"system.ping\"}\n", "null", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"system.ping\"}\n", "null", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":3}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\",\"params\":[]}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\",\"fds\":5}\n", "1", "-32600" },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\",\"more\":5}\n", "1", "-32600" },
	{ CALL_("1", "no.such", "{}"), "1", "-32601" },
	{ CALL_("1", "vm.status", "{\"vm\":1}"), "1", "-32602" },
	{ CALL_("1", "vm.status", "{\"vm_id\":\"vm-0\"}"), "1", "-32000" },
	{ CALL_("1", "env.inspect", "{\"environment\":\"x\"}"), "1", "-32000" },
	{ CALL_("1", "env.prune", "{}"), "1", "-32000" },
	{ RUN_("1", "\"command\":\"x\",\"vcpu_count\":0"), "1", "-32602" },
	{ CALL_("1", "vm.run", "{\"environment\":\"x\",\"command\":\"x\",\"mem_mib\":16000000}"),
		"1", "-32602" },
	{ RUN_("1", "\"command\":\"x\",\"network\":true"), "1", "-32000" },
	{ RUN_("1", "\"command\":\"x\",\"allow_host_compat\":true"), "1", "-32000" },
	{ RUN_("1", "\"command\":\"x\",\"wait_ms\":1"), "1", "-32000" },
	{ RUN_("1", "\"command\":\"x\",\"stdin\":true"), "1", "-32602" },
	{ RUN_("1", "\"command\":\"x\",\"env\":{\"A=B\":\"\"}"), "1", "-32602" },
	{ RUN_("1", "\"command\":\"fail\""), "1", "-32000" },
};

START_TEST(refusals)
{
	char want[100];
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, refused[_i].send);
	ck_assert_ptr_nonnull(a);
	(void)snprintf(want, sizeof(want), "{\"jsonrpc\":\"2.0\",\"id\":%s,\"error\":{\"code\":%s,",
		refused[_i].id, refused[_i].number);
	ck_assert_msg(strncmp(a, want, strlen(want)) == 0, "%s -> %s", refused[_i].send, a);
	ck_assert_ptr_nonnull(ask(fd, CALL_("2", "system.ping", "{}")));
}
END_TEST

/* Refused, and the connection ends after the answer. */
static const struct {
	const char *send;
	size_t n;
} fatal[] = {
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}\n",
		sizeof("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}\n") - 1 },
	{ "{\"a\0\":1}\n", sizeof("{\"a\0\":1}\n") - 1 },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\",\"fds\":1}\n",
		sizeof("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\",\"fds\":1}\n") - 1 },
	{ "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.run\",\"fds\":1}\n",
		sizeof("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.run\",\"fds\":1}\n") - 1 },
};

START_TEST(fatal_lines)
{
	_cleanup_close_ int fd = dial();
	transmit(fd, fatal[_i].send, fatal[_i].n);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"error\""));
	ck_assert_ptr_null(receive(fd));
	_cleanup_close_ int other = dial();
	ck_assert_ptr_nonnull(ask(other, CALL_("2", "system.ping", "{}")));
}
END_TEST

START_TEST(long_lines)
{
	static char big[2 * 1024 * 1024];
	_cleanup_close_ int fd = dial();
	memset(big, ' ', sizeof(big));
	static const char text[] = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}";
	memcpy(big, text, sizeof(text) - 1);
	big[LIMIT_REQUEST_BYTES] = '\n';
	transmit(fd, big, LIMIT_REQUEST_BYTES + 1);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"result\""));
	big[LIMIT_REQUEST_BYTES] = ' ';
	transmit(fd, big, sizeof(big));
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":null,\"error\":{\"code\":-32600"));
	ck_assert_ptr_null(receive(fd));
}
END_TEST

/* One byte at a time, several lines at once, no newline at the end, and half-closed before the
 * answer. */
START_TEST(framing)
{
	_cleanup_close_ int fd = dial();
	static const char one[] = CALL_("1", "vm.list", "{}");
	for (size_t i = 0; i < sizeof(one) - 1; i++) {
		transmit(fd, one + i, 1);
		turn();
	}
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":1"));
	ck_assert_ptr_nonnull(strstr(
		ask(fd, CALL_("2", "vm.list", "{}") CALL_("3", "vm.list", "{}")), "\"id\":2"));
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":3"));
	transmit(fd, RUN_("4", "\"command\":\"x\""), strlen(RUN_("4", "\"command\":\"x\"")));
	static const char last[] = "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"vm.list\"}";
	transmit(fd, last, sizeof(last) - 1);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":5"));
	ck_assert_int_eq(fake.runs, 1);
	ck_assert_int_eq(fake.abandoned, 0);
	finish_run();
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":4"));
	ck_assert_ptr_null(receive(fd));
}
END_TEST

START_TEST(notifications)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd,
		"{\"jsonrpc\":\"2.0\",\"method\":\"vm.list\"}\n"
		"{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}\n" CALL_("9", "vm.list", "{}"));
	ck_assert_ptr_nonnull(strstr(a, "\"id\":9"));
}
END_TEST

START_TEST(run_and_progress)
{
	_cleanup_close_ int fd = dial();
	int pair[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	static const char text[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.run\",\"fds\":1,\"params\":{\"environment\":"
		"\"debian:12\",\"mem_mib\":128,\"command\":\"x\",\"stdio\":0,\"timeout_seconds\":900,"
		"\"env\":{\"A\":\"1=2\"}}}\n";
	ck_assert_int_eq(
		fd_send(fd, text, sizeof(text) - 1, &pair[1], 1, 0), (int)sizeof(text) - 1);
	while (fake.runs == 0)
		turn();
	ck_assert_int_ge(fake.stdio_fd, 0);
	ck_assert_int_eq(fake.ttl, 960);
	ck_assert_str_eq(fake.env, "A=1=2");
	ck_assert_int_eq(fake.uid, getuid());
	const struct run_progress p = { .phase = "start", .vm_id = "vm-0", .percent = -1 };
	fake.cb.on_progress(NULL, &p, fake.userdata);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"method\":\"progress\",\"params\":{\"phase\":"
						  "\"start\",\"vm_id\":\"vm-0\""));
	finish_run();
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":1,\"result\""));
	ck_assert_int_eq(fake.freed, 1);
	(void)close(fake.stdio_fd);
	(void)close(pair[0]);
	(void)close(pair[1]);
}
END_TEST

/* A descriptor that is not a stream socket, and descriptors that no line claims. */
START_TEST(wrong_descriptors)
{
	_cleanup_close_ int fd = dial(), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	static const char text[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.run\",\"fds\":1,\"params\":{\"environment\":"
		"\"debian:12\",\"command\":\"x\",\"stdio\":0}}\n";
	ck_assert_int_gt(fd_send(fd, text, sizeof(text) - 1, &null, 1, 0), 0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "descriptor 0 is refused"));
	static const char ping[] = CALL_("2", "system.ping", "{}");
	ck_assert_int_gt(fd_send(fd, ping, sizeof(ping) - 1, &null, 1, 0), 0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":2"));
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"fds\\\": n"));
	ck_assert_ptr_null(receive(fd));
	ck_assert_int_eq(fake.runs, 0);
}
END_TEST

START_TEST(cancelling)
{
	_cleanup_close_ int fd = dial();
	transmit(
		fd, RUN_("\"r\"", "\"command\":\"x\""), strlen(RUN_("\"r\"", "\"command\":\"x\"")));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("2", "cancel", "{\"id\":\"none\"}")), "\"cancelled\":false"));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("3", "cancel", "{\"id\":\"r\"}")), "\"id\":\"r\",\"error\""));
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":3,\"result\":{\"cancelled\":true}"));
	ck_assert_int_eq(fake.freed, 1);
}
END_TEST

/* kill -9 of a client: a CALLER call is abandoned, a KEPT one goes on and its answer is dropped. */
START_TEST(caller_gone)
{
	int fd = dial();
	transmit(fd, RUN_("1", "\"command\":\"x\""), strlen(RUN_("1", "\"command\":\"x\"")));
	static const char pull[] = CALL_("2", "env.pull", "{\"environment\":\"debian:12\"}");
	transmit(fd, pull, sizeof(pull) - 1);
	static const char reap[] = CALL_("3", "vm.reap_expired", "{}");
	transmit(fd, reap, sizeof(reap) - 1);
	while (!fake.reap_done)
		turn();
	ck_assert_int_eq(fake.runs, 1);
	(void)close(fd);
	while (server_connections(m.server) > 0)
		turn();
	ck_assert_int_eq(fake.abandoned, 1);
	ck_assert_int_eq(fake.waits_freed, 1); /* no caller is left */
	fake.reap_done(json_object_new_object(), NULL, fake.reap_userdata);
}
END_TEST

/* A machine's TTL if the caller gives none: default_ttl_seconds, but at least a command's timeout
 * and a minute; 0: no limit. */
START_TEST(default_ttl)
{
	static const struct {
		int64_t dflt, run, create;
	} rows[] = { { 600, 600, 600 }, { 10, 90, 10 }, { 0, 0, 0 } };
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_close_ int fd = dial();
		int runs = fake.runs, creations = fake.creations;
		m.config->default_ttl_seconds = rows[i].dflt;
		static const char run[] = CALL_("1", "vm.run",
			"{\"environment\":\"debian:12\",\"command\":\"x\",\"mem_mib\":128}");
		transmit(fd, run, sizeof(run) - 1);
		while (fake.runs == runs)
			turn();
		ck_assert_int_eq(fake.ttl, rows[i].run);
		static const char create[] =
			CALL_("2", "vm.create", "{\"environment\":\"debian:12\",\"mem_mib\":128}");
		transmit(fd, create, sizeof(create) - 1);
		while (fake.creations == creations)
			turn();
		ck_assert_int_eq(fake.ttl, rows[i].create);
		finish_creation(fake.creation_userdata);
	}
}
END_TEST

/* vm.create: progress, cancellation, and a lost caller, after which it goes on without an
 * answer. */
START_TEST(creating)
{
	static const char create[] = CALL_("1", "vm.create", "{\"environment\":\"debian:12\"}");
	const struct pull_progress p = { .phase = "install", .percent = 7 };
	int fd = dial();

	transmit(fd, create, sizeof(create) - 1);
	while (fake.creations < 1)
		turn();
	ck_assert_int_eq(fake.ttl, 600);
	fake.creation.on_progress(&p, fake.creation_userdata);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"percent\":7"));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("2", "cancel", "{\"id\":1}")), "\"id\":1,\"error\""));
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"cancelled\":true"));
	transmit(fd, create, sizeof(create) - 1);
	while (fake.creations < 2)
		turn();
	hang_up(fd);
	ck_assert(!TAILQ_EMPTY(server_detached(m.server)));
	fake.creation.on_progress(&p, fake.creation_userdata);
	finish_creation(fake.creation_userdata);
	ck_assert(TAILQ_EMPTY(server_detached(m.server)));
}
END_TEST

/* Calls that outlive their connection are limited, over all methods; other calls are served
 * meanwhile. */
START_TEST(detached_limit)
{
	static const char create[] = CALL_("1", "vm.create", "{\"environment\":\"debian:12\"}"),
			  reap[] = CALL_("2", "vm.reap_expired", "{}");
	void *creations[LIMIT_DETACHED_UID - 1], *reaped;
	for (int i = 0; i < LIMIT_DETACHED_UID - 1; i++) {
		int fd = dial();
		transmit(fd, create, sizeof(create) - 1);
		while (fake.creations <= i)
			turn();
		creations[i] = fake.creation_userdata;
		hang_up(fd);
	}
	int last = dial();
	transmit(last, reap, sizeof(reap) - 1);
	while (!fake.reap_userdata)
		turn();
	reaped = fake.reap_userdata;
	hang_up(last);

	_cleanup_close_ int fd = dial();
	ck_assert_ptr_nonnull(strstr(ask(fd, create), "quota_exceeded"));
	ck_assert_ptr_nonnull(strstr(ask(fd, reap), "quota_exceeded"));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("3", "vm.list", "{}")), "\"result\""));
	for (int i = 0; i < LIMIT_DETACHED_UID - 1; i++)
		finish_creation(creations[i]);
	transmit(fd, reap, sizeof(reap) - 1);
	while (fake.reap_userdata == reaped)
		turn();
	fake.reap_done(json_object_new_object(), NULL, fake.reap_userdata);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":2,\"result\""));
}
END_TEST

/* A pull takes minutes: clients that ask for it and disconnect, repeatedly, must leave no
 * waiters. */
START_TEST(callers_come_and_go)
{
	static const char pull[] = CALL_("2", "env.pull", "{\"environment\":\"debian:12\"}");
	for (int i = 1; i <= 200; i++) {
		int fd = dial();
		fake.pull_userdata = NULL;
		transmit(fd, pull, sizeof(pull) - 1);
		while (!fake.pull_userdata)
			turn();
		(void)close(fd);
		while (server_connections(m.server) > 0)
			turn();
		ck_assert_int_eq(fake.waits_freed, i);
	}
	ck_assert(TAILQ_EMPTY(server_detached(m.server)));
}
END_TEST

/* Descriptors without the end of their line are limited to those of a few lines. */
START_TEST(hoarded_descriptors)
{
	_cleanup_close_ int fd = dial(), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const int fds[] = { null, null, null, null };
	for (int i = 0; i < LIMIT_FDS_WAITING / 4; i++) {
		ck_assert_int_gt(fd_send(fd, "{", 1, fds, 4, 0), 0);
		turn();
	}
	ck_assert_int_eq(server_connections(m.server), 1);
	ck_assert_int_gt(fd_send(fd, "{", 1, fds, 4, 0), 0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "too many descriptors"));
	ck_assert_ptr_null(receive(fd));
}
END_TEST

/* doctor was called, and the installed files are being read. */
static void ask_doctor(int fd)
{
	static const char doctor[] = CALL_("1", "system.doctor", "{}");
	m.environments = (struct environments *)(void *)&m; /* unused by the fakes */
	fake.installed = true;
	transmit(fd, doctor, sizeof(doctor) - 1);
	while (fake.reads == 0)
		turn();
	ck_assert_int_eq(fake.runs, 0);
}

static void finish_reading(const struct error *err)
{
	integrity_done_fn read_done = fake.read_done;
	fake.read_done = NULL;
	read_done(err, fake.read_userdata);
}

static json_object *report(int fd)
{
	_cleanup_json_ json_object *o = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *a = receive(fd);
	ck_assert_int_eq(json_parse(a, strlen(a), &json_limits_reply, &o, NULL), 0);
	int r = api_check_result(
		api_methods[API_M_system_doctor].result, json_get(o, "result"), &err);
	ck_assert_msg(r >= 0, "%s", err.message);
	return json_object_get(json_get(o, "result"));
}

static const char *vm_boot(json_object *o)
{
	return json_get_str(json_get(o, "capabilities"), "vm_boot", "");
}

/* Files are read first; a caller that disconnects or cancels then is not called back. */
START_TEST(doctor_is_left_while_reading)
{
	_cleanup_close_ int fd = dial();
	ask_doctor(fd);
	if (_i == 0) {
		const char *a = ask(fd, CALL_("2", "cancel", "{\"id\":1}"));
		ck_assert_ptr_nonnull(strstr(a, "\"code\":\"cancelled\""));
		ck_assert_ptr_nonnull(strstr(receive(fd), "\"cancelled\":true"));
	} else {
		(void)shutdown(fd, SHUT_RDWR);
		while (server_connections(m.server) > 0)
			turn();
	}
	ck_assert(!fake.read_done);
	ck_assert_int_eq(fake.runs, 0);
}
END_TEST

/* A check that could not be made does not pass. */
START_TEST(doctor_cannot_read)
{
	_cleanup_close_ int fd = dial();
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	ask_doctor(fd);
	(void)error_set(&err, ERROR_INTERNAL, "gone", "install it", "pyro-import cannot start");
	finish_reading(&err);
	finish_run();
	o = report(fd);
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	ck_assert_ptr_nonnull(strstr(text,
		"{\"name\":\"integrity\",\"ok\":false,\"detail\":\"pyro-import cannot start: gone\","
		"\"fix\":\"install it\"}"));
	ck_assert(!json_get_bool(json_get(o, "runtime"), "ok", true));
	ck_assert_str_eq(json_get_str(json_get(o, "runtime"), "verdict", ""), "fail");
}
END_TEST

/* The same error from the probe machine, from the host, and from a limit of its caller. */
START_TEST(doctor_is_refused_a_machine)
{
	static const struct {
		enum error_code code;
		const char *can;
	} rows[] = { { ERROR_START_FAILED, "no" }, { ERROR_QUOTA_EXCEEDED, "unknown" } };
	_cleanup_close_ int fd = dial();
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	fake.vmm_usable = true;
	ask_doctor(fd);
	finish_reading(NULL);
	ck_assert_int_eq(fake.runs, 1);
	(void)error_set(&err, rows[_i].code, NULL, "pyro vm list", "no machine");
	fake.cb.on_done(NULL, NULL, &err, fake.userdata);
	o = report(fd);
	ck_assert_str_eq(vm_boot(o), rows[_i].can);
	ck_assert_str_eq(json_get_str(json_get(o, "runtime"), "verdict", ""), "fail");
}
END_TEST

/* A capability that was not tried is unknown: no pass and no failure. */
START_TEST(doctor_without_an_environment)
{
	_cleanup_close_ int fd = dial();
	_cleanup_json_ json_object *o = NULL;
	fake.vmm_usable = true;
	transmit(fd, CALL_("1", "system.doctor", "{}"), strlen(CALL_("1", "system.doctor", "{}")));
	o = report(fd);
	ck_assert_str_eq(vm_boot(o), "unknown");
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	ck_assert_ptr_nonnull(strstr(text, "\"name\":\"probe_machine\",\"ok\":false"));
	ck_assert_ptr_nonnull(strstr(text, "\"fix\":\"pyro env pull debian:12\""));
}
END_TEST

/* cancel comes just after the probe machine has ended successfully. */
START_TEST(cancelled_too_late)
{
	_cleanup_close_ int fd = dial();
	fake.cancel_late = true;
	ask_doctor(fd);
	finish_reading(NULL);
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("2", "cancel", "{\"id\":1}")), "\"cancelled\":true"));
	finish_run();
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":1,\"result\""));
	ck_assert_int_eq(fake.freed, 1);
}
END_TEST

START_TEST(same_id_twice)
{
	_cleanup_close_ int fd = dial();
	transmit(fd, RUN_("1", "\"command\":\"x\""), strlen(RUN_("1", "\"command\":\"x\"")));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("1", "vm.list", "{}")), "-32600"));
	ck_assert_ptr_null(receive(fd));
	ck_assert_int_eq(fake.abandoned, 1);
}
END_TEST

START_TEST(in_flight_limit)
{
	_cleanup_close_ int fd = dial();
	char text[200];
	for (int i = 0; i < LIMIT_IN_FLIGHT; i++) {
		(void)snprintf(text, sizeof(text), CALL_("%d", "vm.reap_expired", "{}"), i);
		transmit(fd, text, strlen(text));
	}
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("100", "vm.list", "{}")), "quota_exceeded"));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("101", "cancel", "{\"id\":5}")), "\"cancelled\":false"));
}
END_TEST

START_TEST(connections_limit)
{
	int fds[LIMIT_CONNECTIONS_UID];
	for (int i = 0; i < LIMIT_CONNECTIONS_UID; i++)
		fds[i] = dial();
	_cleanup_close_ int more = dial();
	ck_assert_ptr_nonnull(strstr(receive(more), "quota_exceeded"));
	ck_assert_ptr_null(receive(more));
	for (int i = 0; i < LIMIT_CONNECTIONS_UID; i++)
		(void)close(fds[i]);
	while (server_connections(m.server) > 0)
		turn();
	_cleanup_close_ int again = dial();
	ck_assert_ptr_nonnull(ask(again, CALL_("1", "system.ping", "{}")));
}
END_TEST

/* A client that only writes: its requests wait, memory is bounded, other clients are served. */
START_TEST(never_reads)
{
	_cleanup_close_ int fd = dial(), other = dial();
	static const char ping[] = CALL_("1", "system.ping", "{}");
	size_t sent = 0;
	for (uint64_t start = now_usec(), last = start; now_usec() - last < USEC_PER_SEC / 2;) {
		ssize_t n = send(fd, ping, sizeof(ping) - 1, MSG_DONTWAIT);
		if (n > 0) {
			sent += (size_t)n;
			last = now_usec();
			ck_assert_uint_lt(last - start, 6 * DEADLINE_USEC);
		} else {
			turn();
		}
	}
	ck_assert_uint_gt(sent, 1024 * 1024);
	ck_assert_uint_lt(sent, 16 * 1024 * 1024);
	ck_assert_ptr_nonnull(ask(other, ping));
}
END_TEST

/* Counts the complete lines that have arrived; the input is discarded. */
static size_t arrived(int fd)
{
	size_t lines = 0;
	ssize_t n = recv(fd, line, sizeof(line), MSG_DONTWAIT);
	for (ssize_t i = 0; i < n; i++)
		lines += line[i] == '\n';
	return lines;
}

/* An immediate answer is written in the turn of its call: another turn would waste system calls. */
START_TEST(one_turn_a_call)
{
	_cleanup_close_ int fd = dial();
	static const char ping[] = CALL_("1", "system.ping", "{}");
	for (int i = 0; i < 3; i++) {
		transmit(fd, ping, sizeof(ping) - 1);
		turn();
		ck_assert_uint_eq(arrived(fd), 1);
		ck_assert_int_eq(sd_event_run(m.event, 0), 0); /* no work is left */
	}
}
END_TEST

/* The number of a uid's connections does not change how much it is served before others. */
START_TEST(connections_share_a_turn)
{
	enum { CONNS = 4, ASKED = 64 };
	static const char ping[] = CALL_("1", "system.ping", "{}");
	int fds[CONNS];
	size_t got[CONNS] = { 0 }, all = 0;
	for (int i = 0; i < CONNS; i++)
		fds[i] = dial();
	for (int i = 0; i < CONNS * ASKED; i++)
		transmit(fds[i % CONNS], ping, sizeof(ping) - 1);
	while (all < (size_t)CONNS * ASKED) {
		size_t least = ASKED, most = 0;
		for (int i = 0; i < CONNS; i++)
			turn();
		for (int i = 0; i < CONNS; i++) {
			size_t n = arrived(fds[i]);
			ck_assert_uint_le(n, ASKED / CONNS);
			got[i] += n;
			all += n;
			least = MIN_OF(least, got[i]);
			most = MAX_OF(most, got[i]);
		}
		ck_assert_uint_le(most - least, ASKED / CONNS);
	}
	for (int i = 0; i < CONNS; i++)
		(void)close(fds[i]);
}
END_TEST

START_TEST(internal_errors)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, RUN_("1", "\"command\":\"internal\""));
	ck_assert_ptr_nonnull(strstr(a, "\"code\":\"internal\""));
	ck_assert_ptr_null(strstr(a, "secret"));
}
END_TEST

/* An error written for people keeps its sentence and its fix; its cause stays in the log. */
START_TEST(internal_errors_with_a_fix)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, RUN_("1", "\"command\":\"internal with a fix\""));
	ck_assert_ptr_nonnull(strstr(a, "\"message\":\"what failed\""));
	ck_assert_ptr_nonnull(strstr(a, "\"fix\":\"mend it so\""));
	ck_assert_ptr_nonnull(strstr(a, "its log has more under"));
	ck_assert_ptr_null(strstr(a, "secret"));
}
END_TEST

/* An answer above LIMIT_REPLY_BYTES becomes an error, and the connection goes on. */
START_TEST(answer_too_long)
{
	_cleanup_close_ int fd = dial();
	_cleanup_free_ char *text = malloc(LIMIT_REPLY_BYTES);
	ck_assert_ptr_nonnull(text);
	memset(text, 'x', LIMIT_REPLY_BYTES);
	transmit(fd, RUN_("1", "\"command\":\"true\""), strlen(RUN_("1", "\"command\":\"true\"")));
	for (int before = fake.runs; fake.runs == before;)
		turn();
	json_object *o = json_object_new_object();
	ck_assert_int_ge(json_add_strn(o, "stdout", text, LIMIT_REPLY_BYTES), 0);
	fake.cb.on_done(NULL, o, NULL, fake.userdata);
	const char *a = receive(fd);
	ck_assert_ptr_nonnull(strstr(a, "\"code\":\"unsupported\""));
	ck_assert_ptr_nonnull(strstr(a, "longer than 4194304 bytes"));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("2", "system.ping", "{}")), "\"result\""));
}
END_TEST

START_TEST(degraded)
{
	_cleanup_close_ int fd = dial();
	(void)error_set(&m.degraded, ERROR_UNSUPPORTED, "c", "update", "the store is newer");
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("1", "vm.list", "{}")), "the store is newer"));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("2", "system.ping", "{}")), "\"result\""));
	const char *a = ask(fd, CALL_("3", "system.doctor", "{}"));
	ck_assert_ptr_nonnull(strstr(a, "\"name\":\"store\",\"ok\":false"));
	_cleanup_json_ json_object *o = NULL;
	ck_assert_int_eq(json_parse(a, strlen(a), &json_limits_reply, &o, NULL), 0);
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = api_check_result(
		api_methods[API_M_system_doctor].result, json_get(o, "result"), &err);
	ck_assert_msg(r >= 0, "%s", err.message);
}
END_TEST

/* Each method that acts on an owned object: the look-up uses the caller's uid, and no handler runs
 * without it. */
START_TEST(objects_are_found_as_their_caller)
{
	_cleanup_close_ int fd = dial();
	unsigned n = 0;

	for (size_t i = 0; i < api_n_methods; i++) {
		const struct api_method *method = &api_methods[i];
		bool is_vm = method->object == API_OBJ_VM;
		_cleanup_free_ char *call = NULL;
		const char *a;

		if (!is_vm && method->object != API_OBJ_EXEC)
			continue;
		if (streq(method->name,
			    "exec.attach")) /* needs a descriptor: tests/t/test_authority.py */
			continue;
		call = str_printf("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":"
				  "{\"%s\":\"%s-ffffffffffff\"%s}}\n",
			method->name, is_vm ? "vm_id" : "exec_id", is_vm ? "vm" : "ex",
			streq(method->name, "vm.exec") ? ",\"command\":\"true\"" : "");
		fake.found_as = getuid() + 1;
		a = ask(fd, call);
		ck_assert_msg(strstr(a, is_vm ? "\"vm_not_found\"" : "\"exec_not_found\""),
			"%s: %s", method->name, a);
		ck_assert_uint_eq(fake.found_as, getuid());
		n++;
	}
	ck_assert_uint_ge(n, 7);
}
END_TEST

START_TEST(signals_what_was_found)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, CALL_("1", "exec.signal", "{\"exec_id\":\"ex-000000000000\"}"));

	ck_assert_ptr_nonnull(strstr(a, "\"result\""));
	ck_assert_int_eq(fake.signo, SIGINT); /* the table's default */
	a = ask(fd, CALL_("2", "exec.signal",
			    "{\"exec_id\":\"ex-000000000000\",\"signal_name\":\"KILL\"}"));
	ck_assert_ptr_nonnull(strstr(a, "\"result\""));
	ck_assert_int_eq(fake.signo, SIGKILL);
}
END_TEST

/* A given prefix is not looked up again: by then another machine may match it. */
START_TEST(found_again_by_its_whole_id)
{
	_cleanup_close_ int fd = dial();
	const char *a;

	strcpy(fake.machine_id, "vm-000000000001");
	transmit(fd, CALL_("1", "vm.stop", "{\"vm_id\":\"vm-00\"}"),
		strlen(CALL_("1", "vm.stop", "{\"vm_id\":\"vm-00\"}")));
	while (!fake.state_done)
		turn();
	fake.state_done(NULL, fake.state_userdata);
	a = receive(fd);
	ck_assert_ptr_nonnull(strstr(a, "\"vm_id\":\"vm-000000000001\""));

	fake.state_done = NULL;
	transmit(fd, CALL_("2", "vm.start", "{\"vm_id\":\"vm-00\"}"),
		strlen(CALL_("2", "vm.start", "{\"vm_id\":\"vm-00\"}")));
	while (!fake.state_done)
		turn();
	strcpy(fake.machine_id, "vm-000000000002");
	fake.state_done(NULL, fake.state_userdata);
	a = receive(fd);
	ck_assert_ptr_nonnull(strstr(a, "no machine vm-000000000001"));
}
END_TEST

/* The path of a live socket is not taken over; one left by a dead daemon is. */
START_TEST(socket_path)
{
	struct server *second = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_lt(server_new(&m, rpc_handlers, -EBADF, &second, &err), 0);
	ck_assert_int_eq(err.code, ERROR_WRONG_STATE);

	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/d", dir);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	(void)close(fd);
	m.socket_path = addr.sun_path;
	ck_assert_int_ge(server_new(&m, rpc_handlers, -EBADF, &second, NULL), 0);
	server_free(second);
	ck_assert_int_lt(access(addr.sun_path, F_OK), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc");
	TCase *t = tcase_create("rpc");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, pings);
	tcase_add_loop_test(t, refusals, 0, (int)ARRAY_SIZE(refused));
	tcase_add_loop_test(t, fatal_lines, 0, (int)ARRAY_SIZE(fatal));
	tcase_add_test(t, long_lines);
	tcase_add_test(t, framing);
	tcase_add_test(t, notifications);
	tcase_add_test(t, run_and_progress);
	tcase_add_test(t, wrong_descriptors);
	tcase_add_test(t, cancelling);
	tcase_add_test(t, caller_gone);
	tcase_add_test(t, default_ttl);
	tcase_add_test(t, creating);
	tcase_add_test(t, detached_limit);
	tcase_add_test(t, callers_come_and_go);
	tcase_add_test(t, hoarded_descriptors);
	tcase_add_loop_test(t, doctor_is_left_while_reading, 0, 2);
	tcase_add_test(t, doctor_cannot_read);
	tcase_add_loop_test(t, doctor_is_refused_a_machine, 0, 2);
	tcase_add_test(t, doctor_without_an_environment);
	tcase_add_test(t, cancelled_too_late);
	tcase_add_test(t, same_id_twice);
	tcase_add_test(t, in_flight_limit);
	tcase_add_test(t, connections_limit);
	tcase_add_test(t, never_reads);
	tcase_add_test(t, one_turn_a_call);
	tcase_add_test(t, connections_share_a_turn);
	tcase_add_test(t, internal_errors);
	tcase_add_test(t, internal_errors_with_a_fix);
	tcase_add_test(t, answer_too_long);
	tcase_add_test(t, degraded);
	tcase_add_test(t, objects_are_found_as_their_caller);
	tcase_add_test(t, signals_what_was_found);
	tcase_add_test(t, found_again_by_its_whole_id);
	tcase_add_test(t, socket_path);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
