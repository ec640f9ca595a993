/* SPDX-License-Identifier: MIT */
/*
 * vm.run over fakes: the flow, a failure and a cancellation at every step that must leave nothing
 * behind, the state table, reconnection while a command runs, and live stdio from end to end.
 */

#include "daemon/core/run.h"

#include <check.h>
#include <dirent.h>
#include <signal.h>
#include <sys/socket.h>

#include "daemon/core/core-internal.h"
#include "daemon/core/vm.h"
#include "daemon/machine/machine-internal.h"
#include "daemon/machine/proof.h"
#include "proto/json.h"
#include "tests/unit/core-fakes.h"

#define LONG (10 * USEC_PER_SEC)

static sd_event *event;
static struct manager *m;
static struct run *run;
static json_object *result;
static uint64_t timeout_usec;
static struct error failure;
static bool done, executing;
static char phases[256];

static void on_progress(
	_unused_ struct run *r, const struct run_progress *p, _unused_ void *userdata)
{
	strncat(phases, p->phase, sizeof(phases) - strlen(phases) - 2);
	strcat(phases, " ");
	if (streq(p->phase, "execute"))
		executing = true;
}

static void on_done(
	_unused_ struct run *r, json_object *o, const struct error *err, _unused_ void *userdata)
{
	ck_assert(!done);
	ck_assert((o != NULL) == (err == NULL));
	result = o;
	if (err)
		(void)error_copy(&failure, err);
	done = true;
}

static void setup(void)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	fake_reset(event);
	m = fake_manager(event);
	ck_assert_int_eq(core_start(m, NULL), 0);
	done = executing = false;
	phases[0] = '\0';
	run = NULL;
	result = NULL;
	timeout_usec = 30 * USEC_PER_SEC;
}

static void forget_run(void)
{
	run = run_free(run);
	json_object_put(result);
	result = NULL;
	error_clear(&failure);
	done = executing = false;
}

static void teardown(void)
{
	forget_run();
	core_end(m);
	fake_manager_free(m);
	fake_done();
	event = sd_event_unref(event);
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

static void nothing_left(void)
{
	struct vm_row *rows = NULL;
	size_t n;

	ck_assert_uint_eq(machines_count(m->machines, 0), 0);
	ck_assert_uint_eq(fake.vmms, 0);
	ck_assert_uint_eq(entries(m->state_dir, "machines"), 0);
	ck_assert_uint_eq(entries(m->runtime_dir, "vm"), 0);
	ck_assert_int_eq(store_vm_load(m->store, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 0);
	free(rows);
}

static const struct run_callbacks run_events = { .on_progress = on_progress, .on_done = on_done };

static int begin(int stdio_fd, bool with_stdin, struct error *err)
{
	static const char *const env[] = { "A=1", "B=2", NULL };
	struct run_params p = {
		.machine = { .environment = "debian:12",
			.vcpu_count = 1,
			.mem_mib = 128,
			.disk_mib = 64,
			.ttl_seconds = 600,
			.owner_uid = 1000 },
		.command = "git --version",
		.cwd = "/workspace",
		.user = "root",
		.env = env,
		.timeout_usec = timeout_usec,
		.stdio_fd = stdio_fd,
		.with_stdin = with_stdin,
	};

	return run_start(m, &p, &run_events, NULL, &run, err);
}

static void run_it(void)
{
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &done, LONG));
}

static struct proof proof(void)
{
	struct proof p;

	proof_find(m, "sha256:00", ACCELERATOR_EMULATION, &p);
	return p;
}

static void expect_failure(enum error_code code)
{
	ck_assert_uint_eq(proof().executed_usec, 0);
	ck_assert(failure.set);
	ck_assert_str_eq(error_code_name(failure.code), error_code_name(code));
	nothing_left();
}

START_TEST(simple)
{
	uint64_t before = wall_usec();
	json_object *cleanup;
	struct proof other;

	ck_assert_uint_eq(proof().booted_usec, 0);
	fake.out_text = "out\n";
	fake.err_text = "err\n";
	fake.exit.code = 7;
	run_it();
	ck_assert_msg(!failure.set, "%s", failure.message);
	ck_assert_str_eq(phases, "create start execute ");
	ck_assert_str_eq(json_get_str(result, "stdout", ""), "out\n");
	ck_assert_str_eq(json_get_str(result, "stderr", ""), "err\n");
	ck_assert_int_eq(json_get_int(result, "exit_code", -1), 7);
	ck_assert_int_eq(json_get_int(result, "stdout_bytes", -1), 4);
	ck_assert_str_eq(json_get_str(result, "start_mode", ""), "cold");
	cleanup = json_get(result, "cleanup");
	ck_assert(json_get_bool(cleanup, "deleted", false));
	ck_assert_str_eq(fake.command_line, "git --version");
	ck_assert_uint_ge(proof().booted_usec, before);
	ck_assert_uint_ge(proof().executed_usec, proof().booted_usec);
	proof_find(m, "sha256:00", ACCELERATOR_KVM, &other); /* not proven by it */
	ck_assert_uint_eq(other.booted_usec, 0);
	nothing_left();
}
END_TEST

