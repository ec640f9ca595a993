/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/user.c: names, numbers and groups from passwd and group files, including malformed
 * ones, since the files belong to the guest.
 */

#include "guest/user.h"

#include <check.h>

static const char passwd[] = "root:x:0:0:root:/root:/bin/bash\n"
			     "broken line\n"
			     "bad:x:12x:1::/:/bin/sh\n"
			     "huge:x:4294967295:1::/:/bin/sh\n"
			     "short:x:7:7\n"
			     "::::::\n"
			     "dev:x:1000:1000:,,,:/home/dev:\n"
			     "42:x:77:77::/n:/bin/sh\n"
			     "last:x:9:9::/last:/bin/zsh"; /* no newline */
static const char group[] = "root:x:0:\n"
			    "sudo:x:27:other,dev\n"
			    "bad:x:y:dev\n"
			    "docker:x:999:dev,last\n"
			    "devs:x:5:adev,deva\n"
			    "nomembers:x:6";

static int find(const char *spec, struct user *u, char **what)
{
	return user_find_in(spec, passwd, group, u, what);
}

START_TEST(by_name)
{
	_cleanup_free_ char *what = NULL;
	struct user u = { 0 };

	ck_assert_int_eq(find("dev", &u, &what), 0);
	ck_assert_uint_eq(u.uid, 1000);
	ck_assert_uint_eq(u.gid, 1000);
	ck_assert_str_eq(u.home, "/home/dev");
	ck_assert_str_eq(u.shell, "/bin/sh");
	ck_assert_uint_eq(u.n_groups, 2);
	ck_assert_uint_eq(u.groups[0], 27);
	ck_assert_uint_eq(u.groups[1], 999);
	user_done(&u);
	ck_assert_int_eq(find("last", &u, &what), 0);
	ck_assert_str_eq(u.shell, "/bin/zsh");
	user_done(&u);
}
END_TEST

START_TEST(by_number)
{
	_cleanup_free_ char *what = NULL;
	struct user u = { 0 };

	ck_assert_int_eq(find("1000", &u, &what), 0);
	ck_assert_str_eq(u.name, "dev");
	user_done(&u);
	ck_assert_int_eq(find("42", &u, &what), 0); /* a name that is a number */
	ck_assert_uint_eq(u.uid, 77);
	user_done(&u);
	ck_assert_int_eq(find("12345", &u, &what), 0);
	ck_assert_uint_eq(u.uid, 12345);
	ck_assert_uint_eq(u.gid, 0);
	ck_assert_str_eq(u.home, "/");
	user_done(&u);
}
END_TEST

START_TEST(with_group)
{
	_cleanup_free_ char *what = NULL;
	struct user u = { 0 };

	ck_assert_int_eq(find("dev:docker", &u, &what), 0);
	ck_assert_uint_eq(u.gid, 999);
	user_done(&u);
	ck_assert_int_eq(find("dev:4711", &u, &what), 0);
	ck_assert_uint_eq(u.gid, 4711);
	user_done(&u);
	ck_assert_int_eq(find("0:nomembers", &u, &what), 0);
	ck_assert_uint_eq(u.gid, 6);
	user_done(&u);
	ck_assert_int_eq(find("dev:none", &u, &what), -ENOENT);
	ck_assert_ptr_nonnull(strstr(what, "none"));
}
END_TEST

START_TEST(unknown)
{
	static const char *const names[] = { "nobody-here", "bad", "huge", "short", "-1",
		"4294967295", "99999999999999999999", "0x0", " 0" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *what = NULL;
		struct user u = { 0 };
		ck_assert_int_eq(find(names[i], &u, &what), -ENOENT);
		ck_assert_ptr_nonnull(strstr(what, names[i]));
		ck_assert_ptr_null(u.name);
	}
}
END_TEST

START_TEST(no_files)
{
	_cleanup_free_ char *what = NULL;
	struct user u = { 0 };

	ck_assert_int_eq(user_find_in("0", "", "", &u, &what), 0);
	ck_assert_str_eq(u.name, "0");
	user_done(&u);
	ck_assert_int_eq(user_find_in("root", "", "", &u, &what), 0);
	ck_assert_str_eq(u.name, "root");
	ck_assert_str_eq(u.home, "/");
	ck_assert_uint_eq(u.uid + u.gid, 0);
	user_done(&u);
	ck_assert_int_eq(user_find_in("nobody", "", "", &u, &what), -ENOENT);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-user");
	TCase *tc = tcase_create("guest-user");

	tcase_add_test(tc, by_name);
	tcase_add_test(tc, by_number);
	tcase_add_test(tc, with_group);
	tcase_add_test(tc, unknown);
	tcase_add_test(tc, no_files);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
