/* SPDX-License-Identifier: MIT */
/*
 * Units and the launch socket against a service manager that the test plays, on a real bus:
 * dbus-daemon on a private socket, and a second connection that owns org.freedesktop.systemd1.
 * Skipped without dbus-daemon.
 */
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>

#include "daemon/service.h"
#include "daemon/sock.h"
#include "daemon/unit.h"

#define NAME    "pyro-vm@vm-0123456789ab.service"
#define JOB     "/org/freedesktop/systemd1/job/7"
#define SYSTEMD "org.freedesktop.systemd1"
#define INVOKED "00112233445566778899aabbccddeeff"

static const uint8_t invoked[16] = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99,
	0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };

enum play {
	PLAY_WELL,
	PLAY_DENY,   /* polkit refuses */
	PLAY_FAIL,   /* the job fails */
	PLAY_SILENT, /* no answer at all */
	PLAY_OTHER_LIMITS,
};

struct fixture {
	char dir[64];
	pid_t daemon;
	sd_event *event;
	sd_bus *manager; /* the service manager's connection */
	struct units *units;
	struct unit *unit;
	enum play play;
	pid_t pid; /* the main process that it reports */
	bool active;
	struct unit_limits limits;
	unsigned n_started, n_limited, n_looked, n_ended, n_stops, n_exited, n_gets;
	struct error error;
	int found, status;
	bool enforced;
	char *path; /* of the unit */
};

/* The service manager */

static int on_start(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
	struct fixture *t = userdata;
	const char *name, *mode;

	ck_assert_int_ge(sd_bus_message_read(m, "ss", &name, &mode), 0);
	ck_assert_str_eq(name, NAME);
	ck_assert_str_eq(mode, "replace");
	if (t->play == PLAY_SILENT)
		return 1;
	if (t->play == PLAY_DENY)
		return sd_bus_error_set(e, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED,
			"Interactive authentication required.\x1b[2J");
	t->active = t->play != PLAY_FAIL;
	ck_assert_int_ge(sd_bus_reply_method_return(m, "o", JOB), 0);
	/* Another unit's job, whose end must be ignored. */
	ck_assert_int_ge(
		sd_bus_emit_signal(t->manager, "/org/freedesktop/systemd1", SYSTEMD ".Manager",
			"JobRemoved", "uoss", 6, "/org/freedesktop/systemd1/job/6", NAME, "failed"),
		0);
	ck_assert_int_ge(sd_bus_emit_signal(t->manager, "/org/freedesktop/systemd1",
				 SYSTEMD ".Manager", "JobRemoved", "uoss", 7, JOB, NAME,
				 t->play == PLAY_FAIL ? "failed" : "done"),
		0);
	return 1;
}

static int on_stop(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	struct fixture *t = userdata;

	t->n_stops++;
	return sd_bus_reply_method_return(m, "o", "/org/freedesktop/systemd1/job/8");
}

static int on_set(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	struct fixture *t = userdata;
	const char *name, *keys[3];
	int runtime, n;

	ck_assert_int_ge(sd_bus_message_read(m, "sba(sv)", &name, &runtime, 3, &keys[0], "t",
				 &t->limits.memory_bytes, &keys[1], "t",
				 &t->limits.cpu_usec_per_sec, &keys[2], "t", &t->limits.tasks),
		0);
	n = streq(keys[0], "MemoryMax") + streq(keys[1], "CPUQuotaPerSecUSec") +
	    streq(keys[2], "TasksMax");
	ck_assert_int_eq(n, 3);
	ck_assert_int_eq(runtime, 1);
	if (t->play == PLAY_OTHER_LIMITS)
		t->limits.tasks = UINT64_MAX;
	return sd_bus_reply_method_return(m, NULL);
}

static int on_subscribe(sd_bus_message *m, _unused_ void *userdata, _unused_ sd_bus_error *e)
{
	return sd_bus_reply_method_return(m, NULL);
}

