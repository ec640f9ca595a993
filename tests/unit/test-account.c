/* SPDX-License-Identifier: MIT */
/* Subordinate uids, and the account whose limits count for each. */

#include "daemon/account.h"

#include <check.h>
#include <fcntl.h>

static char dir[] = "/tmp/pyro-test-account-XXXXXX";
static char subuid[64], passwd[64];
static struct accounts *a;

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
	(void)close(fd);
}

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(subuid, sizeof(subuid), "%s/subuid", dir);
	(void)snprintf(passwd, sizeof(passwd), "%s/passwd", dir);
	put(passwd, "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
		    "annabel:x:1001:1001::/:/bin/sh\nbad:x\n");
	put(subuid,
		"ann:100000:65536\nannabel:165536:65536\n1002:300000:10\nnobody-we-know:400000:10\n"
		"no line\nann:x:1\nann:500000:1\n150000:600000:5\n");
	ck_assert_int_eq(accounts_new(subuid, passwd, &a), 0);
}

static void teardown(void)
{
	a = accounts_free(a);
	(void)unlink(subuid);
	(void)unlink(passwd);
	ck_assert_int_eq(rmdir(dir), 0);
}

static uid_t find(uid_t uid)
{
	accounts_refresh(a);
	return accounts_find(a, uid);
}

START_TEST(owners)
{
	static const struct {
		uid_t uid, account;
	} rows[] = {
		{ 0, 0 }, { 1000, 1000 }, { 99999, 99999 }, { 100000, 1000 }, { 165535, 1000 },
		{ 165536, 1001 }, { 231071, 1001 }, { 231072, 231072 }, { 300009, 1002 },
		{ 300010, 300010 },
		{ 400003, 400000 },                 /* unknown owner: the range is one account */
		{ 500000, 1000 }, { 600004, 1000 }, /* ranges of ann's uid */
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_uint_eq(find(rows[i].uid), rows[i].account);
	ck_assert_uint_eq(accounts_find(NULL, 100000), 100000);
}
END_TEST

START_TEST(files_that_change)
{
	ck_assert_uint_eq(find(700000), 700000);
	put(subuid, "annabel:700000:10\n");
	ck_assert_uint_eq(find(700000), 1001);
	ck_assert_uint_eq(find(100000), 100000);
	ck_assert_int_eq(unlink(subuid), 0);
	ck_assert_uint_eq(find(700000), 700000);
	put(subuid, "bob:700000:10\n");
	ck_assert_uint_eq(find(700001), 700000);
	put(passwd, "bob:x:1003:1003::/:/bin/sh\n");
	ck_assert_uint_eq(find(700001), 1003);
}
END_TEST

START_TEST(ranges_that_overlap_or_point_at_each_other)
{
	put(subuid, "ann:1000000:1000\nannabel:1000500:10\n2000000:3000000:5\n3000000:2000000:5\n");
	ck_assert_uint_eq(find(1000505), 1001);
	ck_assert_uint_eq(find(1000600), 1000);
	(void)find(2000001); /* ends */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("account");
	TCase *t = tcase_create("account");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, owners);
	tcase_add_test(t, files_that_change);
	tcase_add_test(t, ranges_that_overlap_or_point_at_each_other);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
