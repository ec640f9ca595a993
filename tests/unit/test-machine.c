/* SPDX-License-Identifier: MIT */
/*
 * A machine through its public calls (machine-frame.h): the table of its states, which must be
 * complete, named, and without a state that a machine cannot leave; and stories that the table of
 * test-machine-walk.c does not show, because they are about reports, counts or waits, or need one
 * event just before another. Run by `meson test machine`.
 */

#include "tests/unit/machine-frame.h"

#include <check.h>
#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "daemon/config.h"
#include "daemon/machine/proof.h"

/* The table of states */

/* Returns all states from which `to` can be reached, as a bit set. */
static unsigned reaches(enum machine_state to)
{
	unsigned seen = 1U << to, before;

	do {
		before = seen;
		for (unsigned from = 0; from < MACHINE_STATE_MAX; from++)
			for (unsigned next = 0; next < MACHINE_STATE_MAX; next++)
				if (machine_successor(from, next) && (seen & (1U << next)))
					seen |= 1U << from;
	} while (seen != before);
	return seen;
}

START_TEST(names)
{
	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++) {
		ck_assert_ptr_nonnull(machine_state_name(i));
		ck_assert_int_gt(strlen(machine_state_name(i)), 0);
		/* fits the row's column and the JSON */
		ck_assert_uint_lt(
			strlen(machine_state_name(i)), sizeof(((struct vm_row *)0)->state));
		for (unsigned k = 0; k < i; k++)
			ck_assert_str_ne(machine_state_name(i), machine_state_name(k));
	}
}
END_TEST

/* contract.md section 4 lists the states that clients see. */
START_TEST(public_names)
{
	static const char *const known[] = { "preparing", "created", "started", "suspended",
		"stopped", "failed", "unknown" };

	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++) {
		bool found = false;

		for (size_t k = 0; k < ARRAY_SIZE(known); k++)
			found = found || streq(machine_state_public(i), known[k]);
		ck_assert_msg(found, "%s", machine_state_public(i));
	}
}
END_TEST

/* status, list and delete work in any state: deletion is one step away from each. */
START_TEST(each_can_be_deleted)
{
	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++)
		ck_assert_msg(i == MACHINE_DELETING || machine_successor(i, MACHINE_DELETING), "%s",
			machine_state_name(i));
	/* a failed deletion can be retried */
	ck_assert(machine_successor(MACHINE_DELETING, MACHINE_UNKNOWN));
	/* reached from all states, when a new daemon cannot determine the state */
	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++)
		ck_assert_msg(i == MACHINE_UNKNOWN || machine_successor(i, MACHINE_UNKNOWN), "%s",
			machine_state_name(i));
}
END_TEST

START_TEST(none_is_unreachable)
{
	for (unsigned to = 0; to < MACHINE_STATE_MAX; to++)
		ck_assert_msg(to == MACHINE_PREPARING || (reaches(to) & (1U << MACHINE_PREPARING)),
			"%s", machine_state_name(to));
}
END_TEST

/* No machine is created again, none runs without a start, and no deletion is undone. */
START_TEST(forbidden)
{
	for (unsigned i = 0; i < MACHINE_STATE_MAX; i++) {
		ck_assert(!machine_successor(i, i));
		ck_assert(!machine_successor(i, MACHINE_PREPARING));
		ck_assert(i == MACHINE_UNKNOWN || !machine_successor(MACHINE_DELETING, i));
	}
	ck_assert(!machine_successor(MACHINE_STOPPED, MACHINE_STARTED));
	ck_assert(!machine_successor(MACHINE_FAILED, MACHINE_STARTED));
	ck_assert(!machine_successor(MACHINE_CREATED, MACHINE_STARTED));
	ck_assert(!machine_successor(MACHINE_STARTED, MACHINE_STOPPED));
}
END_TEST

/* A machine's life */

static void created(void)
{
	create(false);
	settle();
	must_be(MACHINE_CREATED);
}