static int on_get(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
	struct fixture *t = userdata;
	const char *interface, *name;
	_cleanup_free_ void *p = NULL;
	sd_bus_message *reply = NULL;

	ck_assert_int_ge(sd_bus_message_read(m, "ss", &interface, &name), 0);
	t->n_gets++;
	if (t->play == PLAY_SILENT)
		return 1;
	if (streq(name, "ActiveState"))
		return sd_bus_reply_method_return(m, "v", "s", t->active ? "active" : "inactive");
	if (streq(name, "MainPID"))
		return sd_bus_reply_method_return(m, "v", "u", t->active ? (uint32_t)t->pid : 0U);
	if (streq(name, "ControlGroup"))
		return sd_bus_reply_method_return(m, "v", "s", "/pyro.slice/nothing-is-there");
	if (streq(name, "MemoryMax"))
		return sd_bus_reply_method_return(m, "v", "t", t->limits.memory_bytes);
	if (streq(name, "CPUQuotaPerSecUSec"))
		return sd_bus_reply_method_return(m, "v", "t", t->limits.cpu_usec_per_sec);
	if (streq(name, "TasksMax"))
		return sd_bus_reply_method_return(m, "v", "t", t->limits.tasks);
	if (!streq(name, "InvocationID"))
		return sd_bus_error_set(e, SD_BUS_ERROR_UNKNOWN_PROPERTY, name);
	ck_assert_int_ge(sd_bus_message_new_method_return(m, &reply), 0);
	ck_assert_int_ge(sd_bus_message_open_container(reply, 'v', "ay"), 0);
	ck_assert_int_ge(
		sd_bus_message_append_array(reply, 'y', invoked, t->active ? sizeof(invoked) : 0),
		0);
	ck_assert_int_ge(sd_bus_message_close_container(reply), 0);
	ck_assert_int_ge(sd_bus_send(NULL, reply, NULL), 0);
	sd_bus_message_unref(reply);
	return 1;
}

static int on_call(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
	static const struct {
		const char *member;
		int (*fn)(sd_bus_message *m, void *userdata, sd_bus_error *e);
	} calls[] = {
		{ "StartUnit", on_start },
		{ "StopUnit", on_stop },
		{ "SetUnitProperties", on_set },
		{ "Subscribe", on_subscribe },
		{ "Get", on_get },
	};

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (sd_bus_message_is_method_call(m, NULL, calls[i].member))
			return calls[i].fn(m, userdata, e);
	return 0;
}

static void end_main_process(struct fixture *t, int code, int status)
{
	t->active = false;
	ck_assert_int_ge(
		sd_bus_emit_signal(t->manager, t->path, "org.freedesktop.DBus.Properties",
			"PropertiesChanged", "sa{sv}as", SYSTEMD ".Service", 3, "ExecMainCode", "i",
			code, "ExecMainStatus", "i", status, "MainPID", "u", 0U, 0),
		0);
}

/* The bus */

static void own_name(struct fixture *t)
{
	_cleanup_free_ char *address = str_printf("unix:path=%s/bus", t->dir);

	ck_assert_int_ge(sd_bus_new(&t->manager), 0);
	ck_assert_int_ge(sd_bus_set_address(t->manager, address), 0);
	ck_assert_int_ge(sd_bus_set_bus_client(t->manager, true), 0);
	ck_assert_int_ge(sd_bus_start(t->manager), 0);
	ck_assert_int_ge(sd_bus_request_name(t->manager, SYSTEMD, 0), 0);
	ck_assert_int_ge(sd_bus_attach_event(t->manager, t->event, 0), 0);
	ck_assert_int_ge(
		sd_bus_add_fallback(t->manager, NULL, "/org/freedesktop/systemd1", on_call, t), 0);
}

