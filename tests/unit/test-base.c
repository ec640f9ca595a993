/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/base.c and proto/error.c: limits of numbers, files up to and beyond their limit,
 * the first error and later ones.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

START_TEST(numbers)
{
	uint64_t v = 7;

	ck_assert_int_eq(parse_u64("0", 0, 10, &v), 0);
	ck_assert_uint_eq(v, 0);
	ck_assert_int_eq(parse_u64("18446744073709551615", 0, UINT64_MAX, &v), 0);
	ck_assert_uint_eq(v, UINT64_MAX);
	ck_assert_int_eq(parse_u64("18446744073709551616", 0, UINT64_MAX, &v), -ERANGE);
	ck_assert_int_eq(parse_u64("99999999999999999999999", 0, UINT64_MAX, &v), -ERANGE);
	ck_assert_int_eq(parse_u64("4", 5, 6, &v), -ERANGE);
	ck_assert_int_eq(parse_u64("7", 5, 6, &v), -ERANGE);
	ck_assert_uint_eq(v, UINT64_MAX); /* written only on success */
	static const char *const bad[] = { "", " 1", "1 ", "+1", "-1", "0x1", "1e3", "1\n", "١" };
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_int_eq(parse_u64(bad[i], 0, UINT64_MAX, &v), -EINVAL);
}
END_TEST

