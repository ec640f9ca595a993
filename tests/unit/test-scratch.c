/* SPDX-License-Identifier: MIT */
/*
 * The folders of pyro-import's tools: accessible, locked while the run lives, deleted by it or by
 * the next run. Run by `meson test`; each case has a TMPDIR of its own.
 */
#include "daemon/import/scratch.h"
#include <check.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char base[64];

static void setup(void)
{
	snprintf(base, sizeof(base), "/tmp/pyro-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(base));
	ck_assert_int_eq(setenv("TMPDIR", base, 1), 0);
}

/* Fails when a case left files. */
static void teardown(void)
{
	ck_assert_int_eq(rmdir(base), 0);
}

static bool there(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static void make(struct scratch *s)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_eq(scratch_make(s, &err), 0);
}

START_TEST(reachable_and_removed)
{
	struct scratch s;
	struct stat st;
	make(&s);
	ck_assert_int_eq(strncmp(s.path, base, strlen(base)), 0);
	ck_assert_int_eq(stat(s.path, &st), 0);
	/* The group's bits are the mask of an access control list, if there is one. */
	ck_assert_uint_eq(st.st_mode & 07767, 0700);
	_cleanup_free_ char *below = str_printf("%s/folder", s.path);
	ck_assert_int_eq(mkdir(below, 0700), 0);
	scratch_done(&s);
	ck_assert(!there(below));
	scratch_done(&s); /* a second call does nothing */
}
END_TEST

/* Tries to enter as uid, in a separate process. */
static bool can_enter(const char *path, uid_t uid)
{
	int status;
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		_exit(setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 ||
					setresuid(uid, uid, uid) < 0
				? 2
				: chdir(path) < 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status) == 0;
}

/* The tree's folders and the image are writable for all users, so the folder around them must keep
 * others out. */
START_TEST(nobody_else_gets_in)
{
	const struct passwd *apt = getpwnam("_apt");
	struct scratch s;

	if (geteuid() != 0)
		return;
	ck_assert_int_eq(chmod(base, 0755), 0);
	make(&s);
	ck_assert(!can_enter(s.path, 61001));
	ck_assert(!can_enter(s.path, 100000));
	ck_assert(!apt || can_enter(s.path, apt->pw_uid));
	scratch_done(&s);
}
END_TEST

START_TEST(the_living_stay_the_dead_go)
{
	struct scratch living, dead, next;
	make(&living);
	make(&dead);
	ck_assert(there(living.path));
	ck_assert_int_eq(close(dead.lock_fd), 0); /* as the exit of its process does */
	make(&next);
	ck_assert(there(living.path));
	ck_assert(!there(dead.path));
	free(dead.path);
	scratch_done(&living);
	scratch_done(&next);
}
END_TEST

START_TEST(what_is_not_ours_is_not_touched)
{
	struct scratch s;
	_cleanup_free_ char *other =
		str_printf("%s/pyro-import-%u-other", base, (unsigned)geteuid() + 1);
	_cleanup_free_ char *link = str_printf("%s/pyro-import-%u-link", base, (unsigned)geteuid());
	_cleanup_free_ char *file = str_printf("%s/pyro-import-%u-file", base, (unsigned)geteuid());
	ck_assert_int_eq(mkdir(other, 0700), 0);
	ck_assert_int_eq(symlink(other, link), 0);
	ck_assert_int_eq(close(open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
	make(&s);
	ck_assert(there(other) && there(link) && there(file));
	scratch_done(&s);
	ck_assert_int_eq(rmdir(other), 0);
	ck_assert_int_eq(unlink(link), 0);
	ck_assert_int_eq(unlink(file), 0);
}
END_TEST

START_TEST(no_place)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct scratch s;
	_cleanup_free_ char *nowhere = str_printf("%s/nowhere", base);
	ck_assert_int_eq(setenv("TMPDIR", nowhere, 1), 0);
	ck_assert_int_lt(scratch_make(&s, &err), 0);
	ck_assert_int_eq(err.code, ERROR_PULL_FAILED);
	ck_assert_ptr_nonnull(strstr(err.fix, "TMPDIR"));
	scratch_done(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("scratch");
	TCase *tc = tcase_create("scratch");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, reachable_and_removed);
	tcase_add_test(tc, nobody_else_gets_in);
	tcase_add_test(tc, the_living_stay_the_dead_go);
	tcase_add_test(tc, what_is_not_ours_is_not_touched);
	tcase_add_test(tc, no_place);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
