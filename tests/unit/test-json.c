/* SPDX-License-Identifier: MIT */
/*
 * The strict scanner (every class of reliability.md section 7), the parser behind it, and the error
 * object. Run by `meson test json`. What must stay true: refused text never reaches json-c.
 */

#include "proto/json.h"

#include <check.h>

static int scan(const char *text, size_t n)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = json_scan(text, n, &json_limits_request, &err);
	ck_assert(r == 0 || r == -EBADMSG);
	ck_assert_int_eq(err.set, r < 0);
	if (r < 0)
		ck_assert_int_eq(err.code, ERROR_INVALID_ARGUMENT);
	return r;
}

#define GOOD(text) \
	{ \
		text, sizeof(text) - 1 \
	}
static const struct {
	const char *text;
	size_t n;
} good[] = {
	GOOD("{}"),
	GOOD("[]"),
	GOOD("null"),
	GOOD("true"),
	GOOD(" \t\r\n{ \"a\" : [ 1 , -2.5e+3 , \"x\" ] }\n"),
	GOOD("0"),
	GOOD("-0"),
	GOOD("9007199254740991"),
	GOOD("-9007199254740991"),
	GOOD("1.7976931348623157e308"),
	GOOD("\"\\u0000\""),
	GOOD("\"\\ud83d\\ude00\""),
	GOOD("\"\xc3\xa9\xf0\x9f\x98\x80\xed\x9f\xbf\xee\x80\x80\""),
	GOOD("\"\x7f\""),
	GOOD("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
	GOOD("{\"a\":{\"a\":{\"a\":1}}}"),
	GOOD("[{\"a\":1},{\"a\":2}]"),
	GOOD("{\"\":1}"),
	GOOD("{\"a\":1,\"aa\":2,\"b\":3}"),
}, bad[] = {
	GOOD(""),
	GOOD(" "),
	GOOD("{\"a\":1,\"a\":2}"),
	GOOD("{\"a\":1,\"\\u0061\":2}"),
	GOOD("{\"\":1,\"\":2}"),
	GOOD("{\"x\":{\"a\":1},\"b\":0,\"x\":2}"),
	GOOD("{'a':1}"),
	GOOD("{a:1}"),
	GOOD("NaN"),
	GOOD("Infinity"),
	GOOD("-Infinity"),
	GOOD("9007199254740992"),
	GOOD("-9007199254740992"),
	GOOD("18446744073709551616"),
	GOOD("123456789012345678901234567890123456789012345678901234567890"),
	GOOD("1e400"),
	GOOD("-1e400"),
	GOOD("01"),
	GOOD("-01"),
	GOOD("+1"),
	GOOD(".5"),
	GOOD("1."),
	GOOD("1e"),
	GOOD("1e+"),
	GOOD("-"),
	GOOD("0x10"),
	GOOD("\"\xc0\xaf\""),
	GOOD("\"\xed\xa0\x80\""),
	GOOD("\"\xf4\x90\x80\x80\""),
	GOOD("\"\xf5\x80\x80\x80\""),
	GOOD("\"\xe2\x82\""),
	GOOD("\"\x80\""),
	GOOD("\"\xff\""),
	GOOD("\"\\ud800\""),
	GOOD("\"\\udc00\""),
	GOOD("\"\\ud800\\u0041\""),
	GOOD("\"\\ud800x\""),
	GOOD("\"\\u12\""),
	GOOD("\"\\x41\""),
	GOOD("\"a\nb\""),
	GOOD("\"a\x1b[0m\""),
	GOOD("{\"a\tb\":1}"),
	GOOD("{\"a\\u0000b\":1}"),
	GOOD("\"a\0b\""),
	GOOD("{}\0"),
	GOOD("{} {}"),
	GOOD("[1,]"),
	GOOD("{\"a\":1,}"),
	GOOD("[,1]"),
	GOOD("[1 2]"),
	GOOD("{\"a\" 1}"),
	GOOD("{\"a\":}"),
	GOOD("[1"),
	GOOD("{\"a\":1"),
	GOOD("]"),
	GOOD("[}"),
	GOOD("{]"),
	GOOD("\"abc"),
	GOOD("\"abc\\"),
	GOOD("TRUE"),
	GOOD("tru"),
	GOOD("/*c*/1"),
	GOOD("1//c"),
	GOOD("\xef\xbb\xbf{}"),
};

START_TEST(accepts)
{
	_cleanup_json_ json_object *o = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_msg(scan(good[_i].text, good[_i].n) == 0, "%s", good[_i].text);
	ck_assert_msg(json_parse(good[_i].text, good[_i].n, &json_limits_request, &o, &err) == 0,
		"%s: %s", good[_i].text, err.message);
}
END_TEST

START_TEST(refuses)
{
	ck_assert_msg(scan(bad[_i].text, bad[_i].n) == -EBADMSG, "%s", bad[_i].text);
}
END_TEST

/* Every prefix of a valid text is refused, unless the text is a number or empty brackets. */
START_TEST(truncation)
{
	static const char text[] =
		"{\"a\":[1.5,\"\\u00e9\\ud83d\\ude00\",{\"b\":null}],\"c\":true}";
	for (size_t n = 0; n < sizeof(text) - 1; n++)
		ck_assert_int_eq(scan(text, n), -EBADMSG);
	ck_assert_int_eq(scan(text, sizeof(text) - 1), 0);
}
END_TEST

START_TEST(depth)
{
	char text[2100];
	for (size_t n = 1; n <= 1000; n = n == 32     ? 33
					  : n == 33   ? 1000
					  : n == 1000 ? 1001
						      : n + 31) {
		memset(text, '[', n);
		memset(text + n, ']', n);
		ck_assert_int_eq(scan(text, 2 * n), n <= 32 ? 0 : -EBADMSG);
	}
	_cleanup_json_ json_object *o = NULL;
	memset(text, '[', 32);
	text[32] = '1';
	memset(text + 33, ']', 32);
	ck_assert_int_eq(json_parse(text, 65, &json_limits_request, &o, NULL), 0);
}
END_TEST

/* max_values 10000: the outer array counts */
START_TEST(values)
{
	static char text[2 * 10000 + 2];
	for (size_t n = 9999; n <= 10000; n++) {
		text[0] = '[';
		for (size_t i = 0; i < n; i++) {
			text[1 + 2 * i] = '1';
			text[2 + 2 * i] = i + 1 < n ? ',' : ']';
		}
		ck_assert_int_eq(scan(text, 2 * n + 1), n == 9999 ? 0 : -EBADMSG);
	}
}
END_TEST

START_TEST(size)
{
	size_t n = 1024 * 1024 + 1;
	_cleanup_free_ char *text = malloc(n);
	ck_assert_ptr_nonnull(text);
	memset(text, 'x', n);
	text[0] = text[n - 2] = text[n - 1] = '"';
	ck_assert_int_eq(scan(text, n - 1), 0);
	text[n - 2] = 'x';
	ck_assert_int_eq(scan(text, n), -EBADMSG);
}
END_TEST

/* Many keys with a long common prefix: the check for duplicates is not quadratic. */
START_TEST(many_keys)
{
	size_t at = 1, cap = 1024 * 1024;
	_cleanup_free_ char *text = malloc(cap);
	ck_assert_ptr_nonnull(text);
	text[0] = '{';
	for (int i = 0; i < 9000; i++)
		at += (size_t)sprintf(text + at, "\"%080d\":1,", i);
	size_t last = (size_t)sprintf(text + at, "\"x\":1}");
	uint64_t start = now_usec();
	ck_assert_int_eq(scan(text, at + last), 0);
	ck_assert_uint_lt(now_usec() - start, USEC_PER_SEC);
	last = (size_t)sprintf(text + at, "\"%080d\":1}", 4711);
	ck_assert_int_eq(scan(text, at + last), -EBADMSG);
}
END_TEST

START_TEST(utf8)
{
	ck_assert(json_utf8_valid("", 0));
	ck_assert(json_utf8_valid("a\xc3\xa9", 3));
	ck_assert(!json_utf8_valid("a\xc3", 2));
	ck_assert(!json_utf8_valid("\xc1\x81", 2));
	ck_assert(!json_utf8_valid("\xe0\x80\x80", 3));
	ck_assert(!json_utf8_valid("\xf0\x80\x80\x80", 4));
}
END_TEST

START_TEST(getters)
{
	_cleanup_json_ json_object *o = NULL;
	static const char text[] = "{\"s\":\"x\",\"i\":-5,\"b\":true,\"n\":null}";
	ck_assert_int_eq(json_parse(text, sizeof(text) - 1, &json_limits_request, &o, NULL), 0);
	ck_assert_str_eq(json_get_str(o, "s", "d"), "x");
	ck_assert_str_eq(json_get_str(o, "n", "d"), "d");
	ck_assert_int_eq(json_get_int(o, "i", 0), -5);
	ck_assert_int_eq(json_get_int(o, "none", 7), 7);
	ck_assert(json_get_bool(o, "b", false));
	ck_assert_ptr_null(json_get(o, "n"));
	ck_assert_ptr_null(json_get(NULL, "n"));
}
END_TEST

START_TEST(adders)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	ck_assert_int_eq(json_add_time(o, "t", UINT64_C(1767225600) * USEC_PER_SEC), 0);
	ck_assert_int_eq(json_add_time(o, "t", UINT64_C(1709211845) * USEC_PER_SEC + 999999), 0);
	ck_assert_str_eq(json_get_str(o, "t", NULL), "2024-02-29T13:04:05Z");
	ck_assert_int_eq(json_add_time(o, "t", UINT64_C(253402300799) * USEC_PER_SEC), 0);
	ck_assert_str_eq(json_get_str(o, "t", NULL), "9999-12-31T23:59:59Z");
	ck_assert_int_eq(json_add_time(o, "t", UINT64_C(253402300800) * USEC_PER_SEC), -ERANGE);
	ck_assert_int_eq(json_add_time(o, "t", UINT64_C(1767225600) * USEC_PER_SEC), 0);
	ck_assert_int_eq(json_add_time(o, "never", 0), 0);
	ck_assert_int_eq(json_add_strn(o, "z", "a\0b", 3), 0);
	ck_assert_int_eq(json_add_str(o, "null", NULL), 0);
	ck_assert_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
		"{\"t\":\"2026-01-01T00:00:00Z\",\"never\":null,\"z\":\"a\\u0000b\",\"null\":null}");
}
END_TEST

