/* SPDX-License-Identifier: MIT */
/*
 * Units of the service manager over its bus. Created by manager.c if pyrod itself is a unit; used
 * by service.c, and by machine/ to find those of a previous daemon. All calls are asynchronous with
 * a deadline each. The bus may disconnect: a watched unit is queried again when it is back.
 *
 * What must stay true: a signal that arrives after a property was read overrides it; a callback is
 * called in a later iteration of the loop, never from within the call that requested it.
 */
#include "daemon/unit.h"

#include <assert.h>
#include <signal.h>
#include <sys/queue.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include <systemd/sd-login.h>

#include "daemon/cgroup.h"
#include "daemon/log.h"

#define SYSTEMD      "org.freedesktop.systemd1"
#define MANAGER_PATH "/org/freedesktop/systemd1"
#define MANAGER      SYSTEMD ".Manager"
#define UNIT         SYSTEMD ".Unit"
#define SERVICE      SYSTEMD ".Service"
#define PROPERTIES   "org.freedesktop.DBus.Properties"
#define RETRY_USEC   USEC_PER_SEC
#define END_USEC     (5 * USEC_PER_SEC)

struct units {
	sd_event *event; /* borrowed: the manager's */
	sd_bus *bus;     /* owned or NULL: not connected */
	bool user;
	sd_event_source *retry; /* owned */
	sd_event_source *exit;  /* owned */
	unsigned stops;         /* StopUnit calls without an answer */
	LIST_HEAD(, unit) list; /* borrowed */
};

enum unit_task {
	TASK_NONE,
	TASK_START,
	TASK_LOOK,
	TASK_LIMIT,
};

enum {
	FACTS_MAX = 4, /* properties queried at the same time */
};

struct unit {
	LIST_ENTRY(unit) entry;
	struct units *units;             /* borrowed */
	const struct unit_callbacks *cb; /* borrowed */
	void *userdata;
	char *name, *path;              /* owned; path: of its object on the bus */
	sd_bus_slot *properties, *jobs; /* owned: signal matches */
	sd_bus_slot *call;              /* owned: the pending call of the task */
	sd_bus_slot *facts[FACTS_MAX];  /* owned */
	/* owned: reports a task that failed to start, in the next iteration */
	sd_event_source *step;
	enum unit_task task;
	unsigned n_facts; /* pending replies */
	int fact_error;   /* the first error of a property */
	char *job;        /* owned or NULL: the start job */
	struct error error;
	struct unit_limits limits, read; /* requested, and read back */
	bool watched;                    /* it was found running: its end must be reported */
	bool stop_wanted;
	bool active;
	pid_t pid;
	int status; /* of its main process, after its exit */
	char invocation[UNIT_INVOCATION];
	char *cgroup; /* owned or NULL */
};

bool units_manage(bool user, const char *unit)
{
	_cleanup_free_ char *ours = NULL;
	int r = user ? sd_pid_get_user_unit(0, &ours) : sd_pid_get_unit(0, &ours);

	return r >= 0 && sd_booted() > 0 && streq(ours, unit);
}

/* Translates the error of a call for the user. */
static void explain(const sd_bus_error *e, const char *name, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	char cause[512];

	(void)log_escape(e->message ? e->message : e->name,
		strlen(e->message ? e->message : e->name), cause, sizeof(cause));
	if (sd_bus_error_has_name(e, SD_BUS_ERROR_ACCESS_DENIED) ||
		sd_bus_error_has_name(e, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED))
		fix = strdup(
			"sudo apt-get install -y polkitd, or install pyro again: its polkit rule lets pyrod start its units");
	else if (sd_bus_error_has_name(e, SYSTEMD ".NoSuchUnit"))
		fix = strdup(
			"sudo systemctl daemon-reload, or install pyro again: its units are missing");
	else
		fix = str_printf("sudo journalctl -u %s", name);
	(void)error_set(err, ERROR_VM_UNAVAILABLE, cause, fix, "systemd did not start %s", name);
}

static void drop_calls(struct unit *u)
{
	u->call = sd_bus_slot_unref(u->call);
	for (size_t i = 0; i < FACTS_MAX; i++)
		u->facts[i] = sd_bus_slot_unref(u->facts[i]);
	u->n_facts = 0;
}

