/* SPDX-License-Identifier: MIT */
/*
 * The socket, the lines, the dispatcher and the life of calls, over a real socket and with handlers
 * of the test's own (server_new takes the table). Of the rooms below only the four look-ups of
 * object.c have stand-ins. What real handlers do is in tests/t. Run by `meson test rpc`. The loop
 * runs in this process: each step runs it until the answer comes, at most 10 s.
 */

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "daemon/config.h"
#include "daemon/core/run.h"
#include "daemon/core/vm.h"
#include "daemon/core/workspace.h"
#include "daemon/image/environment.h"
#include "daemon/rpc/conn.h"
#include "daemon/rpc/server.h"
#include "proto/api.h"
#include "proto/fdpass.h"
#include "proto/json.h"
#include "proto/limits.h"

#define DEADLINE_USEC (10 * USEC_PER_SEC)

/* The objects: one machine, one command, no environment. */

static char the_machine[API_ID_SIZE]; /* "": there is none */
static uid_t found_as;                /* the uid of the last look-up */
static int an_object;

int vm_find(_unused_ struct machines *ms, const char *id, uid_t uid, struct machine **ret,
	struct error *err)
{
	found_as = uid;
	if (!the_machine[0] || !startswith(the_machine, id))
		return error_set(
			err, ERROR_VM_NOT_FOUND, NULL, "pyro vm list", "no machine %s", id);
	*ret = (struct machine *)(void *)&an_object;
	return 0;
}

int workspace_find(_unused_ struct manager *manager, const char *ref, uid_t uid,
	_unused_ struct workspace **ret, struct error *err)
{
	found_as = uid;
	return error_set(err, ERROR_WORKSPACE_NOT_FOUND, NULL, "pyro workspace list",
		"no workspace %s", ref);
}

const char *machine_id(_unused_ const struct machine *mc)
{
	return the_machine;
}

const struct vm_row *machine_row(_unused_ const struct machine *mc)
{
	static const struct vm_row row;

	return &row;
}

const char *workspace_id(_unused_ const struct workspace *ws)
{
	return "";
}

uid_t workspace_owner_uid(_unused_ const struct workspace *ws)
{
	return 0;
}

int runs_find(_unused_ struct manager *manager, const char *exec_id, uid_t uid, struct run **ret,
	struct error *err)
{
	found_as = uid;
	if (!streq(exec_id, "ex-000000000000"))
		return error_set(err, ERROR_EXEC_NOT_FOUND, NULL, "mend it", "%s", exec_id);
	*ret = (struct run *)(void *)&an_object;
	return 0;
}

unsigned commands_find(_unused_ struct manager *manager, _unused_ const char *exec_id,
	_unused_ uid_t uid, _unused_ struct command **ret)
{
	return 0;
}

int environments_find(_unused_ struct environments *envs, const char *name,
	_unused_ struct environment **ret, struct error *err)
{
	return error_set(err, ERROR_ENVIRONMENT_UNKNOWN, NULL, "known: none",
		"unknown environment %s", name);
}

/* The handlers: some answer at once, others keep the call for the test. */

static struct call *kept[2 * LIMIT_DETACHED_UID];
static unsigned n_kept, n_gone, n_cancelled;
static bool cancel_late; /* the result comes just before the cancellation */

static int answer_empty_list(struct call *c, _unused_ struct error *err)
{
	call_reply(c, json_tokener_parse("{\"count\":0,\"vms\":[]}"));
	return 0;
}

static void on_end(struct call *c, enum call_end why, _unused_ void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	n_gone += why == CALL_GONE;
	n_cancelled += why == CALL_CANCELLED;
	if (why == CALL_CANCELLED && !cancel_late) {
		(void)error_cancelled(&err, "its caller asked for it", "cancelled");
		call_fail(c, &err);
	}
}

static void note_kept(struct call *c)
{
	ck_assert_uint_lt(n_kept, ARRAY_SIZE(kept));
	kept[n_kept++] = c;
}

/* Ends with its connection. Some commands fail at once. */
static int keep(struct call *c, struct error *err)
{
	const char *command = call_str_if_any(c, "command");

	if (command && streq(command, "fail"))
		return error_set(err, ERROR_START_FAILED, "because", "do that", "it cannot start");
	if (command && streq(command, "internal"))
		return error_internal(err, "secret cause", "secret text");
	if (command && streq(command, "internal with a fix"))
		return error_set(err, ERROR_INTERNAL, "secret cause", "mend it so", "what failed");
	call_keep(c, on_end, NULL);
	note_kept(c);
	return 0;
}

/* Goes on without its connection. */
static int keep_on(struct call *c, _unused_ struct error *err)
{
	call_keep_on(c, on_end, NULL);
	note_kept(c);
	return 0;
}