/* Asks, and settles; the waiter's answer is in asked[] and last_answer. */
static void ask_and_settle(enum request what)
{
	ck_assert_int_eq(ask(what), '0');
	settle();
}

static void boot(void)
{
	ask_and_settle(BOOT);
	ck_assert_msg(!last_answer.set, "%s: %s", last_answer.message,
		last_answer.cause ? last_answer.cause : "");
	must_be(MACHINE_STARTED);
	ck_assert_uint_eq(fake.vmms, 1);
}

static void started(void)
{
	created();
	boot();
}

static void stop(void)
{
	ask_and_settle(STOP);
	ck_assert(!last_answer.set);
	must_be(MACHINE_STOPPED);
	check_world();
}

static void delete (void)
{
	ask_and_settle(DELETE);
	ck_assert_int_eq(asked[DELETE].last, '+');
	check_world();
	ck_assert_ptr_null(the_machine());
}

static const char *last_error(void)
{
	return machine_row(the_machine())->last_error;
}

START_TEST(life)
{
	created();
	for (unsigned round = 1; round <= 3; round++) {
		boot();
		ck_assert_int_eq(ask(BOOT), '1');
		stop();
		ck_assert_uint_eq(fake.logins, round); /* it was idle, so a command may start */
		ck_assert_uint_eq(fake.shutdowns, round);
		ck_assert_uint_eq(fake.disks, 1); /* the same disk */
		ck_assert_int_eq(ask(STOP), '1');
	}
	delete ();
}
END_TEST

/* Two equal requests: one boot, one shutdown, and both callers are notified. */
START_TEST(joined)
{
	created();
	ck_assert_int_eq(ask(BOOT), '0');
	ask_and_settle(BOOT);
	ck_assert_uint_eq(asked[BOOT].answered, 2);
	ck_assert_uint_eq(fake.setups, 1);
	ck_assert_int_eq(ask(STOP), '0');
	ask_and_settle(STOP);
	ck_assert_uint_eq(asked[STOP].answered, 2);
	ck_assert_uint_eq(fake.shutdowns, 1);
	delete ();
}
END_TEST

/* A boot that fails leaves the machine, with the reason, and the next boot works. */
static const struct {
	enum fake_step step;
	enum error_code code;
} failures[] = {
	{ FAKE_IMAGE, ERROR_PULL_FAILED },
	{ FAKE_KERNEL, ERROR_START_FAILED },
	{ FAKE_PACK, ERROR_START_FAILED },
	{ FAKE_VMM, ERROR_VM_UNAVAILABLE },
	{ FAKE_VMM_START, ERROR_START_FAILED },
	{ FAKE_SETUP, ERROR_START_FAILED },
};

START_TEST(boot_fails)
{
	created();
	fake.fail = failures[_i].step;
	ask_and_settle(BOOT);
	ck_assert_str_eq(error_code_name(last_answer.code), error_code_name(failures[_i].code));
	must_be(MACHINE_FAILED);
	ck_assert_ptr_nonnull(last_error());
	check_world(); /* no VMM, and the row says so */
	fake.fail = FAKE_NONE;
	boot();
	ck_assert_ptr_null(last_error());
	stop();
	delete ();
}
END_TEST

/* A machine that boots at once fails at each step: nothing is left. */
START_TEST(start_fails)
{
	fake.fail = _i < (int)ARRAY_SIZE(failures) ? failures[_i].step : FAKE_DISK;
	create(true);
	settle();
	ck_assert_int_eq(asked[NOTHING].last, '!');
	ck_assert_str_eq(error_code_name(last_answer.code),
		error_code_name(
			_i < (int)ARRAY_SIZE(failures) ? failures[_i].code : ERROR_NO_SPACE));
	check_world();
	if (_i == (int)ARRAY_SIZE(failures))
		ck_assert_ptr_null(the_machine());
}
END_TEST

/* After an upgrade its kernel is first packed with the new agent. */
START_TEST(packed_before_the_boot)
{
	created();
	fake.unpacked = true;
	boot();
	delete ();
}
END_TEST