/* dbus-daemon prints its address when it listens. */
static void start_bus(struct fixture *t)
{
	_cleanup_free_ char *config = str_printf("%s/bus.conf", t->dir),
			    *path = str_printf("%s/bus", t->dir);
	char program[] = "dbus-daemon", nofork[] = "--nofork", print[] = "--print-address=3";
	_cleanup_free_ char *option = str_printf("--config-file=%s", config);
	char *const argv[] = { program, option, nofork, print, NULL };
	posix_spawn_file_actions_t actions;
	_cleanup_fclose_ FILE *f = fopen(config, "we");
	int p[2];
	char c;

	ck_assert_ptr_nonnull(f);
	fprintf(f,
		"<busconfig><type>session</type><listen>unix:path=%s</listen><policy context=\"default\">"
		"<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>"
		"</busconfig>\n",
		path);
	ck_assert_int_eq(fflush(f), 0);
	ck_assert_int_eq(pipe2(p, O_CLOEXEC), 0);
	(void)unlink(path);
	ck_assert_int_eq(posix_spawn_file_actions_init(&actions), 0);
	ck_assert_int_eq(posix_spawn_file_actions_adddup2(&actions, p[1], 3), 0);
	ck_assert_int_eq(posix_spawnp(&t->daemon, program, &actions, NULL, argv, environ), 0);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(p[1]);
	ck_assert_int_eq(read(p[0], &c, 1), 1);
	(void)close(p[0]);
}

static void end_bus(struct fixture *t)
{
	sd_bus_detach_event(t->manager);
	t->manager = sd_bus_close_unref(t->manager);
	ck_assert_int_eq(kill(t->daemon, SIGKILL), 0);
	ck_assert_int_eq(waitpid(t->daemon, NULL, 0), t->daemon);
}

static void begin(struct fixture *t)
{
	_cleanup_free_ char *address = NULL;

	*t = (struct fixture){ .dir = "/tmp/test-unit-XXXXXX", .pid = getpid() };
	ck_assert_ptr_nonnull(mkdtemp(t->dir));
	address = str_printf("unix:path=%s/bus", t->dir);
	ck_assert_int_eq(setenv("DBUS_SYSTEM_BUS_ADDRESS", address, 1), 0);
	ck_assert_int_ge(sd_bus_path_encode("/org/freedesktop/systemd1/unit", NAME, &t->path), 0);
	ck_assert_int_ge(sd_event_new(&t->event), 0);
	start_bus(t);
	own_name(t);
	ck_assert_int_ge(units_new(t->event, false, &t->units), 0);
}

static void end(struct fixture *t)
{
	_cleanup_free_ char *config = str_printf("%s/bus.conf", t->dir),
			    *path = str_printf("%s/bus", t->dir);

	unit_free(t->unit);
	units_free(t->units);
	end_bus(t);
	sd_event_unref(t->event);
	error_clear(&t->error);
	free(t->path);
	(void)unlink(config);
	(void)unlink(path);
	ck_assert_int_eq(rmdir(t->dir), 0);
}

static void run_until(struct fixture *t, const unsigned *counter, unsigned n)
{
	const uint64_t deadline = now_usec() + 30 * USEC_PER_SEC;

	while (*counter < n) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->event, USEC_PER_SEC), 0);
	}
}

static void on_started(_unused_ struct unit *u, const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	t->n_started++;
	error_clear(&t->error);
	if (err)
		ck_assert_int_eq(error_copy(&t->error, err), 0);
}

static void on_limited(
	_unused_ struct unit *u, bool enforced, const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	t->n_limited++;
	t->enforced = enforced;
	error_clear(&t->error);
	if (err)
		ck_assert_int_eq(error_copy(&t->error, err), 0);
}

static void on_looked(_unused_ struct unit *u, int found, void *userdata)
{
	struct fixture *t = userdata;

	t->n_looked++;
	t->found = found;
}

static void on_ended(_unused_ struct unit *u, int status, void *userdata)
{
	struct fixture *t = userdata;

	t->n_ended++;
	t->status = status;
}

static const struct unit_callbacks events = {
	.on_started = on_started,
	.on_limited = on_limited,
	.on_looked = on_looked,
	.on_ended = on_ended,
};

static void make_unit(struct fixture *t)
{
	ck_assert_int_ge(unit_new(t->units, NAME, &events, t, &t->unit), 0);
}

static void start_well(struct fixture *t)
{
	make_unit(t);
	unit_start(t->unit);
	run_until(t, &t->n_started, 1);
	ck_assert_msg(!t->error.set, "%s: %s", t->error.message, t->error.cause);
}

