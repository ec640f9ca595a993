/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/command.c, environ.c and login.c's parser: a command line with and without a
 * shell, the precedence of variables, and output of a profile that must be ignored.
 */

#include "guest/command.h"
#include "guest/login.h"

#include <check.h>

static void check_words(const char *line, const char *const *want)
{
	char **argv = NULL;
	size_t i;

	ck_assert_int_eq(command_words(line, &argv), 0);
	for (i = 0; want[i]; i++)
		ck_assert_str_eq(argv[i], want[i]);
	ck_assert_ptr_null(argv[i]);
	command_free_argv(argv);
}

START_TEST(words)
{
	check_words("a", (const char *[]){ "a", NULL });
	check_words("  a\tb\nc  ", (const char *[]){ "a", "b", "c", NULL });
	check_words("sh -c 'a b; c $d'", (const char *[]){ "sh", "-c", "a b; c $d", NULL });
	check_words("a '' \"x y\" p\\ q it\\'s",
		(const char *[]){ "a", "", "x y", "p q", "it's", NULL });
}
END_TEST

START_TEST(words_need_a_shell)
{
	static const char *const lines[] = { "", "  ", "a | b", "a; b", "$x", "a > f", "`a`",
		"a 'open", "a \"open", "a \"$x\"", "a \\", "*", "X=1 a", "~/a", "{a,b}", "#x" };

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		char **argv = NULL;
		ck_assert_int_eq(command_words(lines[i], &argv), -ENOEXEC);
		ck_assert_ptr_null(argv);
	}
}
END_TEST

START_TEST(argv)
{
	char **v = NULL;

	ck_assert_int_eq(command_argv("/bin/sh", false, "a $b", "/p", &v), 0);
	ck_assert_str_eq(v[0], "/bin/sh");
	ck_assert_str_eq(v[1], "-c");
	ck_assert_str_eq(v[2], "a $b");
	command_free_argv(v);
	ck_assert_int_eq(command_argv("/bin/bash", true, "a", NULL, &v), 0);
	ck_assert_str_eq(v[1], "-lc");
	ck_assert_str_eq(v[2], "a");
	command_free_argv(v);
	ck_assert_int_eq(command_argv("/bin/bash", true, "a", "/it's", &v), 0);
	ck_assert_str_eq(v[2], "export PATH='/it'\\''s'; a");
	command_free_argv(v);
	ck_assert_int_eq(command_argv(NULL, true, "a | b", NULL, &v), -ENOEXEC);
}
END_TEST

START_TEST(line_that_looks_like_an_option)
{
	static const char *const lines[] = { "-x", "--login; echo a", "+e", "-", "--" };
	char **v = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		for (int login = 0; login <= 1; login++) {
			ck_assert_int_eq(command_argv("/bin/sh", login, lines[i], NULL, &v), 0);
			ck_assert_int_eq(v[2][0], ' ');
			ck_assert_str_eq(v[2] + 1, lines[i]);
			ck_assert_ptr_null(v[3]);
			command_free_argv(v);
		}
	}
	ck_assert_int_eq(command_argv("/bin/bash", true, "-x", "/p", &v), 0);
	ck_assert_str_eq(v[2], "export PATH='/p'; -x");
	command_free_argv(v);
	ck_assert_int_eq(command_argv(NULL, false, "-x 'a b'", NULL, &v), 0);
	ck_assert_str_eq(v[0], "-x");
	ck_assert_str_eq(v[1], "a b");
	command_free_argv(v);
}
END_TEST

START_TEST(environment)
{
	_cleanup_env_ struct env e = { 0 };

	ck_assert_ptr_null(env_get(&e, "A"));
	ck_assert_int_eq(env_set(&e, "A"), -EINVAL);
	ck_assert_int_eq(env_set(&e, "=x"), -EINVAL);
	ck_assert_int_eq(env_set(&e, "A=1"), 0);
	ck_assert_int_eq(env_set(&e, "AB=2"), 0);
	ck_assert_int_eq(env_set(&e, "A="), 0);
	ck_assert_uint_eq(e.n, 2);
	ck_assert_str_eq(env_get(&e, "A"), "");
	ck_assert_str_eq(env_get(&e, "AB"), "2");
	env_unset(&e, "A");
	env_unset(&e, "none");
	ck_assert_uint_eq(e.n, 1);
	ck_assert_str_eq(e.v[0], "AB=2");
	ck_assert_ptr_null(e.v[1]);
}
END_TEST

#define MARK "\0pyro-login-environment\0"

static int parse(const char *p, size_t n, struct env *ret)
{
	return login_parse((const uint8_t *)p, n, ret);
}
#define PARSE(literal, ret) parse(literal, sizeof(literal) - 1, ret)

START_TEST(login_output)
{
	struct env e = { 0 };

	ck_assert_int_eq(
		PARSE("Welcome!\n" MARK "A=1\0_=/bin/env\0SHLVL=1\0PWD=/\0NOEQ\0B=x\ny\0", &e), 0);
	ck_assert_uint_eq(e.n, 2);
	ck_assert_str_eq(env_get(&e, "A"), "1");
	ck_assert_str_eq(env_get(&e, "B"), "x\ny");
	env_done(&e);
	ck_assert_int_eq(PARSE(MARK, &e), 0);
	ck_assert_uint_eq(e.n, 0);
	ck_assert_int_eq(PARSE("", &e), -EBADMSG);
	ck_assert_int_eq(PARSE("A=1\0", &e), -EBADMSG);
	ck_assert_int_eq(PARSE(MARK "A=1\0B=cut", &e), -EBADMSG);
}
END_TEST

START_TEST(login_output_is_bounded)
{
	size_t n = 0, mark = sizeof(MARK) - 1;
	char *p = malloc(mark + 20 * 2000);
	struct env e = { 0 };

	memcpy(p, MARK, mark);
	n = mark;
	for (int i = 0; i < 2000; i++)
		n += (size_t)sprintf(p + n, "K%d=v", i) + 1;
	ck_assert_int_eq(parse(p, n, &e), -E2BIG);
	free(p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-command");
	TCase *tc = tcase_create("guest-command");

	tcase_add_test(tc, words);
	tcase_add_test(tc, words_need_a_shell);
	tcase_add_test(tc, argv);
	tcase_add_test(tc, line_that_looks_like_an_option);
	tcase_add_test(tc, environment);
	tcase_add_test(tc, login_output);
	tcase_add_test(tc, login_output_is_bounded);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