START_TEST(signalled_and_timed_out)
{
	fake.exit.signal = SIGKILL;
	run_it();
	ck_assert_int_eq(json_get_int(result, "exit_code", -1), 137);
	forget_run();
	fake_reset(event);
	fake.exit.signal = SIGKILL;
	fake.exit.timed_out = 1;
	run_it(); /* long before its timeout, so it is not believed */
	ck_assert_int_eq(json_get_int(result, "exit_code", -1), 137);
	ck_assert(!json_get_bool(result, "timed_out", true));
	forget_run();
	fake_reset(event);
	fake.exit.signal = SIGKILL;
	fake.exit.timed_out = 1;
	timeout_usec = 1;
	run_it();
	ck_assert_int_eq(json_get_int(result, "exit_code", -1), 124);
	ck_assert(json_get_bool(result, "timed_out", false));
}
END_TEST

/* Reports of the agent and the resulting errors. The machine has 128 MiB of memory and a disk of 64
 * MiB. */
static const struct {
	uint8_t code, signal, timed_out;
	uint32_t flags, pids_max;
	const char *ended_by, *name;
	int64_t value;
} ends[] = {
	{ 0, SIGKILL, 0, ENDED_OOM_KILL, 300, "memory", "mem_mib", 128 },
	{ 137, 0, 0, ENDED_OOM_KILL | ENDED_DISK_FULL, 300, "memory", "mem_mib", 128 },
	{ 2, 0, 0, ENDED_OOM_KILL, 300, NULL, "mem_mib", 128 },
	{ 0, 0, 0, ENDED_OOM_KILL | ENDED_PIDS | ENDED_DISK_FULL, 300, NULL, NULL, 0 },
	{ 0, SIGTERM, 0, ENDED_OOM_KILL | ENDED_PIDS | ENDED_DISK_FULL, 300, "signal", NULL, 0 },
	{ 0, SIGKILL, 0, 0, 300, "signal", NULL, 0 },
	{ 254, 0, 0, ENDED_PIDS, 300, "pids", "pids", 300 },
	{ 254, 0, 0, ENDED_PIDS, 0, NULL, NULL, 0 },
	{ 1, 0, 0, ENDED_DISK_FULL, 300, "disk", "disk_mib", 64 },
	{ 0, SIGBUS, 0, ENDED_DISK_FULL, 300, "disk", "disk_mib", 64 },
	{ 1, 0, 0, 0xfffffff0, 300, NULL, NULL, 0 },
	{ 0, SIGKILL, 1, UINT32_MAX, 300, "timeout", "timeout_seconds", 0 },
	{ 3, 0, 0, ENDED_LEFT, 0, NULL, NULL, 0 },
};

START_TEST(limits_are_named)
{
	json_object *limit;

	fake.exit = (struct msg_exit){
		.code = ends[_i].code,
		.signal = ends[_i].signal,
		.timed_out = ends[_i].timed_out,
		.ended = { ends[_i].flags, ends[_i].pids_max },
	};
	timeout_usec = ends[_i].timed_out ? 1 : timeout_usec; /* limit reached */
	run_it();
	ck_assert_msg(!failure.set, "%s", failure.message);
	ck_assert_str_eq(json_get_str(result, "ended_by", "null"),
		ends[_i].ended_by ? ends[_i].ended_by : "null");
	limit = json_get(result, "limit");
	ck_assert_int_eq(limit != NULL, ends[_i].name != NULL);
	ck_assert(json_object_object_get_ex(result, "limit", NULL));
	if (limit) {
		ck_assert_str_eq(json_get_str(limit, "name", ""), ends[_i].name);
		ck_assert_int_eq(json_get_int(limit, "value", -1), ends[_i].value);
	}
	ck_assert_int_eq(
		json_get_bool(result, "background_left", true), ends[_i].flags & ENDED_LEFT);
	nothing_left();
}
END_TEST

/* An agent of protocol 1 reports no cause, and none is made up. */
START_TEST(an_agent_that_does_not_tell)
{
	fake.version_max = 1;
	fake.exit.signal = SIGKILL;
	run_it();
	ck_assert_str_eq(json_get_str(result, "ended_by", ""), "signal");
	ck_assert_ptr_null(json_get(result, "limit"));
	ck_assert_ptr_null(json_get(result, "background_left"));
	ck_assert(json_object_object_get_ex(result, "background_left", NULL));
}
END_TEST

START_TEST(unknown_environment)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct run_params p = {
		.machine = { .environment = "nixos" }, .command = "x", .stdio_fd = -EBADF
	};
	struct run_callbacks cb = { .on_done = on_done };

	ck_assert_int_lt(run_start(m, &p, &cb, NULL, &run, &err), 0);
	ck_assert_int_eq(err.code, ERROR_ENVIRONMENT_UNKNOWN);
}
END_TEST