/* A file modified after its installation is not booted unchecked; a failed check is reported. */
START_TEST(suspect_is_checked_first)
{
	created();
	fake.suspect = true;
	fake.fail = FAKE_READ;
	ask_and_settle(BOOT);
	ck_assert_str_eq(last_answer.message, "no pyro-import");
	ck_assert_uint_eq(fake.reads, 2);
	ck_assert_uint_eq(fake.launches, 0);
	fake.fail = FAKE_NONE;
	boot();
	ck_assert_uint_eq(fake.reads, 4);
	delete ();
}
END_TEST

/* After a failed boot its files are checked before the waiters are notified, and its deletion does
 * not wait for a slow disk. */
START_TEST(deleted_while_a_failed_boot_is_checked)
{
	created();
	fake.fail = FAKE_SETUP;
	fake.stall = FAKE_READ;
	request(BOOT);
	ck_assert_uint_eq(fake.reads, 2);
	ck_assert_uint_eq(asked[BOOT].answered, 0);
	ask_and_settle(DELETE);
	ck_assert_int_eq(asked[BOOT].last, '!');
	ck_assert_int_eq(asked[DELETE].last, '+');
	check_world();
}
END_TEST

START_TEST(vmm_dies_before_the_agent)
{
	created();
	fake.mute = true;
	request(BOOT);
	ck_assert_uint_gt(fake.dials, 0);
	fake_vmm_die();
	settle();
	ck_assert_str_eq(error_code_name(last_answer.code), error_code_name(ERROR_START_FAILED));
	must_be(MACHINE_FAILED);
}
END_TEST

/* The guest sent nothing: the error names the VMM and possible faults of it. */
START_TEST(vmm_boots_no_kernel)
{
	static const char *const fixes[] = {
		"sudo apt-get install --reinstall -y qemu-system-x86 qemu-system-data",
		"remove qemu = /opt/qemu from pyrod.conf and restart pyrod",
		"remove kernel = /boot/mine from pyrod.conf and restart pyrod",
	};

	if (_i == 1)
		m->config->qemu = strdup("/opt/qemu");
	if (_i == 2)
		m->config->kernel = strdup("/boot/mine");
	created();
	fake.mute = fake.unseen = true;
	request(BOOT);
	fake_vmm_die();
	settle();
	ck_assert(
		startswith(last_answer.message, "the VMM did not boot the kernel of machine tt-"));
	ck_assert_str_eq(last_answer.cause,
		"QEMU 7.2.22 (Debian) was reset by its guest before the kernel printed anything");
	ck_assert_str_eq(last_answer.fix, fixes[_i]);
	ck_assert_str_eq(error_code_name(last_answer.code), error_code_name(ERROR_START_FAILED));
	free(TAKE_PTR(m->config->qemu));
	free(TAKE_PTR(m->config->kernel));
}
END_TEST

static struct proof proof(void)
{
	struct proof p;

	proof_find(m, "sha256:00", ACCELERATOR_EMULATION, &p);
	return p;
}

/* A success is not kept for ever: a fresh machine that fails to boot revokes it, one without room
 * on the host's disk does not. */
START_TEST(failed_start_takes_the_proof_back)
{
	static const enum fake_step steps[] = { FAKE_VMM_START, FAKE_SETUP };
	uint64_t before = wall_usec();
	struct proof other;

	ck_assert_uint_eq(proof().booted_usec, 0);
	started();
	ck_assert_uint_ge(proof().booted_usec, before);
	ck_assert_uint_eq(proof().executed_usec, 0);
	machine_has_executed(the_machine());
	ck_assert_uint_ge(proof().executed_usec, before);
	proof_find(m, "sha256:00", ACCELERATOR_KVM, &other);
	ck_assert_uint_eq(other.booted_usec, 0);
	delete ();
	fake.fail = FAKE_DISK;
	create(true);
	settle();
	ck_assert_ptr_null(the_machine());
	ck_assert_uint_ne(proof().executed_usec, 0);
	fake.fail = steps[_i];
	create(true);
	settle();
	ck_assert_int_eq(asked[NOTHING].last, '!');
	ck_assert_uint_eq(proof().booted_usec, 0);
	ck_assert_uint_eq(proof().executed_usec, 0);
}
END_TEST

