/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/buf.c: the limit is exact; a queue that is filled and drained for long keeps its
 * bytes and does not grow; readers never pass the end of hostile spans.
 */

#include "proto/buf.h"
#include <check.h>
#include <fcntl.h>
#include <sys/socket.h>

START_TEST(limit)
{
	struct buf b;
	static uint8_t bytes[1001];

	buf_init(&b, 1000);
	ck_assert_int_eq(buf_append(&b, bytes, 1001), -ENOBUFS);
	ck_assert_uint_eq(buf_len(&b), 0);
	ck_assert_int_eq(buf_append(&b, bytes, 1000), 0);
	ck_assert_int_eq(buf_append(&b, bytes, 1), -ENOBUFS);
	ck_assert_int_eq(buf_append(&b, NULL, 0), 0);
	buf_consume(&b, 1);
	ck_assert_int_eq(buf_append(&b, bytes, 1), 0);
	ck_assert_ptr_null(buf_reserve(&b, SIZE_MAX));
	ck_assert_int_eq(errno, ENOBUFS);
	buf_done(&b);
	ck_assert_int_eq(buf_append(&b, bytes, 1), -ENOBUFS);
}
END_TEST

START_TEST(queue_keeps_order)
{
	struct buf b;
	uint32_t in = 0, out = 0;
	unsigned seed = 1;

	buf_init(&b, 100000);
	for (int round = 0; round < 20000; round++) {
		for (int k = rand_r(&seed) % 8; k > 0; k--) {
			if (buf_append(&b, &in, sizeof(in)) == 0)
				in++;
		}
		for (int k = rand_r(&seed) % 8; k > 0 && buf_len(&b) > 0; k--) {
			uint32_t v;
			memcpy(&v, buf_head(&b), sizeof(v));
			ck_assert_uint_eq(v, out++);
			buf_consume(&b, sizeof(v));
		}
		ck_assert_uint_le(b.cap, 4 * b.max);
	}
	buf_done(&b);
}
END_TEST

START_TEST(large_and_empty_gives_back)
{
	struct buf b;

	buf_init(&b, 8 * MIB);
	ck_assert_ptr_nonnull(buf_reserve(&b, 4 * MIB));
	buf_commit(&b, 4 * MIB);
	buf_consume(&b, 4 * MIB);
	ck_assert_uint_eq(b.cap, 0);
	ck_assert_int_eq(buf_append(&b, "x", 1), 0);
	buf_done(&b);
}
END_TEST

START_TEST(descriptors)
{
	int s[2], p[2];
	struct buf b;

	buf_init(&b, 10);
	/* The sockets are blocking: the buffer must not wait on them. */
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	ck_assert_int_eq(buf_read_fd(&b, s[0], 100), -EAGAIN);
	ck_assert_int_eq(write_all(s[1], "hello world", 11), 0);
	ck_assert_int_eq(buf_read_fd(&b, s[0], 4), 4);
	ck_assert_int_eq(buf_read_fd(&b, s[0], 100), 6);
	ck_assert_int_eq(buf_read_fd(&b, s[0], 100), -ENOBUFS);
	ck_assert_mem_eq(buf_head(&b), "hello worl", 10);
	ck_assert_int_eq(pipe2(p, O_NONBLOCK), 0);
	ck_assert_int_eq(buf_write_fd(&b, p[1]), 10);
	ck_assert_int_eq(buf_write_fd(&b, p[1]), 0);
	ck_assert_int_eq(buf_read_fd(&b, p[0], 10), 10);
	ck_assert_int_eq(buf_read_fd(&b, p[0], 0), -ENOBUFS);
	buf_clear(&b);
	ck_assert_int_eq(buf_read_fd(&b, p[0], 10), -EAGAIN);
	close(p[1]);
	ck_assert_int_eq(buf_read_fd(&b, p[0], 10), 0);
	ck_assert_int_eq(buf_append(&b, "x", 1), 0);
	close(s[1]);
	ck_assert_int_eq(buf_write_fd(&b, s[0]), -EPIPE); /* and no SIGPIPE */
	ck_assert_int_eq(buf_write_fd(&b, -EBADF), -EBADF);
	close(s[0]);
	close(p[0]);
	buf_done(&b);
}
END_TEST