/* A parser can be used again after any input. */
START_TEST(parser_again)
{
	static const struct {
		const char *text;
		int r;
	} texts[] = { { "{\"a\":[1,{\"b\":2}]}", 0 }, { "[1,", -EBADMSG }, { "7", 0 },
		{ "\"x\"", 0 }, { "{\"a\":1,\"a\":2}", -EBADMSG }, { "", -EBADMSG }, { "true", 0 },
		{ "{\"a\":[1,{\"b\":2}]}", 0 } };
	_cleanup_(json_parser_freep) struct json_parser *p = NULL;
	ck_assert_int_eq(json_parser_new(&json_limits_request, &p), 0);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		_cleanup_error_ struct error err = ERROR_INIT;
		_cleanup_json_ json_object *o = NULL;
		ck_assert_int_eq(json_parser_run(p, texts[i].text, strlen(texts[i].text), &o, &err),
			texts[i].r);
		if (texts[i].r == 0)
			ck_assert_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
				texts[i].text);
	}
}
END_TEST

START_TEST(error_object)
{
	_cleanup_error_ struct error err = ERROR_INIT, back = ERROR_INIT;
	(void)error_set(&err, ERROR_NO_SPACE, "why", "do this", "what %d", 1);
	_cleanup_json_ json_object *o = json_error_object(&err);
	ck_assert_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
		"{\"code\":-32000,\"message\":\"what 1\",\"data\":{\"code\":\"no_space\",\"cause\":"
		"\"why\",\"fix\":\"do this\",\"retryable\":true}}");
	ck_assert_int_eq(json_error_parse(o, &back), 0);
	ck_assert_int_eq(back.code, ERROR_NO_SPACE);
	ck_assert_str_eq(back.fix, "do this");

	_cleanup_error_ struct error arg = ERROR_INIT;
	(void)error_set(&arg, ERROR_INVALID_ARGUMENT, NULL, "y", "x");
	_cleanup_json_ json_object *p = json_error_object(&arg);
	ck_assert_int_eq(json_get_int(p, "code", 0), JSON_RPC_INVALID_PARAMS);
}
END_TEST