START_TEST(starts_and_ends)
{
	struct fixture t;

	begin(&t);
	start_well(&t);
	ck_assert_int_eq(unit_pid(t.unit), getpid());
	ck_assert_str_eq(unit_invocation(t.unit), INVOKED);
	ck_assert(!unit_owns(t.unit, getpid())); /* systemd reports it; the kernel does not */
	ck_assert(!unit_owns(t.unit, getppid()));
	end_main_process(&t, CLD_EXITED, 3);
	run_until(&t, &t.n_ended, 1);
	ck_assert_int_eq(t.status, 3);
	unit_start(t.unit); /* again */
	run_until(&t, &t.n_started, 2);
	end_main_process(&t, CLD_KILLED, SIGKILL);
	run_until(&t, &t.n_ended, 2);
	ck_assert_int_eq(t.status, -SIGKILL);
	end(&t);
}
END_TEST

START_TEST(refusals_have_a_fix)
{
	struct fixture t;

	begin(&t);
	t.play = PLAY_DENY;
	make_unit(&t);
	unit_start(t.unit);
	ck_assert_uint_eq(t.n_started, 0); /* not from within the call */
	run_until(&t, &t.n_started, 1);
	ck_assert_int_eq(t.error.code, ERROR_VM_UNAVAILABLE);
	ck_assert_ptr_nonnull(strstr(t.error.fix, "polkit"));
	ck_assert_ptr_null(strchr(t.error.cause, '\x1b'));
	t.play = PLAY_FAIL;
	unit_start(t.unit);
	run_until(&t, &t.n_started, 2);
	ck_assert_int_eq(t.error.code, ERROR_START_FAILED);
	ck_assert_str_eq(t.error.cause, "failed");
	ck_assert_ptr_nonnull(strstr(t.error.fix, NAME));
	end(&t);
}
END_TEST

START_TEST(looks)
{
	struct fixture t;

	begin(&t);
	make_unit(&t);
	unit_look(t.unit);
	run_until(&t, &t.n_looked, 1);
	ck_assert_int_eq(t.found, 0);
	t.active = true;
	unit_look(t.unit);
	run_until(&t, &t.n_looked, 2);
	ck_assert_int_eq(t.found, 1);
	ck_assert_str_eq(unit_invocation(t.unit), INVOKED);
	end_main_process(&t, CLD_EXITED, 0); /* a found unit is watched too */
	run_until(&t, &t.n_ended, 1);
	end(&t);
}
END_TEST

START_TEST(limits_are_read_back)
{
	const struct unit_limits limits = { 512 * MIB, USEC_PER_SEC, 100 };
	struct fixture t;

	begin(&t);
	start_well(&t);
	unit_limit(t.unit, &limits);
	run_until(&t, &t.n_limited, 1);
	/* The reported cgroup does not exist: a refusal, if the kernel has the controllers. */
	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
		ck_assert_int_eq(t.error.code, ERROR_START_FAILED);
	else
		ck_assert(!t.error.set && !t.enforced);
	ck_assert_mem_eq(&t.limits, &limits, sizeof(limits));
	t.play = PLAY_OTHER_LIMITS;
	unit_limit(t.unit, &limits);
	run_until(&t, &t.n_limited, 2);
	ck_assert_int_eq(t.error.code, ERROR_START_FAILED);
	ck_assert(!t.enforced);
	end(&t);
}
END_TEST

/* The bus dies with a call pending and comes back: the call fails, running units are queried, and a
 * stop is requested again. */
START_TEST(bus_goes_and_comes)
{
	struct fixture t;
	struct unit *other;

	begin(&t);
	start_well(&t);
	t.play = PLAY_SILENT;
	other = TAKE_PTR(t.unit);
	make_unit(&t);
	unit_start(t.unit);
	ck_assert_int_ge(sd_event_run(t.event, USEC_PER_SEC), 0);
	end_bus(&t);
	run_until(&t, &t.n_started, 2);
	ck_assert(t.error.set);
	unit_stop(other); /* no service manager to receive it */
	unit_look(t.unit);
	run_until(&t, &t.n_looked, 1);
	ck_assert_int_lt(t.found, 0);
	t.play = PLAY_WELL;
	t.active = false; /* it has exited meanwhile */
	start_bus(&t);
	own_name(&t);
	run_until(&t, &t.n_stops, 1);
	run_until(&t, &t.n_ended, 1);
	ck_assert_int_eq(t.status, UNIT_UNKNOWN_EXIT);
	unit_free(other);
	end(&t);
}
END_TEST

