/* SPDX-License-Identifier: MIT */
/*
 * A machine through its public calls alone, over fakes of the lower layers, a store in memory and a
 * clock that the test sets. It checks every combination of situation, request and event against a
 * table of results, then a random walk against invariants. Run by `meson test machine-walk`;
 * `PYRO_TEST_WALK=SEED,STEPS` takes another walk, and `test-machine-walk table` prints the present
 * table.
 */

#include "daemon/machine/machine.h"

#include <assert.h>
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "daemon/store/store.h"
#include "tests/unit/core-fakes.h"

#define MACHINE_BYTES_MIB 128

static sd_event *event;
static struct manager *m;

/* The clock: no timer expires before the test sets it (the linker's --wrap redirects the daemon's
 * calls here). */

struct timer {
	sd_event_source *source; /* a reference */
	uint64_t due;
};
static struct timer timers[256];
static uint64_t now;

uint64_t __wrap_now_usec(void);
int __real_sd_event_add_time(sd_event *e, sd_event_source **ret, clockid_t clock, uint64_t usec,
	uint64_t accuracy, sd_event_time_handler_t fn, void *userdata);
int __wrap_sd_event_add_time(sd_event *e, sd_event_source **ret, clockid_t clock, uint64_t usec,
	uint64_t accuracy, sd_event_time_handler_t fn, void *userdata);
int __wrap_sd_event_add_time_relative(sd_event *e, sd_event_source **ret, clockid_t clock,
	uint64_t usec, uint64_t accuracy, sd_event_time_handler_t fn, void *userdata);
int __real_sd_event_source_set_time(sd_event_source *s, uint64_t usec);
int __wrap_sd_event_source_set_time(sd_event_source *s, uint64_t usec);
int __wrap_sd_event_source_set_time_relative(sd_event_source *s, uint64_t usec);

uint64_t __wrap_now_usec(void)
{
	return now;
}

static bool is_on(sd_event_source *s)
{
	int on = SD_EVENT_OFF;

	return sd_event_source_get_enabled(s, &on) >= 0 && on != SD_EVENT_OFF;
}

static uint64_t note_timer(sd_event_source *s, uint64_t due)
{
	struct timer *free_one = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		if (timers[i].source == s) {
			timers[i].due = due;
			return due <= now ? 0 : UINT64_MAX;
		}
		if (!free_one && (!timers[i].source || !is_on(timers[i].source)))
			free_one = &timers[i];
	}
	ck_assert_ptr_nonnull(free_one);
	sd_event_source_unref(free_one->source);
	*free_one = (struct timer){ sd_event_source_ref(s), due };
	return due <= now ? 0 : UINT64_MAX;
}

int __wrap_sd_event_add_time(sd_event *e, sd_event_source **ret, clockid_t clock, uint64_t usec,
	uint64_t accuracy, sd_event_time_handler_t fn, void *userdata)
{
	int r = __real_sd_event_add_time(
		e, ret, clock, UINT64_MAX, MAX_OF(accuracy, (uint64_t)1), fn, userdata);

	return r < 0 ? r : __real_sd_event_source_set_time(*ret, note_timer(*ret, usec));
}

int __wrap_sd_event_add_time_relative(sd_event *e, sd_event_source **ret, clockid_t clock,
	uint64_t usec, uint64_t accuracy, sd_event_time_handler_t fn, void *userdata)
{
	return __wrap_sd_event_add_time(e, ret, clock, now + usec, accuracy, fn, userdata);
}

int __wrap_sd_event_source_set_time(sd_event_source *s, uint64_t usec)
{
	return __real_sd_event_source_set_time(s, note_timer(s, usec));
}

int __wrap_sd_event_source_set_time_relative(sd_event_source *s, uint64_t usec)
{
	return __wrap_sd_event_source_set_time(s, now + usec);
}

/* Advances the clock to the next timer. False: there is none. */
static bool let_time_pass(void)
{
	struct timer *next = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if (timers[i].source && is_on(timers[i].source) && timers[i].due > now &&
			timers[i].due != UINT64_MAX && (!next || timers[i].due < next->due))
			next = &timers[i];
	if (!next)
		return false;
	now = next->due;
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		if (timers[i].source && is_on(timers[i].source) && timers[i].due <= now)
			ck_assert_int_ge(__real_sd_event_source_set_time(timers[i].source, 0), 0);
	return true;
}

/* The store, in memory: commits complete in order, each in its own iteration of the loop. */

#define ROWS_MAX 4

