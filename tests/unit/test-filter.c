/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "daemon/filter.h"

enum { BROKEN = 100, FINE = 0 };

/* Each returns the result of the call under test: 0 or its errno. */
static int met(long r)
{
	return r < 0 ? errno : 0;
}

static void some_rules(struct filter *f)
{
	static const int unknown[] = { SYS_getppid, SYS_sched_yield };
	static const uint32_t commands[] = { F_GETFD, F_GETFL };

	filter_begin(f);
	filter_calls(f, unknown, ARRAY_SIZE(unknown), FILTER_FAIL(ENOSYS));
	filter_values(
		f, SYS_fcntl, 1, commands, ARRAY_SIZE(commands), FILTER_ALLOW, FILTER_FAIL(EPERM));
	filter_bits(f, SYS_mmap, 2, PROT_EXEC | PROT_WRITE, PROT_WRITE, FILTER_ALLOW,
		FILTER_FAIL(EACCES));
}

static int listed(void)
{
	return met(syscall(SYS_sched_yield));
}

static int unlisted(void)
{
	return met(syscall(SYS_getuid));
}

static int value_in(void)
{
	return met(fcntl(STDOUT_FILENO, F_GETFL));
}

static int value_out(void)
{
	return met(fcntl(STDOUT_FILENO, F_DUPFD, 3));
}

static int map(int protection)
{
	return mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
		       ? errno
		       : 0;
}

static int bits_equal(void)
{
	return map(PROT_READ | PROT_WRITE);
}

static int bits_more(void)
{
	return map(PROT_WRITE | PROT_EXEC);
}

static int bits_fewer(void)
{
	return map(PROT_READ);
}

static int x32(void)
{
	return met(syscall(0x40000000 | SYS_getpid));
}

static int i386(void)
{
	long r = 20; /* getpid */

	__asm__ volatile("int $0x80" : "+a"(r) : : "memory");
	return met(r);
}

static const struct {
	const char *name;
	int (*call)(void);
	int want; /* an errno; a signal below 0 */
} cases[] = {
	{ "listed", listed, ENOSYS },
	{ "unlisted", unlisted, 0 },
	{ "a value that is listed", value_in, 0 },
	{ "a value that is not", value_out, EPERM },
	{ "bits as wanted", bits_equal, 0 },
	{ "one bit more", bits_more, EACCES },
	{ "one bit fewer", bits_fewer, EACCES },
	{ "x32", x32, -SIGSYS },
	{ "i386", i386, -SIGSYS },
};

START_TEST(rules)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct filter f;

		some_rules(&f);
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
			filter_install(&f, FILTER_ALLOW) < 0)
			_exit(BROKEN);
		_exit(cases[_i].call());
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(cases[_i].want < 0
			      ? WIFSIGNALED(status) && WTERMSIG(status) == -cases[_i].want
			      : WIFEXITED(status) && WEXITSTATUS(status) == cases[_i].want,
		"%s: %#x", cases[_i].name, (unsigned)status);
}
END_TEST

/* A program that does not fit is refused, not cut. */
START_TEST(too_long)
{
	int calls[FILTER_MAX];
	uint32_t values[FILTER_MAX] = { 0 };
	struct filter f;

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		calls[i] = SYS_getuid;
	filter_begin(&f);
	filter_calls(&f, calls, ARRAY_SIZE(calls), FILTER_ALLOW);
	ck_assert_int_eq(filter_install(&f, FILTER_ALLOW), -E2BIG);
	filter_begin(&f); /* a jump spans at most 255 instructions */
	filter_values(&f, SYS_fcntl, 1, values, 127, FILTER_ALLOW, FILTER_KILL);
	ck_assert_int_eq(filter_install(&f, FILTER_ALLOW), -E2BIG);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("filter");
	TCase *tc = tcase_create("filter");
	SRunner *sr;
	int failed;

	tcase_add_loop_test(tc, rules, 0, (int)ARRAY_SIZE(cases));
	tcase_add_test(tc, too_long);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