/* The last request, a stop, is answered before the bus is closed. */
START_TEST(stops_reach_systemd_at_the_end)
{
	struct fixture t;
	pid_t child;
	int status;

	begin(&t);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		sd_event *event = NULL;
		struct units *us = NULL;
		int r = sd_event_new(&event);

		if (r >= 0)
			r = units_new(event, false, &us);
		if (r >= 0)
			r = sd_event_exit(event, 0);
		if (r >= 0)
			r = sd_event_loop(event);
		if (r >= 0)
			units_stop(us, NAME);
		units_free(us);
		sd_event_unref(event);
		_exit(r < 0);
	}
	run_until(&t, &t.n_stops, 1);
	while (waitpid(child, &status, WNOHANG) == 0)
		ck_assert_int_ge(sd_event_run(t.event, USEC_PER_SEC / 10), 0);
	ck_assert_int_eq(status, 0);
	end(&t);
}
END_TEST

static void on_exited(
	_unused_ struct service *s, int status, const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	t->n_exited++;
	t->status = status;
	error_clear(&t->error);
	if (err)
		ck_assert_int_eq(error_copy(&t->error, err), 0);
}

/* A process that connects to the launch socket but is not the unit's main process gets nothing,
 * even if systemd reports its pid. */
START_TEST(impostor_at_the_launch_socket)
{
	static const struct service_callbacks cb = { .on_exited = on_exited };
	const char *const args[] = { "/bin/true", NULL };
	const int fds[] = { STDERR_FILENO };
	const struct service_spec spec = { .id = "vm-0123456789ab",
		.template = "pyro-vm",
		.program = "/nonexistent",
		.args = args,
		.fds = fds,
		.n_fds = 1 };
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *path = NULL;
	struct launcher *lr;
	struct service *s;
	struct fixture t;
	struct stat st;
	ssize_t n;
	char c;

	begin(&t);
	ck_assert_int_ge(launcher_new(t.event, t.dir, t.units, &lr), 0);
	path = str_printf("%s/launch", t.dir);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	free(path);
	path = str_printf("%s/launch/launch.sock", t.dir);
	ck_assert_int_ge(service_start(lr, &spec, &cb, &t, &s, &err), 0);
	fd = sock_dial(path, SOCK_SEQPACKET);
	ck_assert_int_ge(fd, 0);
	while ((n = recv(fd, &c, 1, MSG_DONTWAIT)) < 0 && errno == EAGAIN)
		ck_assert_int_ge(sd_event_run(t.event, USEC_PER_SEC), 0);
	ck_assert_int_le(n, 0);
	ck_assert_int_eq(service_pid(s), 0);
	run_until(&t, &t.n_gets, 4); /* started, according to systemd */
	end_main_process(&t, CLD_EXITED, 1);
	run_until(&t, &t.n_exited, 1);
	ck_assert_int_eq(t.status, 1);
	service_free(s);

	t.play = PLAY_DENY;
	ck_assert_int_ge(service_start(lr, &spec, &cb, &t, &s, &err), 0);
	run_until(&t, &t.n_exited, 2);
	ck_assert_int_eq(t.error.code, ERROR_VM_UNAVAILABLE);
	service_free(s);
	launcher_free(lr);
	end(&t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("unit");
	TCase *tc = tcase_create("unit");
	SRunner *sr;
	int failed;

	if (access("/usr/bin/dbus-daemon", X_OK) < 0) {
		printf("1..0 # SKIP no dbus-daemon\n");
		return 0;
	}
	tcase_add_test(tc, starts_and_ends);
	tcase_add_test(tc, refusals_have_a_fix);
	tcase_add_test(tc, looks);
	tcase_add_test(tc, limits_are_read_back);
	tcase_add_test(tc, bus_goes_and_comes);
	tcase_add_test(tc, stops_reach_systemd_at_the_end);
	tcase_add_test(tc, impostor_at_the_launch_socket);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