/* Requests between any two iterations */

/* While it boots, stops or has lost its VMM: whatever is asked then is done or refused, and nothing
 * is left that should not be. */
START_TEST(asked_after_n_turns)
{
	const enum request what = (enum request)(BOOT + _i % 3);
	const int how = _i / 3 % 3, n = _i / 9;
	char answer;

	created();
	fake.unpacked = n % 2;
	if (how > 0)
		boot();
	if (how == 0)
		ck_assert_int_eq(ask(BOOT), '0');
	else if (how == 1)
		ck_assert_int_eq(ask(STOP), '0');
	else
		fake_vmm_die();
	turns((unsigned)n);
	answer = ask(what);
	settle();
	check_world();
	ck_assert(!waits());
	ck_assert(what == STOP || answer != 'w');
	if (what == BOOT) {
		must_be(MACHINE_STARTED);
		ck_assert_uint_eq(fake.vmms, 1);
	} else if (what == DELETE) {
		ck_assert_ptr_null(the_machine());
	}
}
END_TEST

START_TEST(deleted_before_the_boot_that_waits)
{
	started();
	ck_assert_int_eq(ask(STOP), '0');
	ck_assert_int_eq(ask(BOOT), '0');
	turns((unsigned)_i);
	ask_and_settle(DELETE);
	ck_assert_int_eq(asked[BOOT].last, '!');
	ck_assert_ptr_null(the_machine());
	check_world();
}
END_TEST

/* Sets the clock so that everything that is due within usec is due at once. */
static void let_expire(uint64_t usec)
{
	uint64_t end = now + usec;

	while (now < end && let_time_pass())
		;
}

/* The deadline for a guest to stop expires just when the machine is deleted. */
START_TEST(deleted_when_a_stop_is_late)
{
	started();
	fake.never_ends = true;
	request(STOP);
	ck_assert_uint_eq(fake.shutdowns, 1);
	if (_i % 2)
		let_expire(30 * USEC_PER_SEC);
	else
		ck_assert_int_eq(ask(DELETE), '0');
	turns((unsigned)_i / 2);
	if (_i % 2)
		ck_assert_int_eq(ask(DELETE), '0');
	else
		let_expire(30 * USEC_PER_SEC);
	settle();
	ck_assert_int_eq(asked[DELETE].last, '+');
	ck_assert_ptr_null(the_machine());
	check_world();
}
END_TEST

/* Without the rest of the deadline; in any other situation it does nothing. */
START_TEST(stopped_now)
{
	started();
	machine_stop_now(the_machine());
	settle();
	must_be(MACHINE_STARTED);
	fake.never_ends = true;
	request(STOP);
	must_be(MACHINE_STOPPING);
	machine_stop_now(the_machine());
	machine_stop_now(the_machine());
	turns(1000);
	must_be(MACHINE_STOPPED);
	ck_assert_int_eq(asked[STOP].last, '+');
	machine_stop_now(the_machine());
	check_world();
	fake.never_ends = false;
	boot();
	delete ();
}
END_TEST

/* What a guest does */

/* A guest that powers itself off is stopped, not failed, and the row has the reason. */
START_TEST(guest_switches_itself_off)
{
	struct msg_bye bye = { .reason = BYE_POWEROFF };

	started();
	ck_assert_int_ge(
		msg_send(&fake.out, fake.version, bye, FRAME_BYE, AGENT_CHANNEL_NONE, &bye), 0);
	fake_flush();
	settle();
	must_be(MACHINE_STOPPED);
	ck_assert_str_eq(machine_row(the_machine())->stop_reason, "guest");
	ck_assert_ptr_null(last_error());
	check_world();
	boot();
	delete ();
}
END_TEST