static const struct {
	enum fake_step step;
	enum error_code code;
} failures[] = {
	{ FAKE_PULL, ERROR_PULL_FAILED },
	{ FAKE_IMAGE, ERROR_PULL_FAILED },
	{ FAKE_KERNEL, ERROR_START_FAILED },
	{ FAKE_PACK, ERROR_START_FAILED },
	{ FAKE_DISK, ERROR_NO_SPACE },
	{ FAKE_VMM, ERROR_VM_UNAVAILABLE },
	{ FAKE_VMM_START, ERROR_START_FAILED },
	{ FAKE_SETUP, ERROR_START_FAILED },
};

START_TEST(fails_at_each_step)
{
	fake.fail = failures[_i].step;
	run_it();
	expect_failure(failures[_i].code);
}
END_TEST

static void run_again(void)
{
	forget_run();
	fake_reset(event);
}

/* A success is not kept for ever: the next failed start revokes it. */
START_TEST(failed_start_takes_the_proof_back)
{
	static const enum fake_step steps[] = { FAKE_VMM_START, FAKE_SETUP };

	run_it();
	ck_assert_uint_ne(proof().executed_usec, 0);
	run_again();
	fake.fail = FAKE_DISK; /* the host's disk is full: earlier boots still count */
	run_it();
	ck_assert_int_eq(failure.code, ERROR_NO_SPACE);
	ck_assert_uint_ne(proof().executed_usec, 0);
	run_again();
	fake.fail = steps[_i];
	run_it();
	ck_assert_uint_eq(proof().booted_usec, 0);
	expect_failure(ERROR_START_FAILED);
}
END_TEST

/* A lost command proves nothing, but its machine has booted. */
START_TEST(boot_and_command_are_shown_apart)
{
	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	fake_vmm_die();
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_uint_ne(proof().booted_usec, 0);
	expect_failure(ERROR_GUEST_DIED);
}
END_TEST

static const struct {
	const char *image, *kernel, *initrd, *message, *fix;
} damages[] = {
	{ "image.ext4 is not what was installed", NULL, NULL, "environment debian:12 is damaged",
		"pyro env pull debian:12" },
	{ NULL, "vmlinux is not what was installed", NULL, "the kernel is damaged",
		"pyro env pull debian:12" },
	{ NULL, NULL, "initrd-0 is not what was installed", "was damaged",
		"run the command again" },
	{ NULL, NULL, NULL, "could not be set up", "pyro env pull --force debian:12" },
};

/* After a failed boot its files are checked before the waiters are notified. */
START_TEST(failed_start_finds_the_damage)
{
	fake.fail = FAKE_SETUP;
	fake.image_damage = damages[_i].image;
	fake.kernel_damage = damages[_i].kernel;
	fake.initrd_damage = damages[_i].initrd;
	run_it();
	ck_assert_uint_eq(fake.reads, 2);
	ck_assert_msg(strstr(failure.message, damages[_i].message), "%s", failure.message);
	ck_assert_msg(startswith(failure.fix, damages[_i].fix), "%s", failure.fix);
	expect_failure(ERROR_START_FAILED);
	/* From now on the damage is known, and nothing is booted. */
	if (!damages[_i].image && !damages[_i].kernel)
		return;
	forget_run();
	run_it();
	ck_assert_msg(strstr(failure.message, damages[_i].message), "%s", failure.message);
	ck_assert_uint_eq(fake.reads, 2);
	expect_failure(ERROR_START_FAILED);
}
END_TEST

/* A file modified after its installation is not booted unchecked. */
START_TEST(suspect_is_read_first)
{
	fake.suspect = true;
	if (_i == 0)
		fake.image_damage = damages[0].image;
	if (_i == 1)
		fake.fail = FAKE_READ;
	run_it();
	ck_assert_uint_eq(fake.reads, 2);
	ck_assert_uint_eq(fake.setups, _i == 2);
	if (_i == 2) {
		ck_assert_msg(!failure.set, "%s", failure.message);
		return;
	}
	ck_assert_str_eq(failure.message, _i == 0 ? damages[0].message : "no pyro-import");
	expect_failure(_i == 0 ? ERROR_START_FAILED : ERROR_INTERNAL);
}
END_TEST

/* Before a boot and after a failed one: a cancelling caller does not wait for a slow disk. */
START_TEST(cancelled_while_reading)
{
	fake.stall = FAKE_READ;
	fake.suspect = _i == 0;
	fake.fail = _i == 0 ? FAKE_NONE : FAKE_SETUP;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	for (int i = 0; i < 500 && fake.reads < 2; i++)
		ck_assert_int_ge(sd_event_run(event, 20 * USEC_PER_MSEC), 0);
	ck_assert(!done);
	ck_assert_uint_eq(fake.reads, 2);
	run_cancel(run);
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(_i == 0 ? ERROR_CANCELLED : failure.code);
}
END_TEST

/* Cancels after n iterations of the loop. */
START_TEST(cancelled_after_n_turns)
{
	fake.command = COMMAND_HANG;
	fake.unpacked = _i % 2;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	for (int i = 0; i < _i && !done; i++)
		ck_assert_int_ge(sd_event_run(event, 20 * USEC_PER_MSEC), 0);
	run_cancel(run);
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_CANCELLED);
}
END_TEST

