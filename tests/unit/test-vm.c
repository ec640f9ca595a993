/* SPDX-License-Identifier: MIT */
/*
 * A machine that is kept, over fakes: created, booted, stopped orderly and by force, booted again,
 * given its one command, deleted from every state; a failed boot, a guest that dies, and the state
 * of a previous daemon. Run by `meson test vm`.
 */

#include "daemon/core/create.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "daemon/core/core-internal.h"
#include "daemon/core/vm.h"
#include "daemon/machine/machine-internal.h"
#include "daemon/core/run.h"
#include "daemon/unit.h"
#include "proto/api.h"
#include "proto/json.h"
#include "tests/unit/core-fakes.h"

#define LONG (10 * USEC_PER_SEC)

static sd_event *event;
static struct manager *m;
static char id[API_ID_SIZE];
static bool done;
static struct error failure;
static json_object *result;
static pid_t vmm_process; /* stands in for the VMM of a previous daemon */

static void setup(void)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	fake_reset(event);
	m = fake_manager(event);
	ck_assert_int_eq(core_start(m, NULL), 0);
	done = false;
	id[0] = '\0';
}

static void end_vmm_process(void)
{
	if (vmm_process > 0) {
		(void)kill(vmm_process, SIGKILL);
		(void)waitpid(vmm_process, NULL, 0);
	}
	vmm_process = 0;
}

static void teardown(void)
{
	end_vmm_process();
	error_clear(&failure);
	json_object_put(result);
	result = NULL;
	core_end(m);
	fake_manager_free(m);
	fake_done();
	event = sd_event_unref(event);
}

static struct machine *the_machine(void)
{
	struct machine *mc;

	ck_assert_int_eq(vm_find(m->machines, id, 1000, &mc, NULL), 0);
	return mc;
}

static void wait_done(void)
{
	ck_assert(loop_until(event, &done, LONG));
	done = false;
}

static void on_done(const struct error *err, _unused_ void *userdata)
{
	error_clear(&failure);
	if (err)
		(void)error_copy(&failure, err);
	done = true;
}

static void on_progress(_unused_ const struct pull_progress *p, _unused_ void *userdata)
{
}

static void on_created(struct machine *mc, const struct error *err, _unused_ void *userdata)
{
	ck_assert((mc != NULL) == (err == NULL));
	if (mc)
		(void)snprintf(id, sizeof(id), "%s", machine_id(mc));
	on_done(err, NULL);
}

static struct creation *create(void)
{
	static const struct creation_callbacks cb = { on_progress, on_created };
	const struct machine_spec spec = { .environment = "debian:12",
		.vcpu_count = 1,
		.mem_mib = 128,
		.disk_mib = 64,
		.ttl_seconds = 600,
		.owner_uid = 1000 };
	struct creation *c;

	ck_assert_int_eq(creation_start(m, &spec, &cb, NULL, &c, NULL), 0);
	return c;
}

static void created(void)
{
	create();
	wait_done();
	ck_assert(!failure.set);
	ck_assert_str_eq(machine_state_public(the_machine()->state), "created");
}

static void on_kept(int r, _unused_ const struct error *err, void *userdata)
{
	ck_assert_int_eq(r, 0);
	*(bool *)userdata = true;
}