/* SHUTDOWN is lost with the connection and sent again. */
START_TEST(stop_survives_a_cut)
{
	started();
	fake.never_ends = true;
	request(STOP);
	ck_assert_uint_eq(fake.shutdowns, 1);
	fake.never_ends = false;
	fake_break();
	settle();
	ck_assert_int_eq(asked[STOP].last, '+');
	ck_assert_uint_ge(fake.shutdowns, 2);
	must_be(MACHINE_STOPPED);
}
END_TEST

/* The number of a channel goes on after those that the guest reports, and never wraps. */
START_TEST(claims_a_high_channel)
{
	static const uint32_t high[] = { UINT32_MAX / 2, UINT32_MAX };

	started();
	fake.held_channel = UINT32_MAX / 2 - 1;
	fake_break();
	settle();
	must_be(MACHINE_STARTED);
	ck_assert_uint_eq(machine_channel(the_machine()), UINT32_MAX / 2);
	fake.held_channel = high[_i];
	fake_break();
	settle();
	must_be(MACHINE_UNKNOWN);
	ck_assert_uint_eq(machine_channel(the_machine()), UINT32_MAX / 2 + 1);
	fake.held_channel = 0;
	ask_and_settle(BOOT);
	must_be(MACHINE_STARTED);
	delete ();
}
END_TEST

/* Waits for the n-th SETUP of this test. */
static void until_setup(unsigned n)
{
	for (int i = 0; i < 100 && fake.setups < n; i++) {
		(void)let_time_pass();
		turns(1000);
	}
	ck_assert_uint_eq(fake.setups, n);
}

/* The guest sends what ends the machine (BYE or an error), and then a success, in one write. */
static void send_the_end_and_a_success(bool bye)
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
START_TEST(failed_guest_reports_success)
{
	const bool bye = _i % 2, adopted = _i / 2;

	created();
	fake.stall = FAKE_SETUP;
	request(BOOT);
	ck_assert_uint_eq(fake.setups, 1);
	if (adopted) {
		next_daemon(LIVES, false);
		until_setup(2);
		must_be(MACHINE_ADOPTING);
	}
	send_the_end_and_a_success(bye);
	settle();
	must_be(MACHINE_FAILED);
	check_world();
	fake.stall = FAKE_NONE;
	boot();
	delete ();
}
END_TEST

/* A guest that is lost during SETUP gets the full deadline when it is asked again. */
START_TEST(lost_in_setup_and_asked_again)
{
	uint64_t begun;

	created();
	fake.stall = FAKE_SETUP;
	request(BOOT);
	next_daemon(LIVES, false);
	until_setup(2);
	begun = now;
	fake.refuse_dial = true;
	fake_break();
	for (int i = 0; i < 200 && machine_state(the_machine()) == MACHINE_ADOPTING; i++) {
		(void)let_time_pass();
		turns(1000);
	}
	must_be(MACHINE_UNKNOWN);
	ck_assert_uint_lt(now - begun, 60 * USEC_PER_SEC); /* the deadline that began before */
	fake.refuse_dial = false;
	request(BOOT);
	until_setup(3);
	begun = now;
	while (now - begun < 55 * USEC_PER_SEC && let_time_pass())
		turns(1000);
	ck_assert(machine_state(the_machine()) != MACHINE_FAILED);
	ck_assert(fake_vmm_runs());
	delete ();
}
END_TEST

/* Its disk */

/* A VMM that reports a full disk for too long in all, although there is space, is killed: each
 * pause holds back the commands' deadlines. */
