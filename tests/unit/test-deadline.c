/* SPDX-License-Identifier: MIT */
/* Deadlines that tests set: the defaults of the table, named ones, and refusal of unknown names. */

#include "proto/deadline.h"

#include <check.h>
#include <signal.h>

/* Each case runs in a process of its own. */
static void set(const char *value)
{
	ck_assert_int_eq(setenv("PYRO_DEADLINES", value, 1), 0);
}

START_TEST(test_table)
{
	ck_assert_int_eq(unsetenv("PYRO_DEADLINES"), 0);
	ck_assert_uint_eq(deadline_usec(DEADLINE_BOOT), 90 * USEC_PER_SEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_GRACE), 10 * USEC_PER_SEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_STALL), 30 * USEC_PER_SEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_EXPIRED), 3600 * USEC_PER_SEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_REDIAL), 10 * USEC_PER_SEC);
	set("grace=1");
	ck_assert_uint_eq(deadline_usec(DEADLINE_GRACE), 10 * USEC_PER_SEC);
}
END_TEST

START_TEST(test_set)
{
	set("boot=1500,vmm=7");
	ck_assert_uint_eq(deadline_usec(DEADLINE_BOOT), 1500 * USEC_PER_MSEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_VMM_ANSWER), 7 * USEC_PER_MSEC);
	ck_assert_uint_eq(deadline_usec(DEADLINE_VMM_END), 30 * USEC_PER_SEC);
}
END_TEST

static const char *const wrong[] = { "boots=1", "boo=1", "boot", "boot=", "boot=0", "boot=-1",
	"boot=1s", "=1", "grace=1,boots=1", ",", "boot=4294967296", "boot=1 grace=1" };

START_TEST(test_wrong)
{
	set(wrong[_i]);
	(void)deadline_usec(DEADLINE_STALL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("deadline");
	TCase *t = tcase_create("deadline");
	tcase_add_test(t, test_table);
	tcase_add_test(t, test_set);
	tcase_add_loop_test_raise_signal(t, test_wrong, SIGABRT, 0, (int)ARRAY_SIZE(wrong));
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed > 0;
}
