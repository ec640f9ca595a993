/* SPDX-License-Identifier: MIT */
/*
 * A machine through its public calls alone (machine-frame.h): every combination of situation,
 * request and event against a table of results, then a random walk against invariants. Run by
 * `meson test machine-walk`; `PYRO_TEST_WALK=SEED,STEPS` takes another walk, and
 * `test-machine-walk table` prints the present table.
 */

#include "tests/unit/machine-frame.h"

#include <assert.h>
#include <check.h>

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
	case HOST_RESTARTS: next_daemon(HOST_RESTARTED, false); break;
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
			next_daemon((enum fate)(draw() % FATE_MAX), draw() % 2);
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