START_TEST(claims_a_full_disk)
{
	uint64_t paused = 0;

	started();
	while (machine_state(the_machine()) == MACHINE_STARTED && paused < 60 * USEC_PER_SEC) {
		uint64_t since = now;

		ck_assert_ptr_null(machine_pause_cause(the_machine()));
		fake_vmm_pause();
		ck_assert_str_eq(machine_pause_cause(the_machine()), "disk_full");
		ck_assert_ptr_nonnull(strstr(last_error(), "disk_full"));
		while (machine_pause_cause(the_machine()) && let_time_pass())
			turns(1000);
		paused += now - since;
	}
	ck_assert_uint_ge(paused, 30 * USEC_PER_SEC);
	ck_assert_uint_lt(paused, 35 * USEC_PER_SEC);
	ck_assert_uint_gt(fake.resumes, 3);
	settle();
	must_be(MACHINE_FAILED);
	delete ();
}
END_TEST

static void write_to_disk(void)
{
	int fd = open(fake.disk_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	char bytes[16 * 1024];

	memset(bytes, 1, sizeof(bytes));
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	ck_assert_int_eq(fsync(fd), 0);
	(void)close(fd);
}

/* Lets so much time pass, in which the guest writes on or not. */
static void run_for(uint64_t usec, bool writes)
{
	uint64_t end = now + usec;

	while (now < end && let_time_pass()) {
		if (writes)
			write_to_disk();
		turns(1000);
	}
}

/* The host's free space is below the reserve: only a machine whose disk grows is paused, and it
 * resumes above the reserve. */
START_TEST(paused_at_the_reserve)
{
	created();
	write_to_disk();
	boot();
	m->config->disk_reserve_mib = INT64_C(1) << 30;
	run_for(10 * USEC_PER_SEC, false);
	ck_assert_uint_eq(fake.pauses, 0);
	write_to_disk();
	run_for(2 * USEC_PER_SEC, false);
	ck_assert_uint_eq(fake.pauses, 1);
	ck_assert_str_eq(machine_pause_reason(the_machine()), "disk_full");
	run_for(60 * USEC_PER_SEC, false);
	ck_assert_uint_eq(fake.resumes, 0);
	must_be(MACHINE_STARTED);
	m->config->disk_reserve_mib = 0;
	run_for(20 * USEC_PER_SEC, false);
	ck_assert_uint_eq(fake.resumes, 1);
	ck_assert_ptr_null(last_error());
	delete ();
}
END_TEST

/* A VMM that does not pause is asked every 5 s, and killed after 30 s: it would fill the disk. */
START_TEST(writes_on_at_the_reserve)
{
	uint64_t begun;

	created();
	write_to_disk();
	boot();
	fake.writes_on = true;
	m->config->disk_reserve_mib = INT64_C(1) << 30;
	while (fake.pauses == 0)
		run_for(1, true);
	begun = now;
	run_for(4 * USEC_PER_SEC, true);
	ck_assert_uint_eq(fake.pauses, 1);
	run_for(2 * USEC_PER_SEC, true);
	ck_assert_uint_eq(fake.pauses, 2);
	run_for(23 * USEC_PER_SEC, true);
	must_be(MACHINE_STARTED);
	ck_assert_uint_eq(fake.pauses, 6);
	while (machine_state(the_machine()) == MACHINE_STARTED)
		run_for(1, true);
	ck_assert_uint_lt(now - begun, 31 * USEC_PER_SEC);
	settle();
	must_be(MACHINE_FAILED);
	ck_assert_uint_eq(fake.pauses, 6);
	delete ();
}
END_TEST

/* The next daemon */

/* The host rebooted while a machine ran: the machine has failed, says so, and boots again. */
START_TEST(after_the_hosts_restart)
{
	started();
	next_daemon(HOST_RESTARTED, true);
	settle();
	must_be(MACHINE_FAILED);
	ck_assert_ptr_nonnull(strstr(last_error(), "restarted"));
	boot();
	delete ();
}
END_TEST

/* A machine whose VMM was started by a previous daemon and cannot be adopted. */
static void not_adopted(void)
{
	started();
	fake.fail = FAKE_VMM;
	next_daemon(LIVES, true);
	must_be(MACHINE_UNKNOWN);
	fake.fail = FAKE_NONE;
}

/* The VMM of a previous daemon was killed by its pid: no wait for it is left, which would end the
 * next one. */
START_TEST(ended_by_pid)
{
	not_adopted();
	ck_assert_int_eq(ask(STOP), '0');
	for (int i = 0; i < 1000 && waits(); i++) /* no time passes */
		(void)sd_event_run(event, 5 * USEC_PER_MSEC);
	must_be(MACHINE_STOPPED);
	fake.stall = FAKE_SETUP; /* a boot that takes longer than that wait */
	request(BOOT);
	run_for(40 * USEC_PER_SEC, false);
	must_be(MACHINE_STARTING);
	delete ();
}
END_TEST

/* The kernel does not let the killed VMM go before the deadline: the stop fails. Nothing that this
 * stop waited for counts in the next one. */
START_TEST(ended_again)
{
	not_adopted();
	ck_assert_int_eq(ptrace(PTRACE_SEIZE, survivor, NULL, PTRACE_O_TRACEEXIT), 0);
	ask_and_settle(STOP);
	ck_assert_int_eq(asked[STOP].last, '!');
	must_be(MACHINE_UNKNOWN);
	ck_assert_int_eq(waitpid(survivor, NULL, __WALL), survivor); /* stands at its exit */
	if (_i == 0)
		ck_assert_int_eq(ptrace(PTRACE_CONT, survivor, NULL, NULL), 0);
	ck_assert_int_eq(ask(STOP), '0');
	turns(1000);
	if (_i == 1)
		ck_assert_int_eq(ptrace(PTRACE_CONT, survivor, NULL, NULL), 0);
	settle();
	ck_assert_int_eq(asked[STOP].last, '+');
	boot();
	settle();
	must_be(MACHINE_STARTED);
	delete ();
}
END_TEST

static TCase *states_case(void)
{
	TCase *t = tcase_create("states");

	tcase_add_test(t, names);
	tcase_add_test(t, public_names);
	tcase_add_test(t, each_can_be_deleted);
	tcase_add_test(t, none_is_unreachable);
	tcase_add_test(t, forbidden);
	return t;
}

static TCase *stories_case(void)
{
	TCase *t = tcase_create("stories");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, life);
	tcase_add_test(t, joined);
	tcase_add_loop_test(t, boot_fails, 0, ARRAY_SIZE(failures));
	tcase_add_loop_test(t, start_fails, 0, ARRAY_SIZE(failures) + 1);
	tcase_add_test(t, packed_before_the_boot);
	tcase_add_test(t, suspect_is_checked_first);
	tcase_add_test(t, deleted_while_a_failed_boot_is_checked);
	tcase_add_test(t, vmm_dies_before_the_agent);
	tcase_add_loop_test(t, vmm_boots_no_kernel, 0, 3);
	tcase_add_loop_test(t, failed_start_takes_the_proof_back, 0, 2);
	tcase_add_loop_test(t, asked_after_n_turns, 0, 9 * 30);
	tcase_add_loop_test(t, deleted_before_the_boot_that_waits, 0, 8);
	tcase_add_loop_test(t, deleted_when_a_stop_is_late, 0, 8);
	tcase_add_test(t, guest_switches_itself_off);
	tcase_add_test(t, stop_survives_a_cut);
	tcase_add_loop_test(t, claims_a_high_channel, 0, 2);
	tcase_add_loop_test(t, failed_guest_reports_success, 0, 4);
	tcase_add_test(t, lost_in_setup_and_asked_again);
	tcase_add_test(t, stopped_now);
	tcase_add_test(t, claims_a_full_disk);
	tcase_add_test(t, paused_at_the_reserve);
	tcase_add_test(t, writes_on_at_the_reserve);
	tcase_add_test(t, after_the_hosts_restart);
	tcase_add_test(t, ended_by_pid);
	tcase_add_loop_test(t, ended_again, 0, 2);
	return t;
}

int main(void)
{
	Suite *s = suite_create("machine");
	SRunner *sr;
	int failed;

	suite_add_tcase(s, states_case());
	suite_add_tcase(s, stories_case());
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
