/* SPDX-License-Identifier: MIT */
/*
 * Tests whether a cgroup is limited, on files as the kernel writes them.
 */
#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "daemon/cgroup.h"
#include "daemon/unit.h"

static const struct unit_limits limits = { 512 * MIB, 1250000, 81 };

static char root[] = "/tmp/test-cgroup-XXXXXX";

static void put(const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", root, name);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
}

static void begin(void)
{
	_cleanup_free_ char *unit = NULL;

	memcpy(root + sizeof(root) - 7, "XXXXXX", 6);
	ck_assert_ptr_nonnull(mkdtemp(root));
	unit = str_printf("%s/u", root);
	ck_assert_int_eq(mkdir(unit, 0700), 0);
	put("cgroup.controllers", "cpuset cpu io memory hugetlb pids\n");
	put("u/memory.max", "536870912\n");
	put("u/cpu.max", "125000 100000\n");
	put("u/pids.max", "81\n");
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int flag,
	_unused_ struct FTW *ftw)
{
	return remove(path);
}

static int ask(void)
{
	return cgroup_holds(root, "/u", &limits);
}

static void end(void)
{
	ck_assert_int_eq(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

START_TEST(holds)
{
	begin();
	ck_assert_int_eq(ask(), 1);
	put("u/cpu.max", "12500 10000\n"); /* another period */
	put("u/pids.max", "7\n");          /* a tighter limit of an admin */
	ck_assert_int_eq(ask(), 1);
	end();
}
END_TEST

START_TEST(does_not_hold)
{
	static const char *const bad[][2] = {
		{ "u/memory.max", "max\n" },
		{ "u/memory.max", "536870913\n" },
		{ "u/memory.max", "" },
		{ "u/memory.max", "-1\n" },
		{ "u/cpu.max", "max 100000\n" },
		{ "u/cpu.max", "126000 100000\n" },
		{ "u/cpu.max", "125000 0\n" },
		{ "u/cpu.max", "125000\n" },
		{ "u/cpu.max", "9223372036854775807 100000\n" },
		{ "u/pids.max", "82\n" },
		{ "u/pids.max", "max\n" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		begin();
		put(bad[i][0], bad[i][1]);
		ck_assert_msg(ask() < 0, "%s: %s", bad[i][0], bad[i][1]);
		end();
	}
	begin();
	ck_assert_int_eq(cgroup_holds(root, "/gone", &limits), -ENOENT);
	end();
}
END_TEST

/* No such controller, or no cgroup v2 at all. */
START_TEST(has_not_the_means)
{
	_cleanup_free_ char *path = NULL;

	begin();
	put("cgroup.controllers", "cpu pids\n");
	put("u/memory.max", "max\n");
	ck_assert_int_eq(ask(), 0);
	put("u/pids.max", "max\n"); /* an existing controller must still limit */
	ck_assert_int_eq(ask(), -ERANGE);
	path = str_printf("%s/cgroup.controllers", root);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(ask(), 0);
	end();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cgroup");
	TCase *tc = tcase_create("cgroup");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, holds);
	tcase_add_test(tc, does_not_hold);
	tcase_add_test(tc, has_not_the_means);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