/* The same, and cannot be cancelled. */
static int keep_to_its_end(struct call *c, _unused_ struct error *err)
{
	call_keep_on(c, NULL, NULL);
	note_kept(c);
	return 0;
}

static int answer_signal(struct call *c, _unused_ struct error *err)
{
	json_object *o = json_object_new_object();

	ck_assert_ptr_eq(call_run(c), &an_object);
	ck_assert_int_ge(json_add_str(o, "exec_id", "ex-000000000000"), 0);
	ck_assert_int_ge(json_add_str(o, "signal", call_str(c, "signal_name")), 0);
	call_reply(c, o);
	return 0;
}

static int never(struct call *c, _unused_ struct error *err)
{
	ck_abort_msg("%s: the handler runs", c->method->name);
	return 0;
}

static const call_handler_fn handlers[API_M_MAX] = {
	[API_M_system_ping] = rpc_system_ping,
	[API_M_rpc_discover] = rpc_rpc_discover,
	[API_M_cancel] = rpc_cancel,
	[API_M_system_doctor] = answer_empty_list,
	[API_M_vm_list] = answer_empty_list,
	[API_M_vm_run] = keep,
	[API_M_vm_create] = keep_on,
	[API_M_vm_start] = keep_to_its_end,
	[API_M_vm_stop] = keep_to_its_end,
	[API_M_vm_reap_expired] = keep_to_its_end,
	[API_M_vm_exec] = never,
	[API_M_vm_status] = never,
	[API_M_vm_delete] = never,
	[API_M_vm_network_info] = never,
	[API_M_env_inspect] = never,
	[API_M_workspace_status] = never,
	[API_M_workspace_start] = never,
	[API_M_workspace_stop] = never,
	[API_M_workspace_wait] = never,
	[API_M_workspace_update] = never,
	[API_M_workspace_share] = never,
	[API_M_workspace_delete] = never,
	[API_M_exec_signal] = answer_signal,
};

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
	ck_assert_int_ge(server_new(&m, handlers, -EBADF, &m.server, NULL), 0);
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

static int connect_to_server(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	strcpy(addr.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static int dial(void)
{
	int fd = connect_to_server();
	turn();
	return fd;
}

/* Connects as a user that is not root, where the test is. */
static int dial_as_user(uid_t *ret_uid)
{
	int fd;

	*ret_uid = getuid() == 0 ? 65534 : getuid();
	m.system = true;
	ck_assert_int_eq(chmod(dir, 0755), 0);
	ck_assert_int_eq(chmod(path, 0666), 0);
	ck_assert_int_eq(seteuid(*ret_uid), 0);
	fd = connect_to_server(); /* the kernel notes the effective uid */
	ck_assert_int_eq(seteuid(getuid()), 0);
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

static void until_kept(unsigned n)
{
	while (n_kept < n)
		turn();
}

/* Answers the kept call number n. */
static void finish(unsigned n)
{
	call_reply(kept[n], json_object_new_object());
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
	{ RUN_("1", "\"command\":\"x\",\"vcpu_count\":0"), "1", "-32602" },
	{ RUN_("1", "\"command\":\"x\",\"stdin\":true"), "1", "-32602" },
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
	ck_assert_uint_eq(n_kept, 1);
	ck_assert_uint_eq(n_gone, 0);
	finish(0);
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

/* The descriptor of a line reaches its handler, progress comes before the answer. */
START_TEST(descriptor_and_progress)
{
	_cleanup_close_ int fd = dial();
	json_object *p = json_object_new_object();
	int pair[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	static const char text[] =
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.run\",\"fds\":1,\"params\":{\"environment\":"
		"\"debian:12\",\"command\":\"x\",\"stdio\":0}}\n";
	ck_assert_int_eq(
		fd_send(fd, text, sizeof(text) - 1, &pair[1], 1, 0), (int)sizeof(text) - 1);
	until_kept(1);
	ck_assert_int_eq(call_uid(kept[0]), getuid());
	(void)close(pair[1]);
	ck_assert_int_eq(write(call_fd(kept[0], "stdio"), "here", 4), 4);
	ck_assert_int_eq(read(pair[0], line, 4), 4);
	ck_assert_int_ge(json_add_str(p, "phase", "start"), 0);
	call_progress(kept[0], p);
	ck_assert_str_eq(receive(fd),
		"{\"jsonrpc\":\"2.0\",\"method\":\"progress\",\"params\":{\"phase\":\"start\",\"call\":1}}");
	finish(0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":1,\"result\""));
	ck_assert_int_eq(read(pair[0], line, 1), 0); /* closed with its call */
	(void)close(pair[0]);
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
	ck_assert_uint_eq(n_kept, 0);
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
	transmit(fd, CALL_("4", "vm.reap_expired", "{}"),
		strlen(CALL_("4", "vm.reap_expired", "{}")));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("5", "cancel", "{\"id\":4}")), "\"cancelled\":false"));
	finish(1);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":4,\"result\""));
}
END_TEST