START_TEST(cancelled_while_stalled)
{
	static const enum fake_step stalls[] = { FAKE_PULL, FAKE_PACK, FAKE_VMM_START, FAKE_SETUP };

	fake.stall = stalls[_i];
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	(void)loop_until(event, &done, 100 * USEC_PER_MSEC);
	run_cancel(run);
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_CANCELLED);
}
END_TEST

START_TEST(vmm_dies_under_the_command)
{
	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	fake_vmm_die();
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_ptr_nonnull(strstr(failure.cause, "Kernel panic"));
	expect_failure(ERROR_GUEST_DIED);
}
END_TEST

/* The VMM runs and the agent is being queried. */
static void until_dialled(void)
{
	for (int i = 0; i < 500 && fake.dials == 0; i++)
		ck_assert_int_ge(sd_event_run(event, 20 * USEC_PER_MSEC), 0);
	ck_assert_uint_gt(fake.dials, 0);
}

START_TEST(vmm_dies_before_the_agent)
{
	fake.mute = true;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	until_dialled();
	fake_vmm_die();
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_START_FAILED);
}
END_TEST

/* The caller is notified before there is a command as well. */
START_TEST(paused_while_it_boots)
{
	fake.mute = true;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	until_dialled();
	fake_vmm_pause();
	ck_assert_str_eq(phases, "create start paused ");
	for (int k = 0; k < 200 && !strstr(phases, "resumed"); k++) /* checked for space */
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_str_eq(phases, "create start paused resumed ");
	fake_vmm_die();
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_START_FAILED);
}
END_TEST

/* The guest sent nothing: the error names the VMM and possible faults of it. */
START_TEST(vmm_boots_no_kernel)
{
	static const char *const fixes[] = {
		"sudo apt-get install --reinstall -y qemu-system-x86 qemu-system-data",
		"take qemu = /opt/qemu out of pyrod.conf and restart pyrod",
		"take kernel = /boot/mine out of pyrod.conf and restart pyrod",
	};

	if (_i == 1)
		m->config->qemu = strdup("/opt/qemu");
	if (_i == 2)
		m->config->kernel = strdup("/boot/mine");
	fake.mute = fake.unseen = true;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	until_dialled();
	fake_vmm_die();
	ck_assert(loop_until(event, &done, LONG));
	ck_assert(startswith(failure.message, "the VMM did not boot the kernel of machine vm-"));
	ck_assert_str_eq(failure.cause,
		"QEMU 7.2.22 (Debian) was reset by its guest before the kernel said anything");
	ck_assert_str_eq(failure.fix, fixes[_i]);
	free(TAKE_PTR(m->config->qemu));
	free(TAKE_PTR(m->config->kernel));
	expect_failure(ERROR_START_FAILED);
}
END_TEST

START_TEST(guest_says_bye)
{
	struct msg_bye bye = { .reason = BYE_REBOOT };

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	ck_assert_int_ge(msg_send(&fake.out, fake.version, bye, FRAME_BYE, 0, &bye), 0);
	fake_flush();
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_ptr_nonnull(strstr(failure.cause, "restarted"));
	expect_failure(ERROR_GUEST_DIED);
}
END_TEST

START_TEST(deleted_by_another_call)
{
	struct machine *mc;

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	ck_assert_int_eq(vm_find(m->machines, "vm-", 1000, &mc, NULL), 0);
	ck_assert_int_lt(vm_find(m->machines, "vm-", 1001, &mc, NULL), 0);
	ck_assert_int_eq(machine_delete(mc, "asked for", NULL, NULL), 0);
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_CANCELLED);
}
END_TEST

START_TEST(abandoned_frees_itself)
{
	bool never = false;

	fake.command = COMMAND_EXIT;
	fake.stall = _i ? FAKE_PULL : FAKE_NONE;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	run_abandon(run);
	run = NULL;
	(void)loop_until(event, &never, 300 * USEC_PER_MSEC);
	ck_assert(!done);
	nothing_left();
}
END_TEST

START_TEST(quota)
{
	m->config->max_memory_mib = 64;
	run_it();
	expect_failure(ERROR_QUOTA_EXCEEDED);
}
END_TEST

/* The machine quota counts machines. Runs that wait for a pull have none, and a limit of their
 * own. */
START_TEST(waiting_runs)
{
	struct run *waiting[LIMIT_RUNS_WAITING];
	_cleanup_error_ struct error err = ERROR_INIT;

	fake.stall = FAKE_PULL;
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
		ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
		waiting[i] = TAKE_PTR(run);
	}
	ck_assert_int_lt(begin(-EBADF, false, &err), 0);
	ck_assert_int_eq(err.code, ERROR_QUOTA_EXCEEDED);
	waiting[0] = run_free(waiting[0]);
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	for (size_t i = 1; i < ARRAY_SIZE(waiting); i++)
		run_free(waiting[i]);
}
END_TEST