START_TEST(take)
{
	int fd = 5;
	char *p = strdup("x");

	_cleanup_free_ char *q = TAKE_PTR(p);
	ck_assert_ptr_null(p);
	ck_assert_str_eq(q, "x");
	ck_assert_int_eq(TAKE_FD(fd), 5);
	ck_assert_int_eq(fd, -EBADF);
	errno = ENOSPC;
	ck_assert_int_eq(fd_close(123456), -EBADF);
	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

START_TEST(files)
{
	char dir[] = "/tmp/pyro-test-base-XXXXXX";
	_cleanup_free_ char *text = NULL;
	size_t n = 0;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	_cleanup_close_ int d = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int f = openat(d, "f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	static char big[10000];
	memset(big, 'a', sizeof(big));
	ck_assert_int_eq(write_all(f, big, sizeof(big)), 0);
	ck_assert_int_eq(read_file_at(d, "f", sizeof(big) - 1, &text, &n), -EFBIG);
	ck_assert_ptr_null(text);
	ck_assert_int_eq(read_file_at(d, "f", sizeof(big), &text, &n), 0);
	ck_assert_uint_eq(n, sizeof(big));
	ck_assert_uint_eq(strlen(text), sizeof(big));
	ck_assert_int_eq(ftruncate(f, 0), 0);
	_cleanup_free_ char *empty = NULL;
	ck_assert_int_eq(read_file_at(d, "f", 0, &empty, &n), 0);
	ck_assert_str_eq(empty, "");
	ck_assert_int_eq(read_file_at(d, "none", 9, &empty, &n), -ENOENT);
	ck_assert_int_eq(read_file_at(d, ".", 9, &empty, &n), -EISDIR);
	ck_assert_int_eq(mkfifoat(d, "fifo", 0600), 0);
	_cleanup_free_ char *fifo = NULL;
	ck_assert_int_eq(read_file_at(d, "fifo", 9, &fifo, &n), 0); /* no writer: returns at once */
	_cleanup_free_ char *proc = NULL;
	ck_assert_int_eq(read_file_at(AT_FDCWD, "/proc/self/status", 65536, &proc, &n), 0);
	ck_assert_uint_gt(n, 100); /* a file that reports size 0 */
	ck_assert_int_eq(write_all(d, "x", 1), -EBADF);
	(void)unlinkat(d, "f", 0);
	(void)unlinkat(d, "fifo", 0);
	(void)rmdir(dir);
}
END_TEST

START_TEST(clocks_and_random)
{
	uint8_t a[64] = { 0 }, b[64] = { 0 };
	uint64_t t = now_usec();

	ck_assert_uint_ge(now_usec(), t);
	ck_assert_uint_gt(wall_usec(), UINT64_C(1600000000) * USEC_PER_SEC);
	random_bytes(a, sizeof(a));
	random_bytes(b, sizeof(b));
	ck_assert_mem_ne(a, b, sizeof(a));
	random_bytes(a, 0);
}
END_TEST

START_TEST(shell_words)
{
	static const char *const cases[][2] = {
		{ "/run/pyro/pyrod.sock", "/run/pyro/pyrod.sock" },
		{ "", "''" },
		{ "a b", "'a b'" },
		{ "it's", "'it'\\''s'" },
		{ "$(x)", "'$(x)'" },
		{ "'", "''\\'''" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *quoted = shell_quote(cases[i][0]);
		ck_assert_str_eq(quoted, cases[i][1]);
	}
}
END_TEST

START_TEST(first_error_stays)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_eq(
		error_set_texts(&err, ERROR_NO_SPACE, "disk", NULL, "cannot write %s", "x"),
		-ENOSPC);
	ck_assert_int_eq(error_set(&err, ERROR_USAGE, NULL, "y", "other"), -ENOSPC);
	ck_assert_int_eq(err.code, ERROR_NO_SPACE);
	ck_assert_str_eq(err.message, "cannot write x");
	ck_assert_int_eq(error_prefix(&err, "pull %d", 3), -ENOSPC);
	ck_assert_str_eq(err.message, "pull 3: cannot write x");
	error_default_fix(&err, "free some");
	error_default_fix(&err, "other");
	ck_assert_str_eq(err.fix, "free some");
	ck_assert_int_eq(error_set(NULL, ERROR_USAGE, NULL, "z", "x"), -EINVAL);
	ck_assert_int_eq(error_prefix(NULL, "x"), -EIO);
}
END_TEST

START_TEST(copy_and_move)
{
	_cleanup_error_ struct error a = ERROR_INIT, b = ERROR_INIT, c = ERROR_INIT;

	ck_assert_int_eq(
		error_set_errno(&a, ERROR_INTERNAL, -ENOENT, NULL, "open %s", "f"), -ENOENT);
	ck_assert_str_eq(a.cause, "No such file or directory");
	ck_assert_int_eq(error_copy(&b, &a), 0);
	ck_assert_str_eq(b.message, "open f");
	ck_assert_ptr_ne(b.message, a.message);
	error_move(&c, &a);
	ck_assert(!a.set && !a.message);
	ck_assert_str_eq(c.message, "open f");
	error_move(&c, &b); /* the first stays, the second is freed */
	ck_assert(!b.set && !b.message);
	error_move(&c, &c);
	ck_assert(c.set);
}
END_TEST

START_TEST(codes)
{
	for (int i = 0; i < ERROR_MAX; i++) {
		enum error_code back;
		ck_assert_int_eq(
			error_code_from_name(error_code_name((enum error_code)i), &back), 0);
		ck_assert_int_eq(back, i);
		ck_assert_int_gt(error_code_errno((enum error_code)i), 0);
	}
	enum error_code code;
	ck_assert_int_eq(error_code_from_name("nonsense", &code), -EINVAL);
	ck_assert_int_eq(error_code_for_errno(-ENOSPC), ERROR_NO_SPACE);
	ck_assert_int_eq(error_code_for_errno(ENOMEM), ERROR_NO_MEMORY);
	ck_assert_int_eq(error_code_for_errno(-EXDEV), ERROR_INTERNAL);
	ck_assert(error_code_retryable(ERROR_PULL_FAILED) && !error_code_retryable(ERROR_USAGE));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("base");
	TCase *tc = tcase_create("base");

	tcase_add_test(tc, numbers);
	tcase_add_test(tc, take);
	tcase_add_test(tc, files);
	tcase_add_test(tc, clocks_and_random);
	tcase_add_test(tc, shell_words);
	tcase_add_test(tc, first_error_stays);
	tcase_add_test(tc, copy_and_move);
	tcase_add_test(tc, codes);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