/* The reply is valid JSON, whatever text an error quotes. */
START_TEST(error_object_of_bytes)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	(void)error_set(&err, ERROR_NO_SPACE, "why\xc3", "do \xff this", "what \xe2\x82");
	_cleanup_json_ json_object *o = json_error_object(&err);
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	ck_assert_int_eq(json_scan(text, strlen(text), &json_limits_reply, NULL), 0);
	ck_assert_str_eq(json_get_str(o, "message", NULL), "what \ufffd\ufffd");
	ck_assert_str_eq(json_get_str(json_get(o, "data"), "cause", NULL), "why\ufffd");
	ck_assert_str_eq(json_get_str(json_get(o, "data"), "fix", NULL), "do \ufffd this");
}
END_TEST

/* Answers of a daemon of another version, or of another program. */
START_TEST(error_object_hostile)
{
	static const char *const texts[] = { "[]", "{}", "{\"message\":1}",
		"{\"message\":\"m\",\"data\":[]}" };
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		_cleanup_json_ json_object *o = json_tokener_parse(texts[i]);
		_cleanup_error_ struct error err = ERROR_INIT;
		ck_assert_int_eq(json_error_parse(o, &err), -EBADMSG);
	}
	_cleanup_json_ json_object *o = json_tokener_parse(
		"{\"message\":\"m\",\"data\":{\"code\":\"new_code\",\"fix\":3}}");
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_eq(json_error_parse(o, &err), 0);
	ck_assert_int_eq(err.code, ERROR_INTERNAL);
	ck_assert_ptr_null(err.fix);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("json");
	TCase *t = tcase_create("json");
	tcase_add_loop_test(t, accepts, 0, (int)ARRAY_SIZE(good));
	tcase_add_loop_test(t, refuses, 0, (int)ARRAY_SIZE(bad));
	tcase_add_test(t, truncation);
	tcase_add_test(t, depth);
	tcase_add_test(t, values);
	tcase_add_test(t, size);
	tcase_add_test(t, many_keys);
	tcase_add_test(t, utf8);
	tcase_add_test(t, getters);
	tcase_add_test(t, adders);
	tcase_add_test(t, parser_again);
	tcase_add_test(t, error_object);
	tcase_add_test(t, error_object_of_bytes);
	tcase_add_test(t, error_object_hostile);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