START_TEST(reconnects_under_a_flood)
{
	fake.command = COMMAND_FLOOD;
	fake.flood_bytes = 20 * MIB;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	for (int i = 0; i < 5; i++) {
		uint64_t at = fake.sent[STREAM_STDOUT];

		while (!done && fake.sent[STREAM_STDOUT] < at + 3 * MIB)
			ck_assert_int_ge(sd_event_run(event, LONG), 0);
		if (i < 3)
			fake_break();
	}
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_msg(!failure.set, "%s: %s", failure.message, failure.cause);
	ck_assert_int_eq(json_get_int(result, "stdout_bytes", 0), 20 * (int64_t)MIB);
	ck_assert(json_get_bool(result, "truncated", false));
	ck_assert_uint_ge(fake.dials, 4);
	ck_assert_uint_eq(fake.starts, 1);
	nothing_left();
}
END_TEST

START_TEST(stream_lost_for_good)
{
	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	fake.refuse_dial = true;
	fake_break();
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_GUEST_UNRESPONSIVE);
}
END_TEST

/* Attacks of a hostile guest: each must end within a deadline, and the daemon goes on. */
static void say_gap(void)
{
	ck_assert_int_ge(frame_put_data(&fake.out, fake.channel, STREAM_STDOUT, 1000, "x", 1), 0);
}
static void say_beyond_limit(void)
{
	static uint8_t zero[FRAME_DATA_MAX];

	for (uint64_t at = 0; at < 2 * STREAM_WINDOW; at += sizeof(zero))
		ck_assert_int_ge(frame_put_data(&fake.out, fake.channel, STREAM_STDERR, at * 2,
					 zero, sizeof(zero)),
			0);
}
static void say_wrong_length(void)
{
	static const uint8_t head[FRAME_HEAD_SIZE] = { 0xff, 0xff, 0xff, 0x7f };

	ck_assert_int_ge(buf_append(&fake.out, head, sizeof(head)), 0);
}
static void say_bad_ack(void)
{
	ck_assert_int_ge(frame_put_ack(&fake.out, fake.channel, STREAM_STDIN, 1 << 20, 1 << 30), 0);
}
static void say_stdin_data(void)
{
	ck_assert_int_ge(frame_put_data(&fake.out, fake.channel, STREAM_STDIN, 0, "x", 1), 0);
}
static void say_backwards(void)
{
	ck_assert_int_ge(
		frame_put_data(&fake.out, fake.channel, STREAM_STDOUT, UINT64_MAX, "xy", 2), 0);
}
static void say_welcome_twice(void)
{
	struct msg_welcome w = { .version = 1, .state = AGENT_SET_UP };

	ck_assert_int_ge(msg_send(&fake.out, AGENT_PROTOCOL_MAX, welcome, FRAME_WELCOME, 0, &w), 0);
}

static void (*const lies[])(void) = { say_gap, say_beyond_limit, say_wrong_length, say_bad_ack,
	say_stdin_data, say_backwards, say_welcome_twice };

START_TEST(hostile_guest)
{
	unsigned told = 0;

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	while (!done) {
		if (fake.greeted && fake.fd >= 0) {
			fake.greeted = false;
			lies[_i]();
			fake_flush();
			told++;
		}
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
	}
	ck_assert_uint_ge(told, 3);
	expect_failure(ERROR_GUEST_UNRESPONSIVE);
}
END_TEST

/* Live stdio */

struct client {
	int fd;
	struct decoder in;
	sd_event_source *io;
	struct buf out;
	uint64_t got[STREAM_MAX], limit_in, sent_in, total_in;
	unsigned ends;
	bool slow; /* acknowledges nothing */
};