struct commit {
	struct vm_row row; /* owned */
	bool deletes;
	store_done_fn done;
	void *userdata;
};
static struct vm_row rows[ROWS_MAX]; /* owned; id "": free */
static struct commit queue[64];
static size_t n_queued;
static sd_event_source *committer;
static bool store_fails, store_failed; /* pending now, and in all */

int vm_row_copy(struct vm_row *dst, const struct vm_row *src)
{
	*dst = *src;
	dst->environment = src->environment ? strdup(src->environment) : NULL;
	dst->env_digest = src->env_digest ? strdup(src->env_digest) : NULL;
	dst->kernel_hash = src->kernel_hash ? strdup(src->kernel_hash) : NULL;
	dst->environment_version =
		src->environment_version ? strdup(src->environment_version) : NULL;
	dst->last_error = src->last_error ? strdup(src->last_error) : NULL;
	return 0;
}

void vm_row_done(struct vm_row *row)
{
	free(row->environment);
	free(row->env_digest);
	free(row->kernel_hash);
	free(row->environment_version);
	free(row->last_error);
	*row = (struct vm_row){ 0 };
}

static struct vm_row *row_of(const char *id)
{
	for (size_t i = 0; i < ROWS_MAX; i++)
		if (streq(rows[i].id, id))
			return &rows[i];
	return NULL;
}

static void apply(struct commit *c)
{
	struct vm_row *row = row_of(c->row.id);

	if (!row && !c->deletes)
		row = row_of("");
	if (row)
		vm_row_done(row);
	if (!c->deletes) {
		ck_assert_ptr_nonnull(row);
		*row = c->row;
		c->row = (struct vm_row){ 0 };
	}
}