/* Ends the task. A callback may free the unit. */
static void finish(struct unit *u, int found)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	enum unit_task task = u->task;

	drop_calls(u);
	error_move(&err, &u->error);
	u->task = TASK_NONE;
	free(TAKE_PTR(u->job));
	if (task == TASK_START && u->cb->on_started)
		u->cb->on_started(u, err.set ? &err : NULL, u->userdata);
	else if (task == TASK_LIMIT && u->cb->on_limited)
		u->cb->on_limited(u, found > 0, err.set ? &err : NULL, u->userdata);
	else if (task == TASK_LOOK && u->cb->on_looked)
		u->cb->on_looked(u, found, u->userdata);
}

static int on_step(_unused_ sd_event_source *s, void *userdata)
{
	struct unit *u = userdata;

	finish(u, -ENOTCONN);
	return 0;
}

/* Fails the task in the next iteration of the loop. */
static void fail(struct unit *u, int r)
{
	if (!u->error.set)
		(void)error_set_errno(&u->error, ERROR_VM_UNAVAILABLE, r,
			"systemctl status dbus.service", "systemd cannot be asked about %s",
			u->name);
	(void)sd_event_source_set_enabled(u->step, SD_EVENT_ONESHOT);
}

/* Properties */

static int take_bool_state(sd_bus_message *m, struct unit *u)
{
	const char *state;
	int r = sd_bus_message_read_basic(m, 's', &state);

	if (r >= 0)
		u->active = !streq(state, "inactive") && !streq(state, "failed");
	return r;
}

static int take_invocation(sd_bus_message *m, struct unit *u)
{
	const void *p;
	sd_id128_t id;
	size_t n;
	int r = sd_bus_message_read_array(m, 'y', &p, &n);

	u->invocation[0] = '\0';
	if (r < 0 || n != sizeof(id))
		return r;
	memcpy(&id, p, sizeof(id));
	(void)sd_id128_to_string(id, u->invocation);
	return 0;
}

static int take_pid(sd_bus_message *m, struct unit *u)
{
	uint32_t pid;
	int r = sd_bus_message_read_basic(m, 'u', &pid);

	if (r >= 0)
		u->pid = (pid_t)pid;
	return r;
}

static int take_cgroup(sd_bus_message *m, struct unit *u)
{
	const char *text;
	int r = sd_bus_message_read_basic(m, 's', &text);

	if (r < 0)
		return r;
	free(u->cgroup);
	u->cgroup = strdup(text);
	return u->cgroup ? 0 : -ENOMEM;
}

static int take_memory(sd_bus_message *m, struct unit *u)
{
	return sd_bus_message_read_basic(m, 't', &u->read.memory_bytes);
}

static int take_cpu(sd_bus_message *m, struct unit *u)
{
	return sd_bus_message_read_basic(m, 't', &u->read.cpu_usec_per_sec);
}

static int take_tasks(sd_bus_message *m, struct unit *u)
{
	return sd_bus_message_read_basic(m, 't', &u->read.tasks);
}

struct fact {
	const char *interface, *name, *type;
	int (*take)(sd_bus_message *m, struct unit *u);
};

static const struct fact run_facts[] = {
	{ UNIT, "ActiveState", "s", take_bool_state },
	{ UNIT, "InvocationID", "ay", take_invocation },
	{ SERVICE, "ControlGroup", "s", take_cgroup },
	{ SERVICE, "MainPID", "u", take_pid },
};
static const struct fact limit_facts[] = {
	{ SERVICE, "MemoryMax", "t", take_memory },
	{ SERVICE, "CPUQuotaPerSecUSec", "t", take_cpu },
	{ SERVICE, "TasksMax", "t", take_tasks },
};
static_assert(ARRAY_SIZE(run_facts) <= FACTS_MAX && ARRAY_SIZE(limit_facts) <= FACTS_MAX,
	"a slot for each");

