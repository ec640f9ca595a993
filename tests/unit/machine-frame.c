/* SPDX-License-Identifier: MIT */
/*
 * See machine-frame.h. What must stay true: no timer expires before the test sets the clock (the
 * linker's --wrap redirects the daemon's calls here); commits complete in order, each in its own
 * iteration of the loop.
 */

#include "tests/unit/machine-frame.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/vmm/confine.h"

sd_event *event;
struct manager *m;

/* The clock: no timer expires before the test sets it (the linker's --wrap redirects the daemon's
 * calls here). */

struct timer {
	sd_event_source *source; /* a reference */
	uint64_t due;
};
static struct timer timers[256];
uint64_t now;

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
bool let_time_pass(void)
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

struct commit {
	struct vm_row row; /* owned */
	bool deletes;
	store_done_fn done;
	void *userdata;
};
struct vm_row rows[ROWS_MAX]; /* owned; id "": free */
static struct commit queue[64];
size_t n_queued;
static sd_event_source *committer;
bool store_fails, store_failed; /* pending now, and in all */

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

struct vm_row *row_of(const char *id)
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

const char *const request_names[] = { "nothing", "boot", "stop", "delete" };

struct asked asked[REQUEST_MAX];
struct error last_answer; /* the last error, owned */
bool deletion_accepted;   /* and not failed since */

struct machine *the_machine(void)
{
	return machines_next(m->machines, NULL);
}

static void on_answer(const struct error *err, void *userdata)
{
	enum request what = (enum request)((uintptr_t)userdata & 0xf);
	struct machine *mc = the_machine();

	ck_assert_uint_gt(asked[what].waiting, 0);
	asked[what].waiting--;
	asked[what].answered++;
	asked[what].last = err ? '!' : '+';
	error_clear(&last_answer);
	if (err)
		(void)error_copy(&last_answer, err);
	ck_assert(!err || (err->set && err->message && err->message[0]));
	if (!err && what == BOOT)
		ck_assert_int_eq(machine_state(mc), MACHINE_STARTED);
	if (!err && what == STOP)
		ck_assert_msg(
			machine_state(mc) == MACHINE_STOPPED || machine_state(mc) == MACHINE_FAILED,
			"the answer is that it is stopped, and it is %s",
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
	error_clear(&last_answer);
	if (err)
		(void)error_copy(&last_answer, err);
}

/* '0' pending, '1' already done, 'w' wrong_state. */
char ask(enum request what)
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
		r = machine_boot(mc, on_answer, id, &err);
	else if (what == STOP)
		r = machine_stop(mc, "user", on_answer, id, &err);
	else
		r = machine_delete(mc, "a test requested it", on_answer, id);
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

pid_t survivor; /* stands in for the VMM of a previous daemon */

void end_survivor(void)
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

/* With a VMM's uid. uuid of zeros: a process of another program. */
static void begin_survivor(const uint8_t u[16])
{
	char uuid[40], sh[] = "/bin/sh", c[] = "-c", stop[] = "kill -STOP $$", flag[] = "-uuid";
	char *const argv[] = { sh, c, stop, sh, flag, uuid, NULL };
	siginfo_t info;
	size_t n = 0;

	end_survivor();
	for (size_t i = 0; i < 16; i++)
		n += (size_t)sprintf(
			uuid + n, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
	survivor = fork();
	ck_assert_int_ge(survivor, 0);
	if (survivor == 0) {
		uid_t uid = CONFINE_UID(getpid());

		if (geteuid() != 0 || setresuid(uid, uid, uid) == 0)
			(void)execv(sh, argv);
		_exit(127);
	}
	ck_assert_int_eq(waitid(P_PID, (id_t)survivor, &info, WSTOPPED), 0);
}

/* Ends the daemon, orderly or not, and starts the next one. */
void next_daemon(enum fate vmm, bool in_order)
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
		} else if (vmm == HOST_RESTARTED) {
			strcpy(row->boot_id, "of an earlier boot");
		}
	}
	memset(asked, 0, sizeof(asked));
	deletion_accepted = false;
	ck_assert_int_eq(machines_new(m, owners, &m->machines, NULL), 0);
}

/* The manager, over a temporary directory. */

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int flag,
	_unused_ struct FTW *ftw)
{
	return remove(path);
}

static struct manager *manager_over(sd_event *e)
{
	char dir[] = "/tmp/pyro-machine-XXXXXX";
	struct manager *made = calloc(1, sizeof(*made));

	ck_assert_ptr_nonnull(mkdtemp(dir));
	made->event = e;
	made->state_dir = strdup(dir);
	made->runtime_dir = str_printf("%s/run", dir);
	made->config = calloc(1, sizeof(*made->config));
	made->config->max_machines = 4;
	ck_assert_int_eq(mkdir(made->runtime_dir, 0700), 0);
	return made;
}

static void manager_done(struct manager *over)
{
	(void)nftw(over->state_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(over->state_dir);
	free(over->runtime_dir);
	free(over->config);
	free(over);
}

void setup(void)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	fake_reset(event);
	now = 1000 * USEC_PER_SEC;
	store_fails = store_failed = deletion_accepted = false;
	memset(asked, 0, sizeof(asked));
	m = manager_over(event);
	ck_assert_int_eq(machines_new(m, owners, &m->machines, NULL), 0);
}

void teardown(void)
{
	m->machines = machines_free(m->machines);
	end_store(false);
	for (size_t i = 0; i < ROWS_MAX; i++)
		vm_row_done(&rows[i]);
	error_clear(&last_answer);
	manager_done(m);
	fake_done();
	end_survivor();
	for (size_t i = 0; i < ARRAY_SIZE(timers); i++)
		timers[i].source = sd_event_source_unref(timers[i].source);
	event = sd_event_unref(event);
}

void create_of(uint64_t mem_mib, uint64_t disk_mib, bool whole)
{
	static const struct machine_callbacks cb = { .on_started = on_started };
	const struct machine_spec spec = { .owner = &keeper,
		.environment = "debian:12",
		.vcpu_count = 1,
		.mem_mib = mem_mib,
		.disk_mib = disk_mib,
		.owner_uid = 1000,
		.whole = whole };
	struct machine *mc;

	asked[NOTHING].waiting++;
	ck_assert_int_eq(machine_start(m->machines, &spec, &cb, NULL, &mc, NULL), 0);
}

void create(bool whole)
{
	create_of(128, 64, whole);
}

void turns(unsigned n)
{
	while (n-- > 0 && sd_event_run(event, 0) > 0)
		;
}

bool waits(void)
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
void settle(void)
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

void must_be(enum machine_state state)
{
	struct machine *mc = the_machine();

	ck_assert_ptr_nonnull(mc);
	ck_assert_msg(machine_state(mc) == state, "it is %s (%s), not %s",
		machine_state_name(machine_state(mc)),
		machine_row(mc)->last_error ? machine_row(mc)->last_error : "",
		machine_state_name(state));
}

void request(enum request what)
{
	ck_assert_int_eq(ask(what), '0');
	turns(1000);
}

void until_goes_down(void)
{
	for (int i = 0; i < 1000 && !machine_goes_down(the_machine()); i++)
		turns(1);
	ck_assert(machine_goes_down(the_machine()));
}

void send_bye(uint8_t reason)
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

unsigned entries(const char *base, const char *sub)
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
void check_world(void)
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
