/* SPDX-License-Identifier: MIT */
/*
 * Quoting, sizes, durations and escaping of the command line (client/text.c). A real shell checks
 * the quoting: it must split the line into the original words.
 */
#include "client/text.h"

#include <check.h>
#include <sys/wait.h>

START_TEST(test_join)
{
	static const struct {
		const char *words[4], *line;
	} cases[] = {
		{ { "git --version" }, "git --version" },
		{ { "" }, "" },
		{ { "git", "--version" }, "git --version" },
		{ { "sh", "-c", "a b" }, "sh -c 'a b'" },
		{ { "a", "" }, "a ''" },
		{ { "it's", "x" }, "'it'\\''s' x" },
		{ { "A=1", "x" }, "'A=1' x" },
		{ { "time", "x" }, "'time' x" },
		{ { "a", "~", "{b,c}", "*" }, "a '~' '{b,c}' '*'" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *line = NULL;
		size_t n = 0;

		while (n < 4 && cases[i].words[n])
			n++;
		ck_assert_int_eq(shell_join((char *const *)cases[i].words, n, &line), 0);
		ck_assert_str_eq(line, cases[i].line);
	}
}
END_TEST

/* Returns the words of the line as split by the shell, NUL-terminated. */
static size_t shell_words(const char *line, char *ret, size_t size)
{
	int fds[2], status;
	size_t n = 0;
	ssize_t k;
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		_cleanup_free_ char *script = str_printf("printf '%%s\\0' %s", line);

		if (script && dup2(fds[1], STDOUT_FILENO) >= 0)
			execl("/bin/sh", "sh", "-c", script, NULL);
		_exit(127);
	}
	(void)close(fds[1]);
	while ((k = read(fds[0], ret + n, size - n)) > 0)
		n += (size_t)k;
	(void)close(fds[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	return n;
}

START_TEST(test_join_survives_the_shell)
{
	char all[256], back[1024];
	char *words[] = { all, (char[]){ "$(exit 1) `x` \"y\"" }, (char[]){ "\\" },
		(char[]){ "\n" }, (char[]){ "!" }, (char[]){ "" }, (char[]){ "'" } };
	_cleanup_free_ char *line = NULL;
	size_t n, at = 0;

	for (int c = 1; c < 256; c++)
		all[c - 1] = (char)c;
	all[255] = '\0';
	ck_assert_int_eq(shell_join(words, ARRAY_SIZE(words), &line), 0);
	n = shell_words(line, back, sizeof(back));
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		ck_assert_uint_le(at + strlen(words[i]) + 1, n);
		ck_assert_str_eq(back + at, words[i]);
		at += strlen(words[i]) + 1;
	}
	ck_assert_uint_eq(at, n);
}
END_TEST

START_TEST(test_size)
{
	static const struct {
		const char *text;
		int r;
		uint64_t mib;
	} cases[] = {
		{ "0", 0, 0 },
		{ "512", 0, 512 },
		{ "512M", 0, 512 },
		{ "512MiB", 0, 512 },
		{ "2G", 0, 2048 },
		{ "2g", 0, 2048 },
		{ "2gb", 0, 2048 },
		{ "1T", 0, 1048576 },
		{ "2048k", 0, 2 },
		{ "1025k", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "G", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },
		{ "1.5G", -EINVAL, 0 },
		{ "1Gx", -EINVAL, 0 },
		{ "1T1", -EINVAL, 0 },
		{ "1ib", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551615G", -ERANGE, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t mib = 0;

		ck_assert_msg(
			parse_size_mib(cases[i].text, &mib) == cases[i].r, "%s", cases[i].text);
		ck_assert_msg(mib == cases[i].mib, "%s", cases[i].text);
	}
}
END_TEST

START_TEST(test_duration)
{
	static const struct {
		const char *text;
		int r;
		uint64_t seconds;
	} cases[] = {
		{ "0", 0, 0 },
		{ "90", 0, 90 },
		{ "90s", 0, 90 },
		{ "5m", 0, 300 },
		{ "1h30m", 0, 5400 },
		{ "2d", 0, 172800 },
		{ "1d1h1m1s", 0, 90061 },
		{ "", -EINVAL, 0 },
		{ "m", -EINVAL, 0 },
		{ "5x", -EINVAL, 0 },
		{ "5ms", -EINVAL, 0 },
		{ "1m1h", -EINVAL, 0 },
		{ "1m1m", -EINVAL, 0 },
		{ "1h30", -EINVAL, 0 },
		{ "-5", -EINVAL, 0 },
		{ "1.5h", -EINVAL, 0 },
		{ "99999999999999999999", -ERANGE, 0 },
		{ "999999999999999999d", -ERANGE, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t seconds = 0;

		ck_assert_msg(parse_duration_seconds(cases[i].text, &seconds) == cases[i].r, "%s",
			cases[i].text);
		ck_assert_msg(seconds == cases[i].seconds, "%s", cases[i].text);
	}
}
END_TEST

START_TEST(test_i64)
{
	int64_t v = 7;

	ck_assert_int_eq(parse_i64("-12", &v), 0);
	ck_assert_int_eq(v, -12);
	ck_assert_int_eq(parse_i64("9223372036854775807", &v), 0);
	ck_assert_int_eq(v, INT64_MAX);
	ck_assert_int_eq(parse_i64("9223372036854775808", &v), -ERANGE);
	ck_assert_int_eq(parse_i64("", &v), -EINVAL);
	ck_assert_int_eq(parse_i64("-", &v), -EINVAL);
	ck_assert_int_eq(parse_i64("1x", &v), -EINVAL);
	ck_assert_int_eq(v, INT64_MAX);
}
END_TEST

START_TEST(test_utf8)
{
	static const char *const good[] = { "", "a", "é", "€", "😀", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80",
		"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3", "\xe2\x82",
		"a\xf0\x9f\x98" };

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		ck_assert_msg(text_is_utf8(good[i]), "good %zu", i);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(!text_is_utf8(bad[i]), "bad %zu", i);
}
END_TEST

START_TEST(test_escape)
{
	static const struct {
		const char *text, *indent, *safe;
	} cases[] = {
		{ "plain é 😀", NULL, "plain é 😀" },
		{ "\x1b[31m", NULL, "\\x1b[31m" },
		{ "a\nb", NULL, "a\\nb" },
		{ "a\nb", "  ", "a\n  b" },
		{ "\r\t\x7f\a", NULL, "\\x0d\\x09\\x7f\\x07" },
		{ "\xc2\x9b", NULL, "\\u{009b}" },
		{ "\xe2\x80\xae", NULL, "\\u{202e}" },
		{ "\xff\xc3", NULL, "\\xff\\xc3" },
		{ "", NULL, "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *safe = text_escape(cases[i].text, cases[i].indent);

		ck_assert_ptr_nonnull(safe);
		ck_assert_str_eq(safe, cases[i].safe);
	}
}
END_TEST

START_TEST(test_escape_json)
{
	_cleanup_free_ char *safe =
		text_escape_json("{\n  \"a\": \"\xc2\x9b\xe2\x80\xae\x7f\xef\xbb\xbf"
				 "é😀\\n\"\n}");

	ck_assert_str_eq(safe, "{\n  \"a\": \"\\u009b\\u202e\\u007f\\ufeffé😀\\n\"\n}");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli-text");
	TCase *t = tcase_create("all");
	SRunner *sr;

	suite_add_tcase(s, t);
	tcase_add_test(t, test_join);
	tcase_add_test(t, test_join_survives_the_shell);
	tcase_add_test(t, test_size);
	tcase_add_test(t, test_duration);
	tcase_add_test(t, test_i64);
	tcase_add_test(t, test_utf8);
	tcase_add_test(t, test_escape);
	tcase_add_test(t, test_escape_json);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	srunner_free(sr);
	return 0;
}