/* Checks both the values that systemd has and those that the kernel enforces. */
static void check_limits(struct unit *u)
{
	const struct unit_limits *l = &u->limits;
	int r;

	if (u->read.memory_bytes != l->memory_bytes || u->read.tasks != l->tasks ||
		u->read.cpu_usec_per_sec != l->cpu_usec_per_sec) {
		(void)error_set(&u->error, ERROR_START_FAILED, "systemd has other values",
			"look for drop-ins: systemctl cat 'pyro-vm@.service'",
			"cannot set the limits of %s", u->name);
		finish(u, 0);
		return;
	}
	r = cgroup_holds(CGROUP_ROOT, u->cgroup, l);
	if (r < 0) {
		(void)error_set_errno(&u->error, ERROR_START_FAILED, r,
			"systemctl show -p DisableControllers pyro.slice",
			"the kernel does not enforce the limits of %s", u->name);
		finish(u, 0);
		return;
	}
	finish(u, r);
}

static void facts_known(struct unit *u)
{
	bool runs = u->active && u->pid > 0 && u->invocation[0];

	if (u->fact_error < 0) {
		(void)error_set_errno(&u->error, ERROR_VM_UNAVAILABLE, u->fact_error,
			"systemctl status dbus.service", "systemd cannot be asked about %s",
			u->name);
		finish(u, u->fact_error);
	} else if (u->task == TASK_LIMIT) {
		check_limits(u);
	} else if (u->task == TASK_NONE) { /* the bus is connected again */
		drop_calls(u);
		if (!runs && u->watched) {
			u->watched = false;
			if (u->cb->on_ended)
				u->cb->on_ended(u, UNIT_UNKNOWN_EXIT, u->userdata);
		}
	} else {
		u->watched = runs;
		if (!runs && u->task == TASK_START)
			(void)error_set(&u->error, ERROR_START_FAILED, "it exited at once",
				"sudo journalctl -u 'pyro-*'", "%s did not start", u->name);
		finish(u, runs);
	}
}

static int on_fact(struct unit *u, sd_bus_message *m, const struct fact *facts)
{
	size_t i = 0;
	int r = sd_bus_message_get_errno(m);

	while (i < FACTS_MAX - 1 && u->facts[i] != sd_bus_get_current_slot(u->units->bus))
		i++;
	if (r > 0)
		r = -r;
	if (r >= 0)
		r = sd_bus_message_enter_container(m, 'v', facts[i].type);
	if (r >= 0)
		r = facts[i].take(m, u);
	if (r < 0 && u->fact_error >= 0)
		u->fact_error = r;
	if (--u->n_facts == 0)
		facts_known(u);
	return 0;
}

static int on_run_fact(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	return on_fact(userdata, m, run_facts);
}

static int on_limit_fact(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	return on_fact(userdata, m, limit_facts);
}

static void ask(
	struct unit *u, const struct fact *facts, size_t n, sd_bus_message_handler_t handler)
{
	int r = 0;

	drop_calls(u);
	u->fact_error = 0;
	for (size_t i = 0; r >= 0 && i < n; i++) {
		r = sd_bus_call_method_async(u->units->bus, &u->facts[i], SYSTEMD, u->path,
			PROPERTIES, "Get", handler, u, "ss", facts[i].interface, facts[i].name);
		if (r >= 0)
			u->n_facts++;
	}
	if (r < 0) {
		drop_calls(u);
		fail(u, r);
	}
}

static void ask_run(struct unit *u)
{
	ask(u, run_facts, ARRAY_SIZE(run_facts), on_run_fact);
}

/* Signals */

