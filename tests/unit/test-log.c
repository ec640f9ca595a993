/* SPDX-License-Identifier: MIT */
/* Logging without a journal: the rate limit of a message, and the size limit of a file. */

#include "daemon/log.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/account.h"
#include "daemon/log-limit.h"

static char dir[] = "/tmp/pyro-test-log-XXXXXX";
static char path[64], before[64];
static int saved = -EBADF;

static void setup(void)
{
	int fd;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/pyrod.log", dir);
	(void)snprintf(before, sizeof(before), "%s/pyrod.log.1", dir);
	saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	(void)close(fd);
	log_init("test");
}

static void teardown(void)
{
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	saved = fd_close(saved);
	(void)unlink(path);
	(void)unlink(before);
	ck_assert_int_eq(rmdir(dir), 0);
}

static uint64_t size_of(const char *file)
{
	struct stat st;

	return stat(file, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

static unsigned count(const char *text)
{
	_cleanup_free_ char *all = NULL;
	size_t n;
	unsigned found = 0;

	ck_assert_int_eq(read_file_at(AT_FDCWD, path, MIB, &all, &n), 0);
	for (const char *p = all; (p = strstr(p, text)); p++)
		found++;
	return found;
}

START_TEST(one_uid_hides_nothing_of_another)
{
	for (int i = 0; i < 1000; i++)
		log_full(LOG_INFO, 0, "PYRO_UID=1", "client %s", "one");
	log_full(LOG_INFO, 0, "PYRO_UID=2", "client %s", "two");
	log_warning("something else");
	ck_assert_uint_eq(count("client one"), LOG_LIMIT_BURST);
	ck_assert_uint_eq(count("client two"), 1);
	ck_assert_uint_eq(count("something else"), 1);
}
END_TEST

/* A user may have 65,536 subordinate uids: they share one limit, and each message names its uid. */
START_TEST(subordinate_uids_have_one_limit)
{
	_cleanup_(accounts_freep) struct accounts *a = NULL;
	_cleanup_free_ char *subuid = str_printf("%s/subuid", dir);
	int fd = open(subuid, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_eq(write_all(fd, "1000:100000:65536\n", 18), 0);
	(void)close(fd);
	ck_assert_int_eq(accounts_new(subuid, subuid, &a), 0);
	accounts_refresh(a);
	log_set_accounts(a, accounts_find);
	for (uid_t i = 0; i < 65536; i++)
		log_uid(LOG_INFO, 0, 100000 + i, "client uid=%u refused", 100000 + i);
	log_uid(LOG_INFO, 0, 1001, "client uid=%u refused", 1001U);
	ck_assert_uint_eq(count("client uid=1000"), LOG_LIMIT_BURST);
	ck_assert_uint_eq(count("client uid=100049 "), 1);
	ck_assert_uint_eq(count("client uid=1001 "), 1);
	log_set_accounts(NULL, NULL);
	ck_assert_int_eq(unlink(subuid), 0);
}
END_TEST

START_TEST(what_was_left_out_is_counted)
{
	uint64_t at = 5 * USEC_PER_SEC;
	unsigned left_out;

	for (unsigned i = 0; i < LOG_LIMIT_BURST; i++)
		ck_assert(log_limit_admit("a %d", NULL, at++, &left_out) && left_out == 0);
	for (unsigned i = 0; i < 7; i++)
		ck_assert(!log_limit_admit("a %d", NULL, at++, &left_out));
	ck_assert(log_limit_admit("b %d", NULL, at, &left_out));
	ck_assert(log_limit_admit("a %d", "F=1", at, &left_out));
	ck_assert(log_limit_admit("a %d", NULL, at + LOG_LIMIT_USEC, &left_out));
	ck_assert_uint_eq(left_out, 7);
}
END_TEST

/* More kinds of messages than the table holds: each is still logged, and the table does not
 * grow. */
START_TEST(many_kinds)
{
	char field[32];
	unsigned left_out;

	for (int i = 0; i < 5000; i++) {
		(void)snprintf(field, sizeof(field), "PYRO_UID=%d", i);
		ck_assert(log_limit_admit("kind", field, USEC_PER_SEC + (uint64_t)i, &left_out));
	}
}
END_TEST

START_TEST(the_file_is_bounded)
{
	char kind[32], text[2000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	ck_assert_int_eq(log_keep_file(before), 0); /* another file is not changed */
	ck_assert_int_eq(log_keep_file(path), 1);
	for (int i = 0; i < 20000; i++) {
		(void)snprintf(kind, sizeof(kind), "N=%d", i);
		log_full(LOG_INFO, 0, kind, "%s", text);
	}
	ck_assert_uint_gt(size_of(before), 7 * MIB);
	ck_assert_uint_lt(size_of(before), 9 * MIB);
	ck_assert_uint_gt(size_of(path), 0);
	ck_assert_uint_lt(size_of(path), 9 * MIB);
}
END_TEST

START_TEST(a_file_that_was_moved_away_is_begun_again)
{
	size_t old;

	ck_assert_int_eq(log_reopen(), 0); /* no log file yet */
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(log_keep_file(path), 1);
	log_info("first");
	ck_assert_int_eq(rename(path, before), 0);
	old = (size_t)size_of(before);
	log_info("into the moved one");
	ck_assert_uint_gt(size_of(before), old);
	ck_assert_int_eq(log_reopen(), 0);
	ck_assert_uint_eq(size_of(path), 0);
	old = (size_t)size_of(before);
	log_info("into the next");
	ck_assert_uint_eq(size_of(before), old);
	ck_assert_uint_gt(size_of(path), 0);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_lt(log_reopen(), 0);
	ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("log");
	TCase *t = tcase_create("log");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, one_uid_hides_nothing_of_another);
	tcase_add_test(t, subordinate_uids_have_one_limit);
	tcase_add_test(t, what_was_left_out_is_counted);
	tcase_add_test(t, many_kinds);
	tcase_add_test(t, the_file_is_bounded);
	tcase_add_test(t, a_file_that_was_moved_away_is_begun_again);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