static int on_commit(sd_event_source *source, _unused_ void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct commit c = queue[0];

	memmove(queue, queue + 1, --n_queued * sizeof(*queue));
	(void)sd_event_source_set_enabled(source, n_queued ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
	store_failed = store_failed || store_fails;
	if (store_fails)
		error_set(&err, ERROR_NO_SPACE, "disk full", "make room", "cannot commit");
	else
		apply(&c);
	if (c.done)
		c.done(err.set ? -ENOSPC : 0, err.set ? &err : NULL, c.userdata);
	vm_row_done(&c.row);
	return 0;
}

static int enqueue(const struct vm_row *row, bool deletes, store_done_fn done, void *userdata)
{
	struct commit *c = &queue[n_queued];

	ck_assert_uint_lt(n_queued, ARRAY_SIZE(queue));
	*c = (struct commit){ .deletes = deletes, .done = done, .userdata = userdata };
	n_queued++;
	if (!committer)
		ck_assert_int_ge(sd_event_add_defer(event, &committer, on_commit, NULL), 0);
	(void)sd_event_source_set_enabled(committer, SD_EVENT_ONESHOT);
	return vm_row_copy(&c->row, row);
}

int store_vm_put(_unused_ struct store *s, const struct vm_row *row, store_done_fn done, void *u)
{
	return enqueue(row, false, done, u);
}

int store_vm_delete(_unused_ struct store *s, const char *id, store_done_fn done, void *userdata)
{
	struct vm_row row = { 0 };

	(void)snprintf(row.id, sizeof(row.id), "%s", id);
	return enqueue(&row, true, done, userdata);
}

int store_vm_load(
	_unused_ struct store *s, struct vm_row **ret, size_t *ret_n, _unused_ struct error *err)
{
	struct vm_row *list = calloc(ROWS_MAX, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; i < ROWS_MAX; i++)
		if (rows[i].id[0])
			vm_row_copy(&list[n++], &rows[i]);
	*ret = list;
	*ret_n = n;
	return 0;
}

int store_exec_load(
	_unused_ struct store *s, struct exec_row **ret, size_t *ret_n, _unused_ struct error *err)
{
	*ret = NULL;
	*ret_n = 0;
	return 0;
}

int store_exec_forget(_unused_ struct store *s, _unused_ const char *id, _unused_ store_done_fn d,
	_unused_ void *u)
{
	ck_abort_msg("no machine of this test has a command");
	return 0;
}

void exec_row_done(_unused_ struct exec_row *row)
{
}

int store_new(_unused_ sd_event *e, _unused_ const char *path, struct store **ret,
	_unused_ struct error *err)
{
	*ret = NULL;
	return 0;
}

/* keep: commits the queue, as at an orderly exit; otherwise it is lost, as at a crash. */
static void end_store(bool keep)
{
	for (size_t i = 0; i < n_queued; i++) {
		if (keep)
			apply(&queue[i]);
		vm_row_done(&queue[i].row);
	}
	n_queued = 0;
	committer = sd_event_source_disable_unref(committer);
}

struct store *store_free(_unused_ struct store *s)
{
	end_store(false);
	for (size_t i = 0; i < ROWS_MAX; i++)
		vm_row_done(&rows[i]);
	return NULL;
}

/* Its owner, and the waiters. */

static unsigned states_heard;
static void on_state(_unused_ struct machine *mc, _unused_ bool deleted)
{
	states_heard++;
}

static void on_pause(_unused_ struct machine *mc)
{
}

static const struct machine_owner keeper = {
	.noun = "test",
	.command = "pyro test",
	.id_prefix = "tt-",
	.id_name = "TEST_ID",
	.log_field = "PYRO_TEST",
	.remains = REMAINS_DISK,
	.on_state = on_state,
	.on_pause = on_pause,
};
static const struct machine_owner *const owners[] = { &keeper, NULL };

enum request { NOTHING, BOOT, STOP, DELETE, REQUEST_MAX };
static const char *const request_names[] = { "nothing", "boot", "stop", "delete" };

/* The pending request and the last answer. */
static struct {
	unsigned waiting, told;
	char last; /* '+' done, '!' an error, '-' none */
} asked[REQUEST_MAX];
static bool deletion_accepted; /* and not failed since */

static struct machine *the_machine(void)
{
	return machines_next(m->machines, NULL);
}

static void on_told(const struct error *err, void *userdata)
{
	enum request what = (enum request)((uintptr_t)userdata & 0xf);
	struct machine *mc = the_machine();

	ck_assert_uint_gt(asked[what].waiting, 0);
	asked[what].waiting--;
	asked[what].told++;
	asked[what].last = err ? '!' : '+';
	ck_assert(!err || (err->set && err->message && err->message[0]));
	if (!err && what == BOOT)
		ck_assert_int_eq(machine_state(mc), MACHINE_STARTED);
	if (!err && what == STOP)
		ck_assert_msg(
			machine_state(mc) == MACHINE_STOPPED || machine_state(mc) == MACHINE_FAILED,
			"told that it is stopped, and it is %s",
			machine_state_name(machine_state(mc)));
	if (what == DELETE && !err)
		ck_assert_ptr_null(mc);
	if (what == DELETE)
		deletion_accepted = false;
}

static void on_started(_unused_ struct machine *mc, const struct error *err, _unused_ void *u)
{
	ck_assert_uint_gt(asked[NOTHING].waiting, 0);
	asked[NOTHING].waiting--;
	asked[NOTHING].last = err ? '!' : '+';
}

/* '0' pending, '1' already done, 'w' wrong_state. */
static char ask(enum request what)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct machine *mc = the_machine();
	void *id = (void *)(uintptr_t)what;
	enum machine_state state;
	bool deleted = deletion_accepted, settled;
	int r = 1;

	if (what == NOTHING || !mc)
		return '-';
	state = machine_state(mc);
	settled = !machine_busy(mc); /* it has no command */
	asked[what].waiting++;
	if (what == BOOT)
		r = machine_boot(mc, on_told, id, &err);
	else if (what == STOP)
		r = machine_stop(mc, "user", on_told, id, &err);
	else
		r = machine_delete(mc, "it was asked for", on_told, id);
	if (r != 0)
		asked[what].waiting--;
	if (what == DELETE) {
		ck_assert_int_eq(r, 0);
		deletion_accepted = true;
	}
	ck_assert(r >= 0 || err.code == ERROR_WRONG_STATE);
	ck_assert_msg(what == DELETE || !deleted || r < 0, "a %s is accepted after a deletion",
		request_names[what]);
	if (what == BOOT)
		ck_assert_int_eq(r == 1, settled && state == MACHINE_STARTED);
	if (what == STOP)
		ck_assert_int_eq(
			r == 1, settled && (state == MACHINE_CREATED || state == MACHINE_STOPPED ||
						   state == MACHINE_FAILED));
	return r < 0 ? 'w' : r > 0 ? '1' : '0';
}

/* The world */

static pid_t survivor; /* stands in for the VMM of a previous daemon */

static void end_survivor(void)
{
	if (survivor > 0) {
		(void)kill(survivor, SIGKILL);
		(void)waitpid(survivor, NULL, 0);
	}
	survivor = 0;
}