static int take_change(sd_bus_message *m, struct unit *u, int *code, int *status)
{
	const char *name, *type;
	int r = sd_bus_message_read_basic(m, 's', &name);

	if (r >= 0)
		r = sd_bus_message_peek_type(m, NULL, &type);
	if (r < 0)
		return r;
	r = sd_bus_message_enter_container(m, 'v', type);
	if (r < 0)
		return r;
	if (streq(name, "MainPID") && streq(type, "u"))
		r = take_pid(m, u);
	else if (streq(name, "ActiveState") && streq(type, "s"))
		r = take_bool_state(m, u);
	else if (streq(name, "ExecMainCode") && streq(type, "i"))
		r = sd_bus_message_read_basic(m, 'i', code);
	else if (streq(name, "ExecMainStatus") && streq(type, "i"))
		r = sd_bus_message_read_basic(m, 'i', status);
	else
		r = sd_bus_message_skip(m, type);
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int on_properties(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	struct unit *u = userdata;
	int code = 0, status = 0, r;

	r = sd_bus_message_skip(m, "s");
	if (r >= 0)
		r = sd_bus_message_enter_container(m, 'a', "{sv}");
	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		r = take_change(m, u, &code, &status);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	if (r < 0) {
		(void)log_error_errno(r, "systemd sent an invalid signal about %s", u->name);
		return 0;
	}
	if (code == CLD_EXITED)
		u->status = status;
	else if (code == CLD_KILLED || code == CLD_DUMPED)
		u->status = -status;
	if (u->watched && (u->pid == 0 || !u->active)) {
		u->watched = false;
		if (u->cb->on_ended)
			u->cb->on_ended(u, u->status, u->userdata);
	}
	return 0;
}

static int on_job_removed(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	struct unit *u = userdata;
	const char *job, *name, *result;
	_cleanup_free_ char *fix = NULL;
	uint32_t id;

	if (sd_bus_message_read(m, "uoss", &id, &job, &name, &result) < 0 || !u->job ||
		!streq(job, u->job))
		return 0;
	free(TAKE_PTR(u->job));
	if (streq(result, "done")) {
		ask_run(u);
		return 0;
	}
	fix = str_printf("sudo journalctl -u %s", u->name);
	(void)error_set(
		&u->error, ERROR_START_FAILED, result, fix, "systemd did not start %s", u->name);
	finish(u, 0);
	return 0;
}

/*
 * Subscribes before any call: the bus keeps the order, so no answer arrives without its signal. The
 * match does not use the unit name in JobRemoved: sd-bus stops at the preceding integer argument
 * and would never match.
 */
static int listen_to(struct unit *u)
{
	int r;

	u->properties = sd_bus_slot_unref(u->properties);
	u->jobs = sd_bus_slot_unref(u->jobs);
	r = sd_bus_match_signal_async(u->units->bus, &u->properties, SYSTEMD, u->path, PROPERTIES,
		"PropertiesChanged", on_properties, NULL, u);
	if (r < 0)
		return r;
	return sd_bus_match_signal_async(u->units->bus, &u->jobs, SYSTEMD, MANAGER_PATH, MANAGER,
		"JobRemoved", on_job_removed, NULL, u);
}

/* The bus */

static int on_stopped(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	const sd_bus_error *error = sd_bus_message_get_error(m);
	struct units *us = userdata;

	us->stops--;

	if (error && !sd_bus_error_has_name(error, SYSTEMD ".NoSuchUnit"))
		log_warning("systemd cannot stop a unit: %s",
			error->message ? error->message : error->name);
	return 0;
}

void units_stop(struct units *us, const char *name)
{
	int r = us->bus ? sd_bus_call_method_async(us->bus, NULL, SYSTEMD, MANAGER_PATH, MANAGER,
				  "StopUnit", on_stopped, us, "ss", name, "replace")
			: -ENOTCONN;

	if (r < 0)
		log_warning_errno(r, "cannot ask systemd to stop %s", name);
	else
		us->stops++;
}

static int connect_bus(struct units *us);

static int on_retry(_unused_ sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct units *us = userdata;

	us->retry = sd_event_source_disable_unref(us->retry);
	if (connect_bus(us) >= 0)
		log_info("Reconnected to the bus of the service manager.");
	return 0;
}

static void retry_later(struct units *us)
{
	if (!us->retry && sd_event_add_time_relative(us->event, &us->retry, CLOCK_MONOTONIC,
				  RETRY_USEC, 0, on_retry, us) < 0)
		log_error("Cannot schedule a reconnection to the bus of the service manager.");
}

/* Calls fail by their own replies; watched units keep running. */
static int on_disconnected(_unused_ sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	struct units *us = userdata;
	struct unit *u;

	log_warning("Lost the bus of the service manager.");
	LIST_FOREACH (u, &us->list, entry) {
		u->properties = sd_bus_slot_unref(u->properties);
		u->jobs = sd_bus_slot_unref(u->jobs);
		drop_calls(u);
		if (u->task != TASK_NONE)
			fail(u, -ECONNRESET);
	}
	sd_bus_detach_event(us->bus);
	us->bus = sd_bus_close_unref(us->bus);
	us->stops = 0;
	retry_later(us);
	return 0;
}

static int subscribe(struct units *us)
{
	int r = sd_bus_match_signal_async(us->bus, NULL, NULL, "/org/freedesktop/DBus/Local",
		"org.freedesktop.DBus.Local", "Disconnected", on_disconnected, NULL, us);

	if (r >= 0)
		r = sd_bus_call_method_async(us->bus, NULL, SYSTEMD, MANAGER_PATH, MANAGER,
			"Subscribe", NULL, NULL, NULL);
	return r;
}

static int open_bus(struct units *us)
{
	int r = us->user ? sd_bus_open_user_with_description(&us->bus, "pyrod")
			 : sd_bus_open_system_with_description(&us->bus, "pyrod");

	if (r >= 0)
		r = sd_bus_set_method_call_timeout(us->bus, UNITS_CALL_USEC);
	if (r >= 0)
		r = sd_bus_attach_event(us->bus, us->event, SD_EVENT_PRIORITY_NORMAL);
	return r < 0 ? r : subscribe(us);
}

static int connect_bus(struct units *us)
{
	struct unit *u;
	int r = open_bus(us);

	LIST_FOREACH (u, &us->list, entry) {
		if (r >= 0)
			r = listen_to(u);
		if (r >= 0 && u->watched)
			ask_run(u);
		if (r >= 0 && u->stop_wanted)
			units_stop(us, u->name);
	}
	if (r < 0) {
		us->bus = sd_bus_close_unref(us->bus);
		retry_later(us);
	}
	return r;
}

/* Keeps the bus open: services freed after the loop still stop their units. */
static int on_exit_loop(_unused_ sd_event_source *s, void *userdata)
{
	struct units *us = userdata;

	if (us->bus)
		(void)sd_bus_detach_event(us->bus);
	return 0;
}

int units_new(sd_event *event, bool user, struct units **ret)
{
	struct units *us = calloc(1, sizeof(*us));
	int r;

	if (!us)
		return -ENOMEM;
	us->event = event;
	us->user = user;
	LIST_INIT(&us->list);
	r = sd_event_add_exit(event, &us->exit, on_exit_loop, us);
	if (r >= 0)
		r = sd_event_source_set_priority(us->exit, SD_EVENT_PRIORITY_IMPORTANT);
	if (r < 0) {
		units_free(us);
		return r;
	}
	r = connect_bus(us);
	if (r < 0)
		log_warning_errno(
			r, "Cannot connect to the bus of the service manager; will retry");
	*ret = us;
	return 0;
}

/* Waits, after the loop, for the answers to StopUnit: polkit denies a caller that leaves the bus
 * before it was identified. */
static void await_stops(struct units *us)
{
	const uint64_t end = now_usec() + END_USEC;

	while (us->bus && us->stops > 0 && now_usec() < end) {
		int r = sd_bus_process(us->bus, NULL);

		if (r == 0)
			r = sd_bus_wait(us->bus, end - MIN_OF(now_usec(), end));
		if (r < 0 && r != -EINTR)
			return;
	}
}

struct units *units_free(struct units *us)
{
	if (!us)
		return NULL;
	sd_event_source_disable_unref(us->retry);
	sd_event_source_disable_unref(us->exit);
	await_stops(us);
	us->bus = sd_bus_close_unref(us->bus);
	free(us);
	return NULL;
}

bool units_sandbox(const struct units *us)
{
	return !us->user;
}

/* Units */

int unit_new(struct units *us, const char *name, const struct unit_callbacks *cb, void *userdata,
	struct unit **ret)
{
	_cleanup_(unit_freep) struct unit *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->units = us;
	u->cb = cb;
	u->userdata = userdata;
	u->status = UNIT_UNKNOWN_EXIT;
	LIST_INSERT_HEAD(&us->list, u, entry);
	u->name = strdup(name);
	r = u->name ? sd_bus_path_encode("/org/freedesktop/systemd1/unit", name, &u->path)
		    : -ENOMEM;
	if (r >= 0)
		r = sd_event_add_defer(us->event, &u->step, on_step, u);
	if (r >= 0)
		r = sd_event_source_set_enabled(u->step, SD_EVENT_OFF);
	if (r >= 0 && us->bus)
		r = listen_to(u);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(u);
	return 0;
}

struct unit *unit_free(struct unit *u)
{
	if (!u)
		return NULL;
	LIST_REMOVE(u, entry);
	sd_event_source_disable_unref(u->step);
	drop_calls(u);
	sd_bus_slot_unref(u->properties);
	sd_bus_slot_unref(u->jobs);
	error_clear(&u->error);
	free(u->job);
	free(u->cgroup);
	free(u->path);
	free(u->name);
	free(u);
	return NULL;
}

static int on_start_reply(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	const sd_bus_error *error = sd_bus_message_get_error(m);
	struct unit *u = userdata;
	const char *job;
	int r;

	if (error) {
		explain(error, u->name, &u->error);
		finish(u, 0);
		return 0;
	}
	r = sd_bus_message_read(m, "o", &job);
	if (r >= 0) {
		u->job = strdup(job);
		r = u->job ? 0 : -ENOMEM;
	}
	if (r < 0)
		fail(u, r);
	return 0;
}

static void begin(struct unit *u, enum unit_task task)
{
	drop_calls(u);
	error_clear(&u->error);
	u->task = task;
}

void unit_start(struct unit *u)
{
	int r = -ENOTCONN;

	begin(u, TASK_START);
	u->status = UNIT_UNKNOWN_EXIT;
	if (u->units->bus)
		r = sd_bus_call_method_async(u->units->bus, &u->call, SYSTEMD, MANAGER_PATH,
			MANAGER, "StartUnit", on_start_reply, u, "ss", u->name, "replace");
	if (r < 0)
		fail(u, r);
}

void unit_look(struct unit *u)
{
	begin(u, TASK_LOOK);
	if (u->units->bus)
		ask_run(u);
	else
		fail(u, -ENOTCONN);
}

static int on_limit_reply(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *e)
{
	const sd_bus_error *error = sd_bus_message_get_error(m);
	struct unit *u = userdata;

	if (error) {
		explain(error, u->name, &u->error);
		finish(u, 0);
	} else {
		ask(u, limit_facts, ARRAY_SIZE(limit_facts), on_limit_fact);
	}
	return 0;
}

void unit_limit(struct unit *u, const struct unit_limits *limits)
{
	int r = -ENOTCONN;

	begin(u, TASK_LIMIT);
	u->limits = *limits;
	if (u->units->bus)
		r = sd_bus_call_method_async(u->units->bus, &u->call, SYSTEMD, MANAGER_PATH,
			MANAGER, "SetUnitProperties", on_limit_reply, u, "sba(sv)", u->name, 1, 3,
			"MemoryMax", "t", limits->memory_bytes, "CPUQuotaPerSecUSec", "t",
			limits->cpu_usec_per_sec, "TasksMax", "t", limits->tasks);
	if (r < 0)
		fail(u, r);
}

void unit_stop(struct unit *u)
{
	u->stop_wanted = true;
	units_stop(u->units, u->name);
}

const char *unit_name(const struct unit *u)
{
	return u->name;
}

pid_t unit_pid(const struct unit *u)
{
	return u->pid;
}

const char *unit_invocation(const struct unit *u)
{
	return u->invocation;
}

bool units_has(const struct units *us, const char *name, pid_t pid)
{
	_cleanup_free_ char *unit = NULL;
	int r = us->user ? sd_pid_get_user_unit(pid, &unit) : sd_pid_get_unit(pid, &unit);

	return r >= 0 && streq(unit, name);
}

bool unit_owns(const struct unit *u, pid_t pid)
{
	return pid > 0 && pid == u->pid && units_has(u->units, u->name, pid);
}

/* systemd keeps it as a symbolic link in its runtime directory, for the journal. */
int units_invocation(const struct units *us, const char *name, char ret[UNIT_INVOCATION])
{
	_cleanup_free_ char *path =
		us->user ? str_printf("/run/user/%u/systemd/units/invocation:%s", getuid(), name)
			 : str_printf("/run/systemd/units/invocation:%s", name);
	char text[UNIT_INVOCATION + 1];
	ssize_t n = path ? readlink(path, text, sizeof(text)) : -1;

	if (!path)
		return -ENOMEM;
	if (n < 0)
		return -errno;
	if (n != UNIT_INVOCATION - 1)
		return -EBADMSG;
	memcpy(ret, text, (size_t)n);
	ret[n] = '\0';
	return 0;
}
