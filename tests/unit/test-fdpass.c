/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/fdpass.c: descriptors arrive with their bytes and close-on-exec, and no descriptor
 * of a peer that sends too many stays open.
 */

#include "proto/fdpass.h"
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

START_TEST(arrive_in_order)
{
	int s[2], p[2], got[2];
	struct buf b;
	struct fd_queue q;
	struct stat a, c;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	ck_assert_int_eq(pipe(p), 0);
	buf_init(&b, 1000);
	fd_queue_init(&q);
	ck_assert_int_eq(fd_recv(s[0], &b, 100, &q), -EAGAIN);
	ck_assert_int_eq(fd_send(s[1], "line\n", 5, p, 2, 0), 5);
	ck_assert_int_eq(fd_send(s[1], "more\n", 5, NULL, 0, 0), 5);
	while (buf_len(&b) < 10)
		ck_assert_int_gt(fd_recv(s[0], &b, 100, &q), 0);
	ck_assert_mem_eq(buf_head(&b), "line\nmore\n", 10);
	ck_assert_int_eq(fd_queue_take(&q, 3, got), -ENOENT);
	ck_assert_uint_eq(q.n, 2);
	ck_assert_int_eq(fd_queue_take(&q, 1, got), 0);
	ck_assert_int_eq(fd_queue_take(&q, 1, got + 1), 0);
	ck_assert_int_eq(fd_queue_take(&q, 1, got), -ENOENT);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(fcntl(got[i], F_GETFD), FD_CLOEXEC);
		ck_assert_int_eq(fstat(got[i], &a), 0);
		ck_assert_int_eq(fstat(p[i], &c), 0);
		ck_assert_uint_eq(a.st_ino, c.st_ino);
		close(got[i]);
	}
	close(s[1]);
	ck_assert_int_eq(fd_recv(s[0], &b, 100, &q), 0);
	ck_assert_int_eq(fd_send(s[0], "x", 1, NULL, 0, 0), -EPIPE);
	ck_assert_int_eq(fd_send(s[0], "", 0, p, 2, 0), -EINVAL);
	ck_assert_int_eq(fd_recv(s[0], &b, 0, &q), -ENOBUFS);
	fd_queue_done(&q);
	buf_done(&b);
	close(s[0]);
	close(p[0]);
	close(p[1]);
}
END_TEST

START_TEST(too_many)
{
	int s[2], fds[LIMIT_FDS_RECEIVE];
	struct buf b;
	struct fd_queue q;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = s[0];
	unsigned before = open_fds();
	buf_init(&b, 1000);
	fd_queue_init(&q);
	ck_assert_int_eq(fd_send(s[1], "a", 1, fds, ARRAY_SIZE(fds), 0), 1);
	ck_assert_int_eq(fd_recv(s[0], &b, 100, &q), 1);
	ck_assert_uint_eq(q.n, LIMIT_FDS_RECEIVE);
	ck_assert_int_eq(fd_send(s[1], "b", 1, fds, 1, 0), 1);
	ck_assert_int_eq(fd_recv(s[0], &b, 100, &q), -ETOOMANYREFS);
	ck_assert_uint_eq(open_fds(), before + LIMIT_FDS_RECEIVE);
	fd_queue_done(&q);
	ck_assert_uint_eq(open_fds(), before);
	buf_done(&b);
	close(s[0]);
	close(s[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fdpass");
	TCase *tc = tcase_create("fdpass");

	tcase_add_test(tc, arrive_in_order);
	tcase_add_test(tc, too_many);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