/* Returns the row that is stored now. */
static void row_says(const char *state)
{
	struct vm_row *rows = NULL;
	size_t n;

	ck_assert_int_eq(store_vm_load(m->store, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(rows[0].state, state);
	vm_row_done(&rows[0]);
	free(rows);
}

static void boot(void)
{
	ck_assert_int_eq(machine_boot(the_machine(), on_done, NULL, NULL), 0);
	wait_done();
}

static void until_idle(void)
{
	for (int i = 0; i < 500 && !machine_is_settled(the_machine()); i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert(machine_is_settled(the_machine()));
}

static void stop(void)
{
	ck_assert_int_eq(machine_stop(the_machine(), "user", on_done, NULL, NULL), 0);
	wait_done();
	ck_assert(!failure.set);
	ck_assert_int_eq(the_machine()->state, MACHINE_STOPPED);
	ck_assert_uint_eq(fake.vmms, 0);
	row_says("stopped");
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

static void delete (void)
{
	ck_assert_int_eq(machine_delete(the_machine(), "it was asked for", on_done, NULL), 0);
	wait_done();
	ck_assert(!failure.set);
	nothing_left();
}

START_TEST(life)
{
	created();
	row_says("created");
	ck_assert_uint_eq(entries(m->state_dir, "machines"), 1);
	ck_assert_uint_eq(entries(m->runtime_dir, "vm"), 0);
	for (unsigned round = 1; round <= 3; round++) {
		boot();
		ck_assert(!failure.set);
		ck_assert_int_eq(the_machine()->state, MACHINE_STARTED);
		ck_assert_int_eq(machine_boot(the_machine(), on_done, NULL, NULL), 1);
		stop();
		ck_assert_uint_eq(fake.logins, round); /* it was idle, so a command may start */
		ck_assert_uint_eq(fake.shutdowns, round);
		ck_assert_uint_eq(fake.disks, 1); /* the same disk */
		ck_assert_int_eq(machine_stop(the_machine(), "user", on_done, NULL, NULL), 1);
		ck_assert_uint_eq(entries(m->runtime_dir, "vm"), 0);
	}
	delete ();
}
END_TEST

/* Two equal requests: one boot, one shutdown, and both callers are notified. */
static unsigned told;
static void on_told(const struct error *err, _unused_ void *userdata)
{
	ck_assert(!err);
	told++;
	done = told == 2;
}

START_TEST(joined)
{
	created();
	told = 0;
	ck_assert_int_eq(machine_boot(the_machine(), on_told, NULL, NULL), 0);
	ck_assert_int_eq(machine_boot(the_machine(), on_told, NULL, NULL), 0);
	wait_done();
	ck_assert_uint_eq(fake.setups, 1);
	told = 0;
	ck_assert_int_eq(machine_stop(the_machine(), "user", on_told, NULL, NULL), 0);
	ck_assert_int_eq(machine_stop(the_machine(), "user", on_told, NULL, NULL), 0);
	wait_done();
	ck_assert_uint_eq(fake.shutdowns, 1);
	delete ();
}
END_TEST

/* A boot that fails leaves the machine, with the reason, and the next boot works. */
static const enum fake_step boot_failures[] = { FAKE_IMAGE, FAKE_KERNEL, FAKE_PACK, FAKE_VMM,
	FAKE_VMM_START, FAKE_SETUP };
START_TEST(boot_fails)
{
	created();
	fake.fail = boot_failures[_i];
	boot();
	ck_assert(failure.set);
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	ck_assert_ptr_nonnull(the_machine()->row.last_error);
	ck_assert_uint_eq(fake.vmms, 0);
	row_says("failed");
	fake.fail = FAKE_NONE;
	boot();
	ck_assert(!failure.set);
	ck_assert_ptr_null(the_machine()->row.last_error);
	stop();
	delete ();
}
END_TEST

/* After an upgrade its kernel is first packed with the new agent. */
START_TEST(packed_before_the_boot)
{
	created();
	fake.unpacked = true;
	boot();
	ck_assert(!failure.set);
	ck_assert_uint_eq(fake.vmms, 1);
	stop();
	delete ();
}
END_TEST

/* A creation that fails leaves nothing. */
START_TEST(creation_fails)
{
	fake.fail = _i == 0 ? FAKE_PULL : FAKE_DISK;
	create();
	wait_done();
	ck_assert(failure.set);
	nothing_left();
}
END_TEST

START_TEST(creation_cancelled)
{
	struct creation *c;
	bool never = false;

	fake.stall = _i == 0 ? FAKE_PULL : FAKE_NONE;
	c = create();
	if (_i > 0)
		for (int k = 1; k < _i; k++)
			(void)sd_event_run(event, 0);
	if (done)
		return; /* completed before the cancellation: the machine exists */
	creation_cancel(c);
	wait_done();
	ck_assert_int_eq(failure.code, ERROR_CANCELLED);
	(void)loop_until(event, &never, 20 * USEC_PER_MSEC);
	nothing_left();
}
END_TEST

/* A daemon that stops notifies each waiter once and frees its state (leak checker). */
START_TEST(creation_ends_with_the_daemon)
{
	bool never = false;

	fake.stall = _i == 0 ? FAKE_PULL : FAKE_NONE;
	create();
	core_end(m);
	ck_assert(done);
	ck_assert_int_eq(failure.code, ERROR_CANCELLED);
	(void)loop_until(event, &never, 20 * USEC_PER_MSEC); /* the fakes' part */
}
END_TEST

/* The guest dies by itself: the machine is `failed`, no part of the VMM is left, and it boots
 * again. */
START_TEST(guest_dies)
{
	created();
	boot();
	fake_vmm_die();
	for (int i = 0; i < 500 && !machine_is_settled(the_machine()); i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	ck_assert_uint_eq(fake.vmms, 0);
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

/* Deletes a machine in each state and on each transition. */
START_TEST(deleted_after_n_turns)
{
	created();
	fake.unpacked = _i % 2;
	ck_assert_int_eq(machine_boot(the_machine(), NULL, NULL, NULL), 0);
	for (int k = 0; k < _i; k++)
		(void)sd_event_run(event, 0);
	delete ();
}
END_TEST

START_TEST(deleted_while_stopping)
{
	created();
	boot();
	ck_assert_int_eq(machine_stop(the_machine(), "user", NULL, NULL, NULL), 0);
	for (int k = 0; k < _i; k++)
		(void)sd_event_run(event, 0);
	delete ();
}
END_TEST

/* A boot requested while the machine stops or dies starts when the machine is settled. */
START_TEST(booted_while_stopping)
{
	created();
	boot();
	if (_i % 2)
		fake_vmm_die();
	else
		ck_assert_int_eq(machine_stop(the_machine(), "user", NULL, NULL, NULL), 0);
	for (int k = 0; k < _i / 2; k++)
		(void)sd_event_run(event, 0);
	boot();
	ck_assert(!failure.set);
	ck_assert_int_eq(the_machine()->state, MACHINE_STARTED);
	ck_assert_uint_eq(fake.vmms, 1);
	delete ();
}
END_TEST

START_TEST(deleted_before_the_boot_that_waits)
{
	created();
	boot();
	ck_assert_int_eq(machine_stop(the_machine(), "user", NULL, NULL, NULL), 0);
	ck_assert_int_eq(machine_boot(the_machine(), on_done, NULL, NULL), 0);
	for (int k = 0; k < _i; k++)
		(void)sd_event_run(event, 0);
	ck_assert_int_eq(machine_delete(the_machine(), "test", NULL, NULL), 0);
	wait_done();
	ck_assert(failure.set);
	ck_assert_uint_eq(machines_count(m->machines, 0), 0);
}
END_TEST

START_TEST(wrong_states)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	created();
	fake.stall = FAKE_SETUP;
	ck_assert_int_eq(machine_boot(the_machine(), NULL, NULL, NULL), 0);
	for (int k = 0; k < 20; k++)
		(void)sd_event_run(event, 0);
	ck_assert_int_lt(machine_stop(the_machine(), "user", on_done, NULL, &err), 0);
	ck_assert_int_eq(err.code, ERROR_WRONG_STATE);
	ck_assert_ptr_nonnull(err.fix);
	delete ();
}
END_TEST

/* A guest that powers itself off is stopped, not failed, and the row has the reason. */
START_TEST(guest_switches_itself_off)
{
	struct msg_bye bye = { .reason = BYE_POWEROFF };
	_cleanup_json_ json_object *o = NULL;

	created();
	boot();
	ck_assert_int_ge(
		msg_send(&fake.out, fake.version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &bye), 0);
	fake_flush();
	for (int k = 0; k < 500 && the_machine()->state != MACHINE_STOPPED; k++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	until_idle();
	ck_assert_int_eq(vm_json(the_machine(), &o), 0);
	ck_assert_str_eq(json_get_str(o, "state", ""), "stopped");
	ck_assert_str_eq(json_get_str(o, "stop_reason", ""), "guest");
	ck_assert_ptr_null(json_get(o, "last_error"));
	ck_assert_uint_eq(fake.vmms, 0);
	row_says("stopped");
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

/* SHUTDOWN is lost with the connection and sent again. */
START_TEST(stop_survives_a_cut)
{
	created();
	boot();
	fake.never_ends = true;
	ck_assert_int_eq(machine_stop(the_machine(), "user", on_done, NULL, NULL), 0);
	for (int k = 0; k < 200 && fake.shutdowns == 0; k++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	fake.never_ends = false;
	fake_break();
	wait_done();
	ck_assert(!failure.set);
	ck_assert_uint_ge(fake.shutdowns, 2);
	ck_assert_int_eq(the_machine()->state, MACHINE_STOPPED);
}
END_TEST

/* A full disk: the machine pauses, reports it, and resumes. */
START_TEST(paused_and_resumed)
{
	created();
	boot();
	fake_vmm_pause();
	ck_assert_ptr_nonnull(strstr(the_machine()->row.last_error, "disk_full"));
	for (int k = 0; k < 200 && the_machine()->hold.pause; k++)
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.resumes, 1);
	ck_assert_ptr_null(the_machine()->row.last_error);
	fake_vmm_pause();
	delete ();
}
END_TEST

/* A VMM that reports a full disk for too long in all, although there is space, is killed: each
 * pause holds back the commands' deadlines. */
START_TEST(claims_a_full_disk)
{
	created();
	boot();
	for (int i = 0; i < 3; i++) {
		fake_vmm_pause();
		ck_assert_ptr_nonnull(the_machine()->hold.pause);
		for (int k = 0; k < 200 && the_machine()->hold.pause; k++)
			(void)sd_event_run(event, 20 * USEC_PER_MSEC);
		ck_assert_ptr_null(the_machine()->hold.pause);
	}
	ck_assert_uint_ge(the_machine()->hold.idle_usec, 3 * 400 * USEC_PER_MSEC);
	ck_assert_int_eq(the_machine()->state, MACHINE_STARTED);
	the_machine()->hold.idle_usec += 30 * USEC_PER_SEC;
	fake_vmm_pause();
	for (int k = 0; k < 200 && the_machine()->state == MACHINE_STARTED; k++)
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	delete ();
}
END_TEST

static void write_to_disk(void)
{
	int fd = open(the_machine()->paths.disk, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	char bytes[16 * 1024];

	memset(bytes, 1, sizeof(bytes));
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	ck_assert_int_eq(fsync(fd), 0);
	(void)close(fd);
}

/* The host's free space is below the reserve: only a machine whose disk grows is paused, and it
 * resumes above the reserve. */
START_TEST(paused_at_the_reserve)
{
	created();
	write_to_disk();
	boot();
	m->config->disk_reserve_mib = INT64_C(1) << 30;
	for (uint64_t end = now_usec() + 2 * USEC_PER_SEC;
		now_usec() < end;) /* checks each second, then more often */
		(void)sd_event_run(event, 50 * USEC_PER_MSEC);
	ck_assert_uint_gt(the_machine()->hold.blocks, 0);
	ck_assert_uint_eq(fake.pauses, 0);
	write_to_disk();
	for (int k = 0; k < 200 && !the_machine()->hold.pause; k++)
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.pauses, 1);
	ck_assert_str_eq(machine_pause_reason(the_machine()), "disk_full");
	for (int k = 0; k < 40; k++)
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.resumes, 0);
	m->config->disk_reserve_mib = 0;
	for (int k = 0; k < 200 && the_machine()->hold.pause; k++)
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.resumes, 1);
	delete ();
}
END_TEST

/* A VMM that does not pause is killed: it would fill the disk. */
START_TEST(writes_on_at_the_reserve)
{
	created();
	write_to_disk();
	boot();
	fake.writes_on = true;
	m->config->disk_reserve_mib = INT64_C(1) << 30;
	for (int k = 0; k < 200 && fake.pauses == 0; k++) {
		write_to_disk();
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	}
	ck_assert_uint_eq(fake.pauses, 1);
	ck_assert_uint_gt(the_machine()->hold.asked_usec, 0);
	the_machine()->hold.asked_usec -= 29 * USEC_PER_SEC;
	write_to_disk();
	for (int k = 0; k < 10; k++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_int_eq(the_machine()->state, MACHINE_STARTED);
	ck_assert_uint_eq(fake.pauses, 1);
	the_machine()->hold.again_usec = 1; /* asked again after 5 s */
	for (int k = 0; k < 200 && fake.pauses == 1; k++) {
		write_to_disk();
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	}
	ck_assert_uint_eq(fake.pauses, 2);
	the_machine()->hold.asked_usec -= USEC_PER_SEC;
	for (int k = 0; k < 200 && the_machine()->state == MACHINE_STARTED; k++) {
		write_to_disk();
		(void)sd_event_run(event, 20 * USEC_PER_MSEC);
	}
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	ck_assert_uint_eq(fake.pauses, 2);
	delete ();
}
END_TEST

static void on_run_done(
	_unused_ struct run *r, json_object *o, const struct error *err, _unused_ void *userdata)
{
	json_object_put(result);
	result = o;
	on_done(err, NULL);
}

static struct run *exec_in(struct error *err)
{
	static const struct run_callbacks cb = { .on_done = on_run_done };
	const struct run_params p = {
		.command = "true", .cwd = "/", .user = "root", .stdio_fd = -EBADF
	};
	struct run *r = NULL;

	(void)run_in_machine(the_machine(), &p, &cb, NULL, &r, err);
	return r;
}

/* vm.exec in a running machine and in one that must be booted: one command, then the machine is
 * deleted. */
START_TEST(executes)
{
	struct run *r;

	created();
	if (_i == 1)
		boot();
	fake.out_text = "hello";
	fake.exit.code = 3;
	r = exec_in(NULL);
	ck_assert_ptr_nonnull(r);
	ck_assert_ptr_null(exec_in(&failure));
	ck_assert_int_eq(failure.code, ERROR_WRONG_STATE);
	wait_done();
	ck_assert(!failure.set);
	ck_assert_str_eq(json_get_str(result, "vm_id", ""), id);
	ck_assert_str_eq(json_get_str(result, "stdout", ""), "hello");
	ck_assert_int_eq(json_get_int(result, "exit_code", 0), 3);
	ck_assert_str_eq(json_get_str(result, "accelerator", ""), "emulation");
	/* A machine booted for a command must start that command. */
	ck_assert_uint_eq(fake.logins, _i == 1 ? 1 : 0);
	run_free(r);
	nothing_left();
}
END_TEST

/* A machine whose boot fails in vm.exec is kept for its owner. */
START_TEST(exec_without_boot)
{
	struct run *r;

	created();
	fake.fail = FAKE_VMM;
	r = exec_in(NULL);
	wait_done();
	ck_assert_int_eq(failure.code, ERROR_VM_UNAVAILABLE);
	run_free(r);
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	fake.fail = FAKE_NONE;
	delete ();
}
END_TEST

static size_t exec_rows(void)
{
	struct exec_row *rows = NULL;
	size_t n = 0;

	ck_assert_int_eq(store_exec_load(m->store, &rows, &n, NULL), 0);
	for (size_t i = 0; i < n; i++)
		exec_row_done(&rows[i]);
	free(rows);
	return n;
}

/* A refused command leaves no state for the next daemon. */
START_TEST(refused_command_leaves_no_row)
{
	static const enum fake_step fails[] = { FAKE_IMAGE, FAKE_VMM, FAKE_VMM_START };
	struct run *r;

	created();
	fake.fail = fails[_i];
	r = exec_in(NULL);
	wait_done();
	ck_assert(failure.set);
	run_free(r);
	ck_assert_uint_eq(exec_rows(), 0);
	fake.fail = FAKE_NONE;
	delete ();
}
END_TEST

/* A command that was about to start when the daemon died: the next daemon drops it and keeps the
 * machine. */
START_TEST(command_that_never_began)
{
	const struct exec_row row = {
		.id = "ex-0123456789ab", .owner_uid = 1000, .channel = 1, .command = (char *)"true"
	};
	struct exec_row stale = row;

	created();
	(void)snprintf(stale.vm_id, sizeof(stale.vm_id), "%s", id);
	ck_assert_int_eq(store_exec_put(m->store, &stale, NULL, NULL), 0);
	boot();
	stop();
	ck_assert_uint_eq(exec_rows(), 1);
	core_end(m);
	ck_assert_int_eq(core_start(m, NULL), 0);
	boot();
	ck_assert(!failure.set);
	ck_assert_uint_eq(exec_rows(), 0);
	delete ();
}
END_TEST

/* Cancelled while its row is being committed, n iterations after the request. */
START_TEST(command_cancelled_after_n_turns)
{
	struct run *r;

	created();
	if (_i % 2)
		boot();
	fake.command = COMMAND_HANG;
	r = exec_in(NULL);
	for (int k = 0; k < _i / 2; k++)
		(void)sd_event_run(event, 0);
	run_cancel(r);
	wait_done();
	ck_assert_int_eq(failure.code, ERROR_CANCELLED);
	run_free(r);
	nothing_left();
}
END_TEST

/* The next daemon finds the machine unchanged, and counts it in its owner's limits. */
START_TEST(next_daemon)
{
	created();
	if (_i > 0) {
		boot();
		stop();
	}
	core_end(m);
	ck_assert_int_eq(core_start(m, NULL), 0);
	ck_assert_int_eq(the_machine()->state, _i > 0 ? MACHINE_STOPPED : MACHINE_CREATED);
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

static void on_swept(json_object *answer, const struct error *err, _unused_ void *userdata)
{
	ck_assert_ptr_null(err);
	json_object_put(result);
	result = answer;
	done = true;
}

/* A machine that expired while no daemon ran is kept for an hour from the next start, then
 * deleted. */
START_TEST(an_hour_after_a_start)
{
	bool never = false;

	created();
	core_end(m);
	ck_assert_int_eq(core_start(m, NULL), 0);
	the_machine()->row.expires_usec = 1;
	reaper_update(m);
	(void)loop_until(event, &never, 50 * USEC_PER_MSEC);
	ck_assert_int_eq(vm_reap_expired(m, 1000, on_swept, NULL), 0);
	wait_done();
	ck_assert_int_eq(json_object_get_int(json_get(result, "count")), 0);
	ck_assert_int_eq(the_machine()->state, MACHINE_CREATED);
	m->started_usec -= 3600 * USEC_PER_SEC;
	reaper_update(m);
	for (int i = 0; i < 500 && machines_count(m->machines, 0) > 0; i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_uint_eq(machines_count(m->machines, 0), 0);
}
END_TEST

/* The host rebooted while a machine ran: the machine has failed, and boots again. */
START_TEST(after_the_hosts_restart)
{
	struct machine *mc;
	bool never = false;

	created();
	boot();
	mc = the_machine();
	strcpy(mc->row.boot_id, "an earlier boot");
	ck_assert_int_eq(store_vm_put(m->store, &mc->row, NULL, NULL), 0);
	(void)loop_until(event, &never, 50 * USEC_PER_MSEC);
	core_end(m);
	fake.vmms = 0; /* the VMM ended with the host */
	ck_assert_int_eq(core_start(m, NULL), 0);
	for (int i = 0; i < 500 && !machine_is_settled(the_machine()); i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	ck_assert_ptr_nonnull(strstr(the_machine()->row.last_error, "restarted"));
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

/* The next daemon sees the VMM as a process with the machine's uuid on its command line. */
static void begin_vmm_process(const uint8_t u[16])
{
	char uuid[40], sh[] = "/bin/sh", c[] = "-c", stop[] = "kill -STOP $$", flag[] = "-uuid";
	char *const argv[] = { sh, c, stop, sh, flag, uuid, NULL };
	char path[64], text[8];
	ssize_t r = 0;
	size_t n = 0;

	for (size_t i = 0; i < 16; i++)
		n += (size_t)sprintf(
			uuid + n, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", u[i]);
	ck_assert_int_eq(posix_spawn(&vmm_process, sh, NULL, NULL, argv, NULL), 0);
	/* posix_spawn returns before the new program's command line can be read. */
	(void)snprintf(path, sizeof(path), "/proc/%d/cmdline", vmm_process);
	for (int i = 0; i < 100000 && r <= 0; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		r = read(fd, text, sizeof(text));
		(void)close(fd);
		(void)sched_yield();
	}
	ck_assert_int_gt(r, 0);
}

/* The daemon crashes; the VMM lives and is found by the next daemon. */
static void restart_over_a_vmm(void)
{
	struct machine *mc = the_machine();
	bool kept = false;

	begin_vmm_process(mc->row.uuid);
	mc->row.vmm_pid = 0;
	ck_assert_int_eq(store_vm_put(m->store, &mc->row, on_kept, &kept), 0);
	ck_assert(loop_until(event, &kept, LONG));
	core_end(m);
	fake.vmms = 0;
	fake_break();
	ck_assert_int_eq(core_start(m, NULL), 0);
}

static void until_setup(unsigned n)
{
	for (int i = 0; i < 500 && fake.setups < n; i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_uint_eq(fake.setups, n);
}

/* The guest sends what ends the machine (BYE or an error), and then a success, in one write. */
static void say_the_end_and_all_is_well(bool bye)
{
	struct msg_bye last = { .reason = BYE_REBOOT };
	struct msg_result refused = { .error = EIO }, well = { 0 };
	int r = bye ? msg_send(&fake.out, fake.version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &last)
		    : msg_send(&fake.out, fake.version, result, FRAME_SETUP_DONE,
			      AGENT_CHANNEL_NONE, &refused);

	ck_assert_int_ge(r, 0);
	r = msg_send(&fake.out, fake.version, result, FRAME_SETUP_DONE, AGENT_CHANNEL_NONE, &well);
	ck_assert_int_ge(r, 0);
	fake_flush();
}

/* Once its machine has failed, further messages of a guest are ignored, under its own daemon and
 * under the next. */
START_TEST(a_failed_guest_says_all_is_well)
{
	const bool bye = _i % 2, adopted = _i / 2;

	created();
	fake.stall = FAKE_SETUP;
	ck_assert_int_eq(machine_boot(the_machine(), NULL, NULL, NULL), 0);
	until_setup(1);
	if (adopted) {
		restart_over_a_vmm();
		ck_assert(the_machine()->state == MACHINE_ADOPTING);
		until_setup(2);
	}
	say_the_end_and_all_is_well(bye);
	for (int i = 0; i < 500 && the_machine()->state != MACHINE_FAILED; i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	until_idle();
	ck_assert_int_eq(the_machine()->state, MACHINE_FAILED);
	ck_assert_uint_eq(fake.vmms, 0);
	row_says("failed");
	fake.stall = FAKE_NONE;
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

/* A guest that is lost during SETUP gets the full deadline when it is asked again. */
START_TEST(lost_in_setup_and_asked_again)
{
	created();
	fake.stall = FAKE_SETUP;
	ck_assert_int_eq(machine_boot(the_machine(), NULL, NULL, NULL), 0);
	until_setup(1);
	restart_over_a_vmm();
	until_setup(2);
	fake.refuse_dial = true;
	fake_break();
	for (int i = 0; i < 500 && the_machine()->state == MACHINE_ADOPTING; i++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert(the_machine()->state != MACHINE_ADOPTING);
	ck_assert_ptr_null(the_machine()->guest.setup_timer);
	fake.refuse_dial = false;
	fake.stall = FAKE_NONE;
	boot();
	ck_assert(!failure.set);
	ck_assert_int_eq(the_machine()->state, MACHINE_STARTED);
	delete ();
}
END_TEST

/* A machine whose VMM was started by a previous daemon and cannot be adopted. */
static void not_adopted(void)
{
	created();
	boot();
	fake.fail = FAKE_VMM;
	restart_over_a_vmm();
	ck_assert_int_eq(the_machine()->state, MACHINE_UNKNOWN);
	fake.fail = FAKE_NONE;
}

/* The VMM of a previous daemon was killed by its pid: no wait for it is left. */
START_TEST(ended_by_pid)
{
	not_adopted();
	stop();
	ck_assert_ptr_null(the_machine()->process.deadline);
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

/* A wait that a failed stop left behind does not go on when the machine is stopped again. */
START_TEST(ended_again)
{
	static const struct unit_callbacks none = { 0 };
	sd_event_source *late;
	struct units *units = NULL;
	struct machine *mc;

	not_adopted();
	mc = the_machine();
	ck_assert_int_eq(units_new(event, true, &units), 0);
	ck_assert_int_eq(unit_new(units, "pyro-vm@x.service", &none, mc, &mc->process.unit), 0);
	ck_assert_int_ge(sd_event_add_time(event, &mc->process.pid_event, CLOCK_MONOTONIC,
				 UINT64_MAX, 0, NULL, NULL),
		0);
	late = sd_event_source_ref(mc->process.pid_event);
	if (_i == 1) /* exited by itself meanwhile */
		end_vmm_process();
	stop();
	ck_assert_int_eq(sd_event_source_get_enabled(late, NULL), SD_EVENT_OFF);
	ck_assert_ptr_null(mc->process.pid_event);
	ck_assert_ptr_null(mc->process.unit);
	sd_event_source_unref(late);
	units_free(units);
	delete ();
}
END_TEST

/* The deadline for a guest to stop expires just when the machine is deleted. */
START_TEST(deleted_when_a_stop_is_late)
{
	struct machine *mc;

	created();
	boot();
	fake.never_ends = true;
	mc = the_machine();
	ck_assert_int_eq(machine_stop(mc, "user", NULL, NULL, NULL), 0);
	for (int k = 0; k < 500 && fake.shutdowns == 0; k++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_int_eq(machine_delete(mc, "it was asked for", on_done, NULL), 0);
	if (_i == 0) /* between the call and the engine's next step */
		machine_shut_down_done(mc);
	for (int k = 0; k < _i; k++)
		(void)sd_event_run(event, 0);
	if (!done && !machine_is_settled(mc) && mc->process.deadline) {
		(void)sd_event_source_set_time_accuracy(mc->process.deadline, 1);
		(void)sd_event_source_set_time_relative(mc->process.deadline, 0);
	}
	wait_done();
	ck_assert(!failure.set);
	nothing_left();
}
END_TEST

/* After a failed deletion some parts may be deleted: the machine can only be deleted. */
START_TEST(stopped_after_a_deletion_that_failed)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	created();
	fake.fail = FAKE_REMOVE;
	ck_assert_int_eq(machine_delete(the_machine(), "it was asked for", on_done, NULL), 0);
	wait_done();
	ck_assert(failure.set);
	ck_assert_int_eq(the_machine()->state, MACHINE_UNKNOWN);
	ck_assert_int_lt(machine_stop(the_machine(), "user", on_done, NULL, &err), 0);
	ck_assert_int_eq(err.code, ERROR_WRONG_STATE);
	fake.fail = FAKE_NONE;
	delete ();
}
END_TEST

/* A VMM that does not exit when killed is queried, and then exits: no object listens to it any
 * more. */
START_TEST(asked_after_a_stop_that_failed)
{
	struct machine *mc;

	created();
	boot();
	mc = the_machine();
	fake.never_ends = fake.hangs = true;
	ck_assert_int_eq(machine_stop(mc, "user", on_done, NULL, NULL), 0);
	machine_shut_down_done(mc); /* the answer is late */
	for (int k = 0; k < 500 && !(mc->steps.phase == STEPS_DOWN && mc->process.deadline); k++)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	ck_assert_ptr_nonnull(mc->process.deadline);
	(void)sd_event_source_set_time_relative(mc->process.deadline, 0); /* and its VMM too */
	wait_done();
	ck_assert(failure.set);
	boot();
	ck_assert(!failure.set);
	fake.hangs = false;
	fake_vmm_die();
	until_idle();
	ck_assert_int_eq(mc->state, MACHINE_FAILED);
	ck_assert_ptr_null(mc->guest.link);
	boot();
	ck_assert(!failure.set);
	delete ();
}
END_TEST

START_TEST(counted_by_quota)
{
	for (int i = 0; i < 4; i++)
		created();
	create();
	wait_done();
	ck_assert_int_eq(failure.code, ERROR_QUOTA_EXCEEDED);
	ck_assert_uint_eq(machines_count(m->machines, 0), 4);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vm");
	TCase *t = tcase_create("vm");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, life);
	tcase_add_test(t, joined);
	tcase_add_loop_test(t, boot_fails, 0, ARRAY_SIZE(boot_failures));
	tcase_add_test(t, packed_before_the_boot);
	tcase_add_loop_test(t, creation_fails, 0, 2);
	tcase_add_loop_test(t, creation_cancelled, 0, 12);
	tcase_add_loop_test(t, creation_ends_with_the_daemon, 0, 2);
	tcase_add_test(t, guest_dies);
	tcase_add_loop_test(t, deleted_after_n_turns, 0, 30);
	tcase_add_loop_test(t, deleted_while_stopping, 0, 15);
	tcase_add_loop_test(t, booted_while_stopping, 0, 30);
	tcase_add_loop_test(t, deleted_before_the_boot_that_waits, 0, 8);
	tcase_add_test(t, wrong_states);
	tcase_add_test(t, guest_switches_itself_off);
	tcase_add_test(t, stop_survives_a_cut);
	tcase_add_test(t, paused_and_resumed);
	tcase_add_test(t, claims_a_full_disk);
	tcase_add_test(t, paused_at_the_reserve);
	tcase_add_test(t, writes_on_at_the_reserve);
	tcase_add_loop_test(t, executes, 0, 2);
	tcase_add_test(t, exec_without_boot);
	tcase_add_loop_test(t, refused_command_leaves_no_row, 0, 3);
	tcase_add_test(t, command_that_never_began);
	tcase_add_loop_test(t, command_cancelled_after_n_turns, 0, 20);
	tcase_add_loop_test(t, next_daemon, 0, 2);
	tcase_add_test(t, an_hour_after_a_start);
	tcase_add_test(t, after_the_hosts_restart);
	tcase_add_loop_test(t, a_failed_guest_says_all_is_well, 0, 4);
	tcase_add_test(t, lost_in_setup_and_asked_again);
	tcase_add_test(t, ended_by_pid);
	tcase_add_loop_test(t, ended_again, 0, 2);
	tcase_add_loop_test(t, deleted_when_a_stop_is_late, 0, 4);
	tcase_add_test(t, stopped_after_a_deletion_that_failed);
	tcase_add_test(t, asked_after_a_stop_that_failed);
	tcase_add_test(t, counted_by_quota);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