/* proc(5): field 22 of /proc/PID/stat. */
static uint64_t start_time_of(pid_t pid)
{
	char path[64], text[1024] = "";
	int fd, field = 2;
	char *p;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_gt(read(fd, text, sizeof(text) - 1), 0);
	(void)close(fd);
	for (p = strrchr(text, ')'); p && field < 22; field++)
		p = strchr(p + 1, ' ');
	ck_assert_ptr_nonnull(p);
	return strtoull(p + 1, NULL, 10);
}

/* uuid of zeros: a process of another program. */
static void begin_survivor(const uint8_t u[16])
{
	char uuid[40], sh[] = "/bin/sh", c[] = "-c", stop[] = "kill -STOP $$", flag[] = "-uuid";
	char *const argv[] = { sh, c, stop, sh, flag, uuid, NULL };
	char path[64], text[8];
	ssize_t r = 0;
	size_t n = 0;

	end_survivor();
	for (size_t i = 0; i < 16; i++)
		n += (size_t)sprintf(
			uuid + n, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
	ck_assert_int_eq(posix_spawn(&survivor, sh, NULL, NULL, argv, NULL), 0);
	/* posix_spawn returns before the new program's command line can be read. */
	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", survivor);
	for (int i = 0; i < 100000 && r <= 0; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		r = read(fd, text, sizeof(text));
		(void)close(fd);
		(void)sched_yield();
	}
	ck_assert_int_gt(r, 0);
}

enum fate { LIVES, DIED, UNSURE };

/* Ends the daemon, orderly or not, and starts the next one. */
static void next_daemon(enum fate vmm, bool in_order)
{
	bool left = the_machine() && fake_vmm_runs();
	struct vm_row *row;

	m->machines = machines_free(m->machines);
	/* An orderly exit also drops what is not settled. */
	left = left && (!in_order || fake.vmms > 0);
	end_store(in_order);
	fake_break();
	fake.vmms = 0;
	end_survivor();
	for (size_t i = 0; i < ROWS_MAX; i++) {
		row = &rows[i];
		if (!row->id[0] || !left)
			continue;
		if (vmm == LIVES) {
			begin_survivor(row->uuid);
			row->vmm_pid = 0;
		} else if (vmm == UNSURE) {
			begin_survivor((const uint8_t[16]){ 0 });
			row->vmm_pid = survivor;
			row->vmm_start_time = start_time_of(survivor);
		}
	}
	memset(asked, 0, sizeof(asked));
	deletion_accepted = false;
	ck_assert_int_eq(machines_new(m, owners, &m->machines, NULL), 0);
}

static void setup(void)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	fake_reset(event);
	now = 1000 * USEC_PER_SEC;
	store_fails = store_failed = deletion_accepted = false;
	memset(asked, 0, sizeof(asked));
	m = fake_manager(event);
	ck_assert_int_eq(machines_new(m, owners, &m->machines, NULL), 0);
}

static void teardown(void)
{
	m->machines = machines_free(m->machines);
	fake_manager_free(m);
	fake_done();
	end_survivor();
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		timers[i].source = sd_event_source_unref(timers[i].source);
	event = sd_event_unref(event);
}

static void create(bool whole)
{
	static const struct machine_callbacks cb = { .on_started = on_started };
	const struct machine_spec spec = { .owner = &keeper,
		.environment = "debian:12",
		.vcpu_count = 1,
		.mem_mib = MACHINE_BYTES_MIB,
		.disk_mib = 64,
		.owner_uid = 1000 };
	struct machine *mc;

	asked[NOTHING].waiting++;
	ck_assert_int_eq(machine_start(m->machines, &spec, whole, &cb, NULL, &mc, NULL), 0);
}

static void turns(unsigned n)
{
	while (n-- > 0 && sd_event_run(event, 0) > 0)
		;
}

static bool waits(void)
{
	return asked[NOTHING].waiting + asked[BOOT].waiting + asked[STOP].waiting +
		       asked[DELETE].waiting >
	       0;
}

static bool at_rest(void)
{
	struct machine *mc = the_machine();

	if (n_queued > 0 || waits())
		return false;
	return !mc || (!machine_busy(mc) && machine_state(mc) != MACHINE_ADOPTING);
}

/* Runs all consequences of an event: for the longest time that an agent may stay silent, then as
 * long as needed. */
static void settle(void)
{
	uint64_t end = now + 40 * USEC_PER_SEC;

	for (int i = 0; i < 1000 && (now < end || !at_rest()); i++) {
		turns(1000);
		/* The kernel reports the exit of a process at any time. */
		for (int k = 0; k < 100 && survivor > 0 && the_machine() &&
				machine_goes_down(the_machine());
			k++) {
			(void)sd_event_run(event, 5 * USEC_PER_MSEC);
			turns(1000);
		}
		if (!let_time_pass())
			break;
	}
	turns(1000);
}

