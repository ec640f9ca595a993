/* SPDX-License-Identifier: MIT */
/*
 * Captured output: complete below the limit, the first quarter and last three quarters above it,
 * always valid UTF-8, and within its JSON limit for any bytes.
 */

#include "daemon/agent/capture.h"

#include <check.h>

#include "proto/json.h"

/* One assertion for many bytes, since libcheck records each one, which is slow. */
static void expect_pattern(const char *s, size_t n, const char *pattern, size_t from)
{
	size_t length = strlen(pattern), wrong = 0;

	for (size_t i = 0; i < n; i++)
		wrong += s[i] != pattern[(from + i) % length];
	ck_assert_uint_eq(wrong, 0);
}

static json_object *text_of(const struct capture *c, bool *truncated, bool *binary)
{
	json_object *o = NULL;

	ck_assert_int_eq(capture_text(c, &o, truncated, binary), 0);
	return o;
}

/* Adds n bytes of a pattern in pieces that never fit the buffers' sizes. */
static void add_pattern(struct capture *c, const char *pattern, size_t n)
{
	size_t length = strlen(pattern);
	char piece[4099];

	for (size_t at = 0; at < n;) {
		size_t part = MIN_OF(n - at, sizeof(piece));

		for (size_t i = 0; i < part; i++)
			piece[i] = pattern[(at + i) % length];
		ck_assert_int_eq(capture_add(c, piece, part), 0);
		at += part;
	}
}

START_TEST(empty_and_short)
{
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o = text_of(&c, &truncated, &binary);

	ck_assert_str_eq(json_object_get_string(o), "");
	json_object_put(o);
	ck_assert_int_eq(capture_add(&c, "a\0b", 3), 0);
	o = text_of(&c, &truncated, &binary);
	ck_assert_int_eq(json_object_get_string_len(o), 3);
	ck_assert(!truncated && !binary);
	json_object_put(o);
	capture_done(&c);
}
END_TEST

START_TEST(boundaries)
{
	static const int deltas[] = { -1, 0, 1 };
	size_t n = (size_t)(LIMIT_CAPTURE_BYTES + deltas[_i]);
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o;
	const char *s;

	add_pattern(&c, "abcdefg", n);
	o = text_of(&c, &truncated, &binary);
	s = json_object_get_string(o);
	ck_assert_uint_eq(c.total, n);
	ck_assert_int_eq(truncated, deltas[_i] > 0);
	if (truncated)
		ck_assert_ptr_nonnull(strstr(s, "[... 1 bytes left out ...]"));
	else
		expect_pattern(s, n, "abcdefg", 0);
	json_object_put(o);
	capture_done(&c);
}
END_TEST

START_TEST(head_and_tail_are_exact)
{
	const size_t n = 5 * MIB + 13;
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o;
	const char *s, *tail;

	add_pattern(&c, "0123456", n);
	o = text_of(&c, &truncated, &binary);
	s = json_object_get_string(o);
	ck_assert(truncated && !binary);
	expect_pattern(s, LIMIT_CAPTURE_BYTES / 4, "0123456", 0);
	tail = strstr(s, " bytes left out ...]\n");
	ck_assert_ptr_nonnull(tail);
	tail = strchr(tail, '\n') + 1;
	ck_assert_uint_eq(strlen(tail), LIMIT_CAPTURE_BYTES / 4 * 3);
	expect_pattern(tail, strlen(tail), "0123456", n - strlen(tail));
	json_object_put(o);
	capture_done(&c);
}
END_TEST

/* Characters of three bytes: the cuts fall inside one, and none is split. */
START_TEST(characters_are_not_split)
{
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o;

	ck_assert_int_eq(capture_add(&c, "xx", (size_t)_i), 0);
	add_pattern(&c, "\xe2\x82\xac", 3 * MIB);
	o = text_of(&c, &truncated, &binary);
	ck_assert(truncated && !binary);
	json_object_put(o);
	capture_done(&c);
}
END_TEST

START_TEST(invalid_becomes_replacement)
{
	static const char *const bad[] = { "\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
		"\xe2\x82", "\x80" };
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o;

	ck_assert_int_eq(capture_add(&c, bad[_i], strlen(bad[_i])), 0);
	ck_assert_int_eq(capture_add(&c, "ok", 2), 0);
	o = text_of(&c, &truncated, &binary);
	ck_assert(binary);
	ck_assert_ptr_nonnull(strstr(json_object_get_string(o), "\xef\xbf\xbd"));
	ck_assert_ptr_nonnull(strstr(json_object_get_string(o), "ok"));
	json_object_put(o);
	capture_done(&c);
}
END_TEST

/* Two streams and a command fit one reply, whatever their bytes. */
START_TEST(json_stays_small)
{
	static const char *const worst[] = { "\x01", "\"", "\xff", "\\/", "\n", "a\x02" };
	static const size_t sizes[] = { 300000, 1000000, 3000000 };
	struct capture c = { 0 };
	bool truncated, binary;
	json_object *o;

	add_pattern(&c, worst[_i % 6], sizes[_i / 6]);
	o = text_of(&c, &truncated, &binary);
	ck_assert_uint_le(strlen(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN)),
		CAPTURE_JSON_BYTES + 256);
	json_object_put(o);
	capture_done(&c);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("capture");
	TCase *tc = tcase_create("capture");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, empty_and_short);
	tcase_add_loop_test(tc, boundaries, 0, 3);
	tcase_add_test(tc, head_and_tail_are_exact);
	tcase_add_loop_test(tc, characters_are_not_split, 0, 3);
	tcase_add_loop_test(tc, invalid_becomes_replacement, 0, 6);
	tcase_add_loop_test(tc, json_stays_small, 0, 18);
	suite_add_tcase(suite, tc);
	sr = srunner_create(suite);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