/* kill -9 of a client: a call that ends with its caller is ended, another goes on and its answer is
 * dropped. */
START_TEST(caller_gone)
{
	int fd = dial();
	transmit(fd, RUN_("1", "\"command\":\"x\""), strlen(RUN_("1", "\"command\":\"x\"")));
	static const char create[] = CALL_("2", "vm.create", "{\"environment\":\"debian:12\"}");
	transmit(fd, create, sizeof(create) - 1);
	static const char reap[] = CALL_("3", "vm.reap_expired", "{}");
	transmit(fd, reap, sizeof(reap) - 1);
	until_kept(3);
	hang_up(fd);
	ck_assert_uint_eq(n_gone, 1);
	ck_assert(!TAILQ_EMPTY(server_detached(m.server)));
	call_progress(kept[1], json_object_new_object());
	finish(1);
	finish(2);
	ck_assert(TAILQ_EMPTY(server_detached(m.server)));
}
END_TEST

/* Calls that outlive their connection are limited, over all methods; other calls are served
 * meanwhile. */
START_TEST(detached_limit)
{
	static const char create[] = CALL_("1", "vm.create", "{\"environment\":\"debian:12\"}"),
			  reap[] = CALL_("2", "vm.reap_expired", "{}");
	for (unsigned i = 0; i < LIMIT_DETACHED_UID; i++) {
		const char *text = i % 2 ? create : reap;
		int fd = dial();
		transmit(fd, text, strlen(text));
		until_kept(i + 1);
		hang_up(fd);
	}

	_cleanup_close_ int fd = dial();
	ck_assert_ptr_nonnull(strstr(ask(fd, create), "quota_exceeded"));
	ck_assert_ptr_nonnull(strstr(ask(fd, reap), "quota_exceeded"));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("3", "vm.list", "{}")), "\"result\""));
	finish(7);
	transmit(fd, reap, sizeof(reap) - 1);
	until_kept(LIMIT_DETACHED_UID + 1);
	finish(LIMIT_DETACHED_UID);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":2,\"result\""));
}
END_TEST

/* Clients that ask, wait and disconnect, repeatedly, leave nothing that is counted. */
START_TEST(callers_come_and_go)
{
	static const char run[] = RUN_("1", "\"command\":\"x\"");
	for (unsigned i = 1; i <= 200; i++) {
		int fd = dial();
		n_kept = 0;
		transmit(fd, run, sizeof(run) - 1);
		until_kept(1);
		hang_up(fd);
		ck_assert_uint_eq(n_gone, i);
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

/* A call may still be answered with its result after it was cancelled. */
START_TEST(cancelled_too_late)
{
	_cleanup_close_ int fd = dial();
	cancel_late = true;
	transmit(fd, RUN_("1", "\"command\":\"x\""), strlen(RUN_("1", "\"command\":\"x\"")));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("2", "cancel", "{\"id\":1}")), "\"cancelled\":true"));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("3", "cancel", "{\"id\":1}")), "\"cancelled\":true"));
	ck_assert_uint_eq(n_cancelled, 1); /* its handler is told once */
	finish(0);
	ck_assert_ptr_nonnull(strstr(receive(fd), "\"id\":1,\"result\""));
}
END_TEST

START_TEST(same_id_twice)
{
	_cleanup_close_ int fd = dial();
	transmit(fd, RUN_("1", "\"command\":\"x\""), strlen(RUN_("1", "\"command\":\"x\"")));
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("1", "vm.list", "{}")), "-32600"));
	ck_assert_ptr_null(receive(fd));
	ck_assert_uint_eq(n_gone, 1);
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
	until_kept(1);
	json_object *o = json_object_new_object();
	ck_assert_int_ge(json_add_strn(o, "stdout", text, LIMIT_REPLY_BYTES), 0);
	call_reply(kept[0], o);
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
	ck_assert_ptr_nonnull(strstr(ask(fd, CALL_("3", "system.doctor", "{}")), "\"result\""));
	ck_assert_ptr_nonnull(
		strstr(ask(fd, CALL_("4", "cancel", "{\"id\":1}")), "\"cancelled\":false"));
}
END_TEST

/* Each method that acts on an owned object: the look-up uses the caller's uid, and no handler runs
 * without it. */
