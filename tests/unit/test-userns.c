/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>

#include "daemon/userns.h"

enum { PLAIN_UID = 61005 };

/* Runs the tests as a plain user, the one that needs a user namespace. */
static void setup(void)
{
	if (geteuid() != 0)
		return;
	ck_assert_int_eq(setgroups(0, NULL), 0);
	ck_assert_int_eq(setresgid(PLAIN_UID, PLAIN_UID, PLAIN_UID), 0);
	ck_assert_int_eq(setresuid(PLAIN_UID, PLAIN_UID, PLAIN_UID), 0);
	ck_assert_int_eq(prctl(PR_SET_DUMPABLE, 1), 0);
}

START_TEST(it_stays_who_it_is)
{
	const uid_t uid = geteuid();
	const gid_t gid = getegid();
	_cleanup_free_ char *map = NULL;
	char want[64];

	ck_assert_int_eq(userns_enter(), 0);
	ck_assert_uint_eq(geteuid(), uid);
	ck_assert_uint_eq(getegid(), gid);
	ck_assert_int_ge(read_file_at(AT_FDCWD, "/proc/self/uid_map", 256, &map, NULL), 0);
	(void)snprintf(want, sizeof(want), "%10u %10u %10u\n", uid, uid, 1u);
	ck_assert_str_eq(map, want);
}
END_TEST

START_TEST(it_may_make_others)
{
	ck_assert_int_lt(unshare(CLONE_NEWUTS), 0);
	ck_assert_int_eq(userns_enter(), 0);
	ck_assert_int_eq(unshare(CLONE_NEWUTS), 0);
}
END_TEST

START_TEST(it_takes_no_other_id)
{
	ck_assert_int_eq(userns_enter(), 0);
	ck_assert_int_lt(setresuid(0, 0, 0), 0);
	ck_assert_int_lt(setgroups(0, NULL), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("userns");
	TCase *tc = tcase_create("userns");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, it_stays_who_it_is);
	tcase_add_test(tc, it_may_make_others);
	tcase_add_test(tc, it_takes_no_other_id);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
