/* SPDX-License-Identifier: MIT */
/*
 * The table of a machine's states: complete, named, and without a state that a machine cannot
 * leave. Run by `meson test machine`; test-run.c tests the engine that uses it.
 */

#include "daemon/machine/machine-internal.h"

#include <check.h>

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
	/* reached from all states, when a new daemon cannot tell the state */
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

int main(void)
{
	Suite *s = suite_create("machine");
	TCase *t = tcase_create("states");
	SRunner *sr;
	int failed;

	tcase_add_test(t, names);
	tcase_add_test(t, public_names);
	tcase_add_test(t, each_can_be_deleted);
	tcase_add_test(t, none_is_unreachable);
	tcase_add_test(t, forbidden);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