/* Appends the texts that a method requires beside its object: ,"command":"x". */
static void add_required_texts(const struct api_method *method, char ret[256])
{
	size_t n = 0;

	ret[0] = '\0';
	for (const struct api_field *f = method->params; f->name; f++)
		if ((f->flags & API_REQUIRED) && f->type == API_STRING)
			n += (size_t)snprintf(ret + n, 256 - n, ",\"%s\":\"x\"", f->name);
	ck_assert_uint_lt(n, 256);
}

START_TEST(objects_are_found_as_their_caller)
{
	static const struct {
		const char *kind, *id;
	} owned[API_OBJ_MAX] = {
		[API_OBJ_VM] = { "vm", "vm-ffffffffffff" },
		[API_OBJ_WORKSPACE] = { "workspace", "ws-ffffffffffff" },
		[API_OBJ_EXEC] = { "exec", "ex-ffffffffffff" },
	};
	uid_t uid;
	_cleanup_close_ int fd = dial_as_user(&uid);
	unsigned n = 0;

	for (size_t i = 0; i < api_n_methods; i++) {
		const struct api_method *method = &api_methods[i];
		const char *kind = owned[method->object].kind;
		_cleanup_free_ char *call = NULL, *code = NULL;
		char texts[256];
		const char *a;

		if (!kind)
			continue;
		if (streq(method->name,
			    "exec.attach")) /* needs a descriptor: tests/t/test_authority.py */
			continue;
		add_required_texts(method, texts);
		call = str_printf("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":"
				  "{\"%s_id\":\"%s\"%s}}\n",
			method->name, kind, owned[method->object].id, texts);
		code = str_printf("\"%s_not_found\"", kind);
		found_as = uid + 1;
		a = ask(fd, call);
		ck_assert_msg(strstr(a, code), "%s: %s", method->name, a);
		ck_assert_uint_eq(found_as, uid);
		n++;
	}
	ck_assert_uint_ge(n, 18);
}
END_TEST

/* A handler gets the object that was found, and the parameters with the table's defaults. */
START_TEST(handed_what_was_found)
{
	_cleanup_close_ int fd = dial();
	const char *a = ask(fd, CALL_("1", "exec.signal", "{\"exec_id\":\"ex-000000000000\"}"));

	ck_assert_ptr_nonnull(strstr(a, "\"signal\":\"INT\""));
	a = ask(fd, CALL_("2", "exec.signal",
			    "{\"exec_id\":\"ex-000000000000\",\"signal_name\":\"KILL\"}"));
	ck_assert_ptr_nonnull(strstr(a, "\"signal\":\"KILL\""));
}
END_TEST

/* A kept call finds its object again, with its caller's rights, or learns that it is deleted. */
START_TEST(found_again)
{
	uid_t uid;
	_cleanup_close_ int fd = dial_as_user(&uid);
	_cleanup_error_ struct error err = ERROR_INIT;

	strcpy(the_machine, "vm-000000000001");
	transmit(fd, CALL_("1", "vm.stop", "{\"vm_id\":\"vm-00\"}"),
		strlen(CALL_("1", "vm.stop", "{\"vm_id\":\"vm-00\"}")));
	until_kept(1);
	found_as = uid + 1;
	ck_assert_int_eq(call_find_again(kept[0], "vm-000000000001", &err), 0);
	ck_assert_ptr_eq(call_machine(kept[0]), &an_object);
	ck_assert_uint_eq(found_as, uid);
	strcpy(the_machine, "vm-000000000002");
	ck_assert_int_lt(call_find_again(kept[0], "vm-000000000001", &err), 0);
	call_fail(kept[0], &err);
	ck_assert_ptr_nonnull(strstr(receive(fd), "no machine vm-000000000001"));
}
END_TEST

/* The path of a live socket is not taken over; one left by a dead daemon is. */
START_TEST(socket_path)
{
	struct server *second = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_lt(server_new(&m, handlers, -EBADF, &second, &err), 0);
	ck_assert_int_eq(err.code, ERROR_WRONG_STATE);

	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/d", dir);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	(void)close(fd);
	m.socket_path = addr.sun_path;
	ck_assert_int_ge(server_new(&m, handlers, -EBADF, &second, NULL), 0);
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
	tcase_add_test(t, descriptor_and_progress);
	tcase_add_test(t, wrong_descriptors);
	tcase_add_test(t, cancelling);
	tcase_add_test(t, caller_gone);
	tcase_add_test(t, detached_limit);
	tcase_add_test(t, callers_come_and_go);
	tcase_add_test(t, hoarded_descriptors);
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
	tcase_add_test(t, handed_what_was_found);
	tcase_add_test(t, found_again);
	tcase_add_test(t, socket_path);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