/* Situations that a machine can be in, and how each is reached. */

enum situation {
	CREATED,
	BOOT_ASKED,
	READING,
	LAUNCHING,
	SETTING_UP,
	STARTED,
	PAUSED,
	STOPPING,
	LATE_TO_STOP,
	STOPPED,
	FAILED,
	GOING_TO_STOP,
	GOING_TO_FAIL,
	ADOPTING,
	ADOPTING_STARTING,
	ADOPTING_STOPPING,
	UNANSWERED,
	NOT_SURE,
	STOP_STUCK,
	DELETION_STUCK,
	DELETING,
	SITUATION_MAX
};
static const char *const situation_names[] = { "CREATED", "BOOT_ASKED", "READING", "LAUNCHING",
	"SETTING_UP", "STARTED", "PAUSED", "STOPPING", "LATE_TO_STOP", "STOPPED", "FAILED",
	"GOING_TO_STOP", "GOING_TO_FAIL", "ADOPTING", "ADOPTING_STARTING", "ADOPTING_STOPPING",
	"UNANSWERED", "NOT_SURE", "STOP_STUCK", "DELETION_STUCK", "DELETING" };
static_assert(ARRAY_SIZE(situation_names) == SITUATION_MAX, "a name for each");

static void must_be(enum machine_state state)
{
	struct machine *mc = the_machine();

	ck_assert_ptr_nonnull(mc);
	ck_assert_msg(machine_state(mc) == state, "it is %s (%s), not %s",
		machine_state_name(machine_state(mc)),
		machine_row(mc)->last_error ? machine_row(mc)->last_error : "",
		machine_state_name(state));
}

static void request(enum request what)
{
	ck_assert_int_eq(ask(what), '0');
	turns(1000);
}

static void boot_with_stall(enum fake_step stall)
{
	fake.stall = stall;
	fake.suspect = stall == FAKE_READ;
	request(BOOT);
	must_be(MACHINE_STARTING);
}

static void be_adopted(void)
{
	fake.mute = true;
	next_daemon(LIVES, true);
	turns(1000);
	must_be(MACHINE_ADOPTING);
}

static void until_goes_down(void)
{
	for (int i = 0; i < 1000 && !machine_goes_down(the_machine()); i++)
		turns(1);
	ck_assert(machine_goes_down(the_machine()));
}

static void reach(enum situation s)
{
	create(false);
	turns(1000);
	must_be(MACHINE_CREATED);
	if (s == CREATED)
		return;
	if (s == BOOT_ASKED) {
		ck_assert_int_eq(ask(BOOT), '0');
		return;
	}
	if (s == READING || s == LAUNCHING || s == SETTING_UP || s == ADOPTING_STARTING) {
		boot_with_stall(s == READING     ? FAKE_READ
				: s == LAUNCHING ? FAKE_VMM_START
						 : FAKE_SETUP);
		if (s == ADOPTING_STARTING) {
			/* The VMM survives a killed daemon; an orderly exit cancels a boot. */
			fake.mute = true;
			next_daemon(LIVES, false);
			turns(1000);
			must_be(MACHINE_ADOPTING);
		}
		return;
	}
	if (s == DELETION_STUCK) {
		fake.fail = FAKE_REMOVE;
		request(DELETE);
		must_be(MACHINE_UNKNOWN);
		fake.fail = FAKE_NONE;
		return;
	}
	if (s == DELETING) {
		ck_assert_int_eq(ask(DELETE), '0');
		turns(2);
		must_be(MACHINE_DELETING);
		return;
	}
	request(BOOT);
	must_be(MACHINE_STARTED);
	switch (s) {
	case PAUSED: fake_vmm_pause(); break;
	case STOPPING:
	case LATE_TO_STOP:
		fake.never_ends = true;
		request(STOP);
		must_be(MACHINE_STOPPING);
		break;
	case STOPPED:
		request(STOP);
		must_be(MACHINE_STOPPED);
		break;
	case FAILED:
		fake_vmm_die();
		turns(1000);
		must_be(MACHINE_FAILED);
		break;
	case GOING_TO_STOP:
		ck_assert_int_eq(ask(STOP), '0');
		until_goes_down();
		break;
	case GOING_TO_FAIL: fake_vmm_die(); break;
	case ADOPTING: be_adopted(); break;
	case ADOPTING_STOPPING:
		fake.never_ends = true;
		request(STOP);
		be_adopted();
		break;
	case UNANSWERED:
		be_adopted();
		settle();
		must_be(MACHINE_UNKNOWN);
		fake.mute = false;
		break;
	case NOT_SURE:
		next_daemon(UNSURE, true);
		must_be(MACHINE_UNKNOWN);
		break;
	case STOP_STUCK:
		fake.never_ends = fake.hangs = true;
		request(STOP);
		settle();
		must_be(MACHINE_UNKNOWN);
		fake.hangs = false;
		break;
	default: break;
	}
	if (s == LATE_TO_STOP) { /* the guest's time is over, and its VMM is killed */
		fake.hangs = true;
		for (int i = 0; i < 100 && !machine_goes_down(the_machine()); i++) {
			let_time_pass();
			turns(1000);
		}
		fake.hangs = false;
		ck_assert(machine_goes_down(the_machine()));
	}
}