START_TEST(fields)
{
	struct buf b;
	int r = 0;
	char *s, *absent;

	buf_init(&b, 1000);
	put_u8(&b, 0xab, &r);
	put_u16(&b, 0x1234, &r);
	put_u32(&b, 0xdeadbeef, &r);
	put_u64(&b, UINT64_C(0x0102030405060708), &r);
	put_str(&b, "text", &r);
	put_str(&b, NULL, &r);
	ck_assert_int_eq(r, 0);
	ck_assert_mem_eq(buf_head(&b), "\xab\x34\x12\xef\xbe\xad\xde\x08\x07\x06\x05", 11);
	for (size_t cut = 0; cut <= buf_len(&b); cut++) {
		struct rd rd = { .p = buf_head(&b), .n = cut };
		(void)get_u8(&rd);
		(void)get_u16(&rd);
		(void)get_u32(&rd);
		uint64_t v = get_u64(&rd);
		(void)get_str(&rd, 4, &s);
		(void)get_str(&rd, 4, &absent);
		bool whole = cut == buf_len(&b);
		ck_assert_int_eq(rd_done(&rd), whole ? 0 : -EBADMSG);
		if (whole) {
			ck_assert_uint_eq(v, UINT64_C(0x0102030405060708));
			ck_assert_str_eq(s, "text");
			ck_assert_ptr_null(absent);
		}
		free(s);
	}
	buf_done(&b);
}
END_TEST

START_TEST(hostile_strings)
{
	char *s;
	struct rd nul = { .p = (const uint8_t *)"\2\0\0\0a\0", .n = 6 };
	ck_assert_int_eq(get_str(&nul, 10, &s), -EBADMSG);
	struct rd longer = { .p = (const uint8_t *)"\3\0\0\0abc", .n = 7 };
	ck_assert_int_eq(get_str(&longer, 2, &s), -EBADMSG);
	struct rd lies = { .p = (const uint8_t *)"\376\377\377\377abc", .n = 7 };
	ck_assert_int_eq(get_str(&lies, SIZE_MAX, &s), -EBADMSG);
	ck_assert_ptr_null(s);
	ck_assert_uint_eq(get_u8(&lies), 0); /* the failure is permanent */
	struct rd left = { .p = (const uint8_t *)"\0\0\0\0x", .n = 5 };
	ck_assert_int_eq(get_str(&left, 0, &s), 0);
	ck_assert_str_eq(s, "");
	free(s);
	ck_assert_int_eq(rd_done(&left), -EBADMSG);
	struct rd none = { .p = NULL, .n = 0 };
	ck_assert_int_eq(rd_done(&none), 0);
	ck_assert_uint_eq(get_u64(&none), 0);
	uint8_t bytes[4] = { 1, 1, 1, 1 };
	get_bytes(&none, bytes, sizeof(bytes));
	ck_assert_mem_eq(bytes, "\0\0\0\0", 4);
}
END_TEST

START_TEST(failure_sticks)
{
	struct buf b;
	int r = 0;

	buf_init(&b, 5);
	put_u32(&b, 1, &r);
	put_u32(&b, 2, &r);
	ck_assert_int_eq(r, -ENOBUFS);
	put_u8(&b, 3, &r);
	ck_assert_uint_eq(buf_len(&b), 4);
	buf_done(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("buf");
	TCase *tc = tcase_create("buf");

	tcase_add_test(tc, limit);
	tcase_add_test(tc, queue_keeps_order);
	tcase_add_test(tc, large_and_empty_gives_back);
	tcase_add_test(tc, descriptors);
	tcase_add_test(tc, fields);
	tcase_add_test(tc, hostile_strings);
	tcase_add_test(tc, failure_sticks);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