static void client_go_on(struct client *c)
{
	static const uint8_t zero[FRAME_DATA_MAX];

	while (c->sent_in < MIN_OF(c->total_in, c->limit_in) && buf_len(&c->out) < 128 * 1024) {
		uint64_t left = MIN_OF(c->total_in, c->limit_in) - c->sent_in;
		size_t n = (size_t)MIN_OF(left, (uint64_t)sizeof(zero));

		ck_assert_int_ge(frame_put_data(&c->out, 0, STREAM_STDIN, c->sent_in, zero, n), 0);
		c->sent_in += n;
		if (c->sent_in == c->total_in)
			ck_assert_int_ge(frame_put_end(&c->out, 0, STREAM_STDIN, c->sent_in), 0);
	}
	while (buf_len(&c->out) > 0) {
		ssize_t n = send(
			c->fd, buf_head(&c->out), buf_len(&c->out), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			break;
		buf_consume(&c->out, (size_t)n);
	}
	(void)sd_event_source_set_io_events(c->io, buf_len(&c->out) ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void client_take(struct client *c, const struct frame *f)
{
	struct frame_data d;
	uint64_t upto, limit;
	uint8_t stream;

	if (f->type == FRAME_DATA) {
		ck_assert_int_ge(frame_get_data(f, &d), 0);
		ck_assert_uint_eq(d.offset, c->got[d.stream]);
		c->got[d.stream] += d.n;
		if (!c->slow)
			ck_assert_int_ge(frame_put_ack(&c->out, 0, d.stream, c->got[d.stream],
						 c->got[d.stream] + STREAM_WINDOW),
				0);
	} else if (f->type == FRAME_ACK) {
		ck_assert_int_ge(frame_get_ack(f, &stream, &upto, &limit), 0);
		ck_assert_uint_ge(limit, c->limit_in);
		c->limit_in = limit;
	} else if (f->type == FRAME_END) {
		c->ends++;
	}
}

static int on_client(_unused_ sd_event_source *s, int fd, _unused_ uint32_t revents, void *userdata)
{
	struct client *c = userdata;
	size_t room;
	uint8_t *p = decoder_space(&c->in, &room);
	ssize_t n = recv(fd, p, room, MSG_DONTWAIT);
	struct frame f;

	if (n == 0) {
		c->io = sd_event_source_disable_unref(c->io);
		return 0;
	}
	if (n > 0)
		decoder_fed(&c->in, (size_t)n);
	while (decoder_next(&c->in, &f) == DECODER_FRAME)
		client_take(c, &f);
	client_go_on(c);
	return 0;
}

static int client_open(struct client *c)
{
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	c->fd = pair[0];
	decoder_init(&c->in, DECODER_PLAIN, NULL);
	buf_init(&c->out, MIB);
	ck_assert_int_ge(
		sd_event_add_io(event, &c->io, c->fd, EPOLLIN | EPOLLOUT, on_client, c), 0);
	return pair[1];
}

static void client_close(struct client *c)
{
	sd_event_source_disable_unref(c->io);
	c->io = NULL;
	c->fd = fd_close(c->fd);
	decoder_done(&c->in);
	buf_done(&c->out);
}

START_TEST(stdio_through_cat)
{
	struct client c = { .total_in = 50 * MIB };
	int fd = client_open(&c);

	fake.command = COMMAND_CAT;
	ck_assert_int_eq(begin(fd, true, NULL), 0);
	while (!done) {
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
		if (_i && fake.dials <= (unsigned)_i &&
			fake.sent[STREAM_STDOUT] > fake.dials * 5 * MIB)
			fake_break();
	}
	ck_assert_msg(!failure.set, "%s: %s", failure.message, failure.cause);
	while (c.ends < 2)
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
	ck_assert_uint_eq(c.got[STREAM_STDOUT], 50 * MIB);
	ck_assert_uint_eq(fake.stdin_bytes, 50 * MIB);
	ck_assert_ptr_null(json_get(result, "stdout"));
	client_close(&c);
	nothing_left();
}
END_TEST

START_TEST(stdio_slow_reader)
{
	struct client c = { .slow = true };
	bool never = false;
	int fd = client_open(&c);

	fake.command = COMMAND_FLOOD;
	fake.flood_bytes = 10 * MIB;
	ck_assert_int_eq(begin(fd, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	(void)loop_until(event, &never, 200 * USEC_PER_MSEC);
	ck_assert_uint_eq(c.got[STREAM_STDOUT], STREAM_WINDOW);
	ck_assert_uint_eq(fake.sent[STREAM_STDOUT], STREAM_WINDOW);
	c.slow = false;
	ck_assert_int_ge(
		frame_put_ack(&c.out, 0, STREAM_STDOUT, STREAM_WINDOW, 2 * STREAM_WINDOW), 0);
	client_go_on(&c);
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_int_eq(json_get_int(result, "stdout_bytes", 0), 10 * (int64_t)MIB);
	client_close(&c);
}
END_TEST

/* The caller closes its end: the command still finishes, and its output is counted. */
START_TEST(stdio_closed_early)
{
	struct client c = { 0 };
	int fd = client_open(&c);

	fake.command = COMMAND_FLOOD;
	fake.flood_bytes = 10 * MIB;
	ck_assert_int_eq(begin(fd, true, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	if (_i == 0) {
		client_close(&c);
	} else {
		ck_assert_int_eq(shutdown(c.fd, SHUT_WR), 0);
		c.slow = true;
	}
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_msg(!failure.set, "%s", failure.message);
	ck_assert_int_eq(json_get_int(result, "stdout_bytes", 0), 10 * (int64_t)MIB);
	while (_i == 1 && c.ends < 2)
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
	if (_i == 1)
		client_close(&c);
}
END_TEST

/* Callers are lost and new ones continue at their offset while the guest sends: frames in flight
 * are no fault of the guest. */
START_TEST(attached_under_output)
{
	struct client c = { 0 };
	int fd = client_open(&c);

	fake.command = COMMAND_FLOOD;
	fake.flood_bytes = 10 * MIB;
	ck_assert_int_eq(begin(fd, false, NULL), 0);
	for (unsigned i = 1; i <= 8; i++) {
		uint64_t have[STREAM_MAX] = { 0 };

		while (c.got[STREAM_STDOUT] < i * MIB)
			ck_assert_int_ge(sd_event_run(event, LONG), 0);
		have[STREAM_STDOUT] = c.got[STREAM_STDOUT];
		client_close(&c);
		run_abandon(run);
		c = (struct client){ .got = { [STREAM_STDOUT] = have[STREAM_STDOUT] } };
		fd = client_open(&c);
		for (uint8_t stream = STREAM_STDOUT; stream <= STREAM_STDERR; stream++)
			ck_assert_int_ge(frame_put_ack(&c.out, 0, stream, have[stream],
						 have[stream] + STREAM_WINDOW),
				0);
		client_go_on(&c);
		ck_assert_int_eq(runs_find(m, fake.exec_id, 1000, &run, NULL), 0);
		ck_assert_int_eq(run_attach(run, fd, have, &run_events, NULL, NULL), 0);
	}
	ck_assert(loop_until(event, &done, LONG));
	ck_assert_msg(!failure.set, "%s: %s", failure.message, failure.cause);
	while (c.ends < 2)
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
	ck_assert_uint_eq(c.got[STREAM_STDOUT], 10 * MIB);
	ck_assert_uint_eq(fake.dials, 1);
	client_close(&c);
	nothing_left();
}
END_TEST

static int signal_run(const char *id, uid_t uid, int signo, json_object **ret)
{
	struct run *found;
	int r = runs_find(m, id, uid, &found, NULL);

	return r < 0 ? r : run_signal(found, signo, ret, NULL);
}

/* A signal during a broken stream is sent after the reconnection; SIGKILL is not replaced by a
 * weaker one. */
START_TEST(signalled_while_broken)
{
	json_object *o = NULL;

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	fake_break();
	ck_assert_int_ge(sd_event_run(event, LONG), 0);
	ck_assert_int_eq(signal_run(fake.exec_id, 1000, SIGKILL, &o), 0);
	json_object_put(o);
	ck_assert_int_eq(signal_run(fake.exec_id, 1000, SIGINT, &o), 0);
	json_object_put(o);
	ck_assert_uint_eq(fake.kills, 0);
	while (fake.kills == 0)
		ck_assert_int_gt(sd_event_run(event, LONG), 0);
	ck_assert_uint_eq(fake.dials, 2);
	ck_assert_int_eq(fake.signo, SIGKILL);
	run_cancel(run);
	ck_assert(loop_until(event, &done, LONG));
	nothing_left();
}
END_TEST

static void client_lie(struct client *c, int which)
{
	switch (which) {
	case 0: (void)frame_put_data(&c->out, 0, STREAM_STDIN, 5, "x", 1); break;
	case 1: (void)frame_put_ack(&c->out, 0, STREAM_STDOUT, 0, STREAM_WINDOW + 1); break;
	case 2: (void)frame_put_ack(&c->out, 0, STREAM_STDOUT, 1, 2); break;
	case 3: (void)frame_put(&c->out, FRAME_HELLO, 0, NULL, 0); break;
	case 4: (void)frame_put_data(&c->out, 0, STREAM_STDOUT, 0, "x", 1); break;
	default: (void)frame_put_end(&c->out, 0, STREAM_STDIN, 9); break;
	}
}

START_TEST(stdio_client_breaks_protocol)
{
	struct client c = { 0 };
	int fd = client_open(&c);

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(fd, true, NULL), 0);
	ck_assert(loop_until(event, &executing, LONG));
	client_lie(&c, _i);
	client_go_on(&c);
	ck_assert(loop_until(event, &done, LONG));
	expect_failure(ERROR_INVALID_ARGUMENT);
	client_close(&c);
}
END_TEST

START_TEST(stdio_wrong_descriptor)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int pair[2];
	bool never = false;

	ck_assert_int_eq(socketpair(AF_UNIX, _i ? SOCK_DGRAM : SOCK_SEQPACKET, 0, pair), 0);
	ck_assert_int_lt(begin(pair[0], false, &err), 0);
	ck_assert_int_eq(err.code, ERROR_INVALID_ARGUMENT);
	ck_assert_int_eq(close(pair[0]), 0); /* still owned by the test */
	close(pair[1]);
	(void)loop_until(event, &never, 50 * USEC_PER_MSEC);
}
END_TEST

START_TEST(signals)
{
	json_object *o = NULL;
	bool never = false;

	fake.command = COMMAND_HANG;
	ck_assert_int_eq(begin(-EBADF, false, NULL), 0);
	ck_assert_int_lt(signal_run("ex-", 1001, SIGINT, &o), 0);
	ck_assert(loop_until(event, &executing, LONG));
	ck_assert_int_eq(signal_run("ex-", 1000, SIGINT, &o), 0);
	ck_assert_str_eq(json_get_str(o, "signal", ""), "INT");
	json_object_put(o);
	(void)loop_until(event, &never, 50 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.kills, 1);
	run_cancel(run);
	ck_assert(loop_until(event, &done, LONG));
}
END_TEST

/* A row and a directory without a process, as left by a daemon that was killed. */
static void on_kept(int r, _unused_ const struct error *err, void *userdata)
{
	ck_assert_int_ge(r, 0);
	*(bool *)userdata = true;
}

static void wait_for_no_machine(void)
{
	uint64_t end = now_usec() + LONG;

	while (machines_count(m->machines, 0) > 0 && now_usec() < end)
		ck_assert_int_ge(sd_event_run(event, LONG), 0);
	ck_assert_uint_eq(machines_count(m->machines, 0), 0);
}

START_TEST(recovery)
{
	struct vm_row row = { .id = "vm-0123456789ab",
		.vcpu_count = 1,
		.one_shot = true,
		.driver = FAKE_DRIVER,
		.state = "started",
		.boot_id = "another",
		.vmm_pid = getpid() };
	_cleanup_free_ char *orphan =
		str_printf("mkdir -p %s/machines/vm-ffffffffffff %s/vm/vm-0123456789ab",
			m->state_dir, m->runtime_dir);
	bool kept = false;

	row.environment = (char *)"debian:12";
	if (_i == 1) {
		/* this boot and pid, another start time: the pid was reused */
		strcpy(row.boot_id, m->machines->boot_id);
		row.vmm_start_time = 1;
	}
	ck_assert_int_eq(system(orphan), 0);
	ck_assert_int_eq(store_vm_put(m->store, &row, on_kept, &kept), 0);
	ck_assert(loop_until(event, &kept, LONG));
	core_end(m);
	ck_assert_int_eq(core_start(m, NULL), 0);
	ck_assert_uint_eq(machines_count(m->machines, 0), 1);
	wait_for_no_machine();
	nothing_left();
}
END_TEST

START_TEST(state_table)
{
	ck_assert(machine_successor(MACHINE_PREPARING, MACHINE_STARTING));
	ck_assert(!machine_successor(MACHINE_DELETING, MACHINE_STARTED));
	ck_assert(!machine_successor(MACHINE_STARTED, MACHINE_PREPARING));
	for (unsigned s = 0; s < MACHINE_STATE_MAX; s++) {
		ck_assert_ptr_nonnull(machine_state_name(s));
		ck_assert_ptr_nonnull(machine_state_public(s));
		ck_assert(s == MACHINE_DELETING || machine_successor(s, MACHINE_DELETING));
		ck_assert(!machine_successor(s, s));
	}
}
END_TEST

static TCase *run_case(void)
{
	TCase *tc = tcase_create("run");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, simple);
	tcase_add_test(tc, signalled_and_timed_out);
	tcase_add_loop_test(tc, limits_are_named, 0, ARRAY_SIZE(ends));
	tcase_add_test(tc, an_agent_that_does_not_tell);
	tcase_add_test(tc, unknown_environment);
	tcase_add_loop_test(tc, fails_at_each_step, 0, ARRAY_SIZE(failures));
	tcase_add_loop_test(tc, failed_start_takes_the_proof_back, 0, 2);
	tcase_add_test(tc, boot_and_command_are_shown_apart);
	tcase_add_loop_test(tc, failed_start_finds_the_damage, 0, ARRAY_SIZE(damages));
	tcase_add_loop_test(tc, suspect_is_read_first, 0, 3);
	tcase_add_loop_test(tc, cancelled_while_reading, 0, 2);
	tcase_add_loop_test(tc, cancelled_after_n_turns, 0, 40);
	tcase_add_loop_test(tc, cancelled_while_stalled, 0, 4);
	tcase_add_test(tc, vmm_dies_under_the_command);
	tcase_add_test(tc, vmm_dies_before_the_agent);
	tcase_add_test(tc, paused_while_it_boots);
	tcase_add_loop_test(tc, vmm_boots_no_kernel, 0, 3);
	tcase_add_test(tc, guest_says_bye);
	tcase_add_test(tc, deleted_by_another_call);
	tcase_add_loop_test(tc, abandoned_frees_itself, 0, 2);
	tcase_add_test(tc, quota);
	tcase_add_test(tc, waiting_runs);
	tcase_add_test(tc, signals);
	tcase_add_loop_test(tc, recovery, 0, 2);
	tcase_add_test(tc, state_table);
	return tc;
}

static TCase *stream_case(void)
{
	TCase *tc = tcase_create("streams");

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, reconnects_under_a_flood);
	tcase_add_test(tc, stream_lost_for_good);
	tcase_add_loop_test(tc, hostile_guest, 0, ARRAY_SIZE(lies));
	tcase_add_loop_test(tc, stdio_through_cat, 0, 4);
	tcase_add_test(tc, stdio_slow_reader);
	tcase_add_loop_test(tc, stdio_closed_early, 0, 2);
	tcase_add_test(tc, attached_under_output);
	tcase_add_test(tc, signalled_while_broken);
	tcase_add_loop_test(tc, stdio_client_breaks_protocol, 0, 6);
	tcase_add_loop_test(tc, stdio_wrong_descriptor, 0, 2);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("run");
	SRunner *sr;
	int failed;

	suite_add_tcase(suite, run_case());
	suite_add_tcase(suite, stream_case());
	sr = srunner_create(suite);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