/* Events */

enum happening {
	NO_EVENT,
	VMM_DIES,
	STREAM_BREAKS,
	AGENT_IS_SILENT,
	GUEST_REBOOTS,
	GUEST_POWERS_OFF,
	VMM_PAUSES,
	VMM_HANGS,
	STORE_FAILS,
	REMOVAL_FAILS,
	DAEMON_RESTARTS,
	HOST_RESTARTS,
	HAPPENING_MAX
};
static const char *const happening_names[] = { "nothing", "VMM dies", "stream breaks",
	"agent is silent", "guest reboots", "guest powers off", "VMM pauses", "VMM hangs",
	"store fails", "removal fails", "daemon restarts", "host restarts" };
static_assert(ARRAY_SIZE(happening_names) == HAPPENING_MAX, "a name for each");

static void send_bye(uint8_t reason)
{
	struct msg_bye bye = { .reason = reason };

	if (fake.fd < 0 || !fake.greeted)
		return;
	ck_assert_int_ge(
		msg_send(&fake.out, fake.version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &bye), 0);
	fake_flush();
	if (fake_vmm_runs())
		fake_vmm_end_later();
}

static void happen(enum happening what)
{
	switch (what) {
	case VMM_DIES:
		if (fake_vmm_runs())
			fake_vmm_die();
		break;
	case STREAM_BREAKS: fake_break(); break;
	case AGENT_IS_SILENT:
		fake.mute = true;
		fake_break();
		break;
	case GUEST_REBOOTS: send_bye(BYE_REBOOT); break;
	case GUEST_POWERS_OFF: send_bye(BYE_POWEROFF); break;
	case VMM_PAUSES:
		if (fake_vmm_runs())
			fake_vmm_pause();
		break;
	case VMM_HANGS: fake.hangs = fake.never_ends = true; break;
	case STORE_FAILS: store_fails = true; break;
	case REMOVAL_FAILS: fake.fail = FAKE_REMOVE; break;
	case DAEMON_RESTARTS: next_daemon(LIVES, true); break;
	case HOST_RESTARTS: next_daemon(DIED, false); break;
	default: break;
	}
}

static char letter(void)
{
	static const char letters[] = {
		[MACHINE_PREPARING] = 'p',
		[MACHINE_CREATED] = 'c',
		[MACHINE_STARTING] = 'b',
		[MACHINE_STARTED] = 's',
		[MACHINE_SUSPENDED] = 'z',
		[MACHINE_STOPPING] = 't',
		[MACHINE_STOPPED] = 'o',
		[MACHINE_FAILED] = 'f',
		[MACHINE_ADOPTING] = 'a',
		[MACHINE_UNKNOWN] = 'u',
		[MACHINE_DELETING] = 'd',
	};
	struct machine *mc = the_machine();

	return mc ? letters[machine_state(mc)] : '-';
}

static unsigned entries(const char *base, const char *sub)
{
	_cleanup_free_ char *path = str_printf("%s/%s", base, sub);
	DIR *d = opendir(path);
	struct dirent *e;
	unsigned n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

/* Invariants while no work is pending. */
static void check_world(void)
{
	struct machine *mc = the_machine();

	ck_assert_uint_le(machines_count(m->machines, 0), 1);
	if (!mc) {
		ck_assert_uint_eq(fake.vmms, 0);
		ck_assert_uint_eq(entries(m->state_dir, "machines"), 0);
		ck_assert_uint_eq(entries(m->runtime_dir, "vm"), 0);
		for (size_t i = 0; i < ROWS_MAX && n_queued == 0 && !store_failed; i++)
			ck_assert_str_eq(rows[i].id, "");
		return;
	}
	if (machine_busy(mc))
		return;
	switch (machine_state(mc)) {
	case MACHINE_CREATED:
	case MACHINE_STOPPED:
	case MACHINE_FAILED:
		ck_assert_uint_eq(fake.vmms, 0);
		ck_assert_uint_eq(entries(m->runtime_dir, "vm"), 0);
		/* A deletion goes on if its intent cannot be committed; the next daemon then does
		 * not know of it. */
		if (!store_failed)
			ck_assert_msg(entries(m->state_dir, "machines") == 1, "%s without a disk",
				machine_state_name(machine_state(mc)));
		break;
	case MACHINE_STARTED: ck_assert_uint_eq(fake.vmms, 1); break;
	case MACHINE_ADOPTING:
	case MACHINE_UNKNOWN: return;
	default: ck_abort_msg("at rest and %s", machine_state_name(machine_state(mc)));
	}
	if (n_queued == 0 && !store_failed) {
		ck_assert_ptr_nonnull(row_of(machine_id(mc)));
		ck_assert_str_eq(
			row_of(machine_id(mc))->state, machine_state_name(machine_state(mc)));
	}
}

/* The results. */
struct expected {
	enum situation situation;
	enum request request;
	char answer; /* as of ask() */
	/* For each event: the final state ('-': nothing is left), and the answer to the request:
	 * '+' done, '!' an error, '.' none, because it is pending, was not accepted, or its daemon
	 * has exited. */
	const char *outcomes;
};

static void outcome(const struct expected *e, enum happening what, char ret[3], char *ret_answer)
{
	setup();
	reach(e->situation);
	asked[e->request].last = '.';
	*ret_answer = ask(e->request);
	happen(what);
	settle();
	ret[0] = letter();
	ret[1] = e->request == NOTHING    ? ' '
		 : asked[e->request].last ? asked[e->request].last
					  : '.';
	ret[2] = '\0';
	check_world();
	teardown();
}

static const struct expected table[] = {
#include "tests/unit/machine-table.inc"
};

START_TEST(print_table)
{
	for (unsigned q = 0; q < REQUEST_MAX; q++) {
		const enum situation s = (enum situation)_i;
		const struct expected e = { .situation = s, .request = q };
		char text[4 * HAPPENING_MAX] = "", cell[3], answer = '-';

		for (unsigned h = 0; h < HAPPENING_MAX; h++) {
			outcome(&e, h, cell, &answer);
			strcat(strcat(text, cell), h + 1 < HAPPENING_MAX ? " " : "");
		}
		printf("{ %s, %s, '%c', \"%s\" },\n", situation_names[s],
			(const char *[]){ "NOTHING", "BOOT", "STOP", "DELETE" }[q], answer, text);
	}
	(void)fflush(stdout);
}
END_TEST

START_TEST(becomes_what_the_table_says)
{
	const struct expected *e = &table[_i];
	char cell[3], answer;

	ck_assert_uint_eq(strlen(e->outcomes), 3 * HAPPENING_MAX - 1);
	for (unsigned h = 0; h < HAPPENING_MAX; h++) {
		outcome(e, h, cell, &answer);
		ck_assert_msg(answer == e->answer, "%s, %s is asked: answer %c, not %c",
			situation_names[e->situation], request_names[e->request], answer,
			e->answer);
		ck_assert_msg(strncmp(cell, e->outcomes + 3 * (size_t)h, 2) == 0,
			"%s, %s is asked, %s: becomes '%s', not '%.2s'",
			situation_names[e->situation], request_names[e->request],
			happening_names[h], cell, e->outcomes + 3 * (size_t)h);
	}
}
END_TEST

START_TEST(the_table_is_whole)
{
	ck_assert_uint_eq(ARRAY_SIZE(table), SITUATION_MAX * REQUEST_MAX);
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		ck_assert_uint_eq(table[i].situation, i / REQUEST_MAX);
		ck_assert_uint_eq(table[i].request, i % REQUEST_MAX);
	}
}
END_TEST

/* A machine that is to stay, and boots once it is created. If its creation is interrupted anywhere,
 * either nothing is left or it can be booted. */
START_TEST(cut_off_at_its_creation)
{
	setup();
	create(_i % 2);
	for (int i = 0; i < _i / 2; i++)
		turns(1);
	next_daemon(DIED, false);
	settle();
	check_world();
	if (the_machine()) {
		request(BOOT);
		must_be(MACHINE_STARTED);
	}
	teardown();
}
END_TEST

/* The walk */

static uint64_t seed;

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(void)
{
	uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static void heal(void)
{
	store_fails = false;
	fake.fail = fake.stall = FAKE_NONE;
	fake.mute = fake.refuse_dial = fake.never_ends = fake.hangs = fake.suspect = fake.unpacked =
		false;
}

/* Makes one kind of fault begin or end. */
static void turn_a_fault(void)
{
	static const enum fake_step steps[] = { FAKE_NONE, FAKE_IMAGE, FAKE_KERNEL, FAKE_PACK,
		FAKE_READ, FAKE_DISK, FAKE_VMM, FAKE_VMM_START, FAKE_SETUP, FAKE_REMOVE };

	switch (draw() % 9) {
	case 0: fake.fail = steps[draw() % ARRAY_SIZE(steps)]; break;
	case 1: fake.stall = steps[draw() % ARRAY_SIZE(steps)]; break;
	case 2: fake.mute = !fake.mute; break;
	case 3: fake.refuse_dial = !fake.refuse_dial; break;
	case 4: fake.never_ends = !fake.never_ends; break;
	case 5: fake.hangs = !fake.hangs; break;
	case 6: store_fails = !store_fails; break;
	case 7: fake.suspect = !fake.suspect; break;
	default: fake.unpacked = !fake.unpacked; break;
	}
}

/* After any sequence of faults, once they have ended, the machine can be deleted and all waiters
 * are notified. */
static void end_it(void)
{
	heal();
	for (int i = 0; i < 4 && the_machine(); i++) {
		if (i > 0)
			end_survivor();
		(void)ask(DELETE);
		settle();
	}
	ck_assert_ptr_null(the_machine());
	ck_assert(!waits());
	check_world();
	store_failed = false;
	for (size_t i = 0; i < ROWS_MAX; i++)
		vm_row_done(&rows[i]);
}

static unsigned launches_at_deletion;

static void walk_once(void)
{
	switch (draw() % 24) {
	case 0: turn_a_fault(); break;
	case 1: heal(); break;
	case 2: happen(VMM_DIES + (enum happening)(draw() % 6)); break;
	case 3: (void)let_time_pass(); break;
	case 4:
		for (uint64_t n = draw() % 40; n > 0; n--) {
			(void)let_time_pass();
			turns(50);
		}
		break;
	case 5:
		if (draw() % 4 == 0)
			next_daemon((enum fate)(draw() % 3), draw() % 2);
		break;
	case 6:
	case 7: (void)ask(BOOT); break;
	case 8: (void)ask(STOP); break;
	case 9:
		if (draw() % 2 == 0 && !deletion_accepted) {
			(void)ask(DELETE);
			launches_at_deletion = fake.launches;
		}
		break;
	case 10: turns(1000); break;
	default: turns((unsigned)(draw() % 6)); break;
	}
	if (!the_machine())
		create(draw() % 2);
	/* A deletion is not taken back. */
	if (deletion_accepted)
		ck_assert_uint_eq(fake.launches, launches_at_deletion);
	check_world();
}

START_TEST(random_walk)
{
	const char *given = getenv("PYRO_TEST_WALK");
	unsigned long long from = 1, steps = 20000;

	if (given)
		ck_assert_int_eq(sscanf(given, "%llu,%llu", &from, &steps), 2);
	/* Each case is a separate walk with its own seed. */
	steps /= 20;
	seed = from * 1000 + (uint64_t)_i;
	setup();
	for (unsigned long long i = 0; i < steps; i++) {
		walk_once();
		if (i % 97 == 96)
			end_it();
	}
	end_it();
	teardown();
}
END_TEST

int main(int argc, char **argv)
{
	Suite *s = suite_create("machine-walk");
	TCase *t = tcase_create("table"), *walk = tcase_create("walk");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 300);
	tcase_set_timeout(walk, 300);
	if (argc > 1 && streq(argv[1], "table")) {
		tcase_add_loop_test(t, print_table, 0, SITUATION_MAX);
	} else {
		tcase_add_test(t, the_table_is_whole);
		tcase_add_loop_test(t, cut_off_at_its_creation, 0, 60);
		tcase_add_loop_test(t, becomes_what_the_table_says, 0, ARRAY_SIZE(table));
		tcase_add_loop_test(walk, random_walk, 0, 20);
	}
	suite_add_tcase(s, t);
	suite_add_tcase(s, walk);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
