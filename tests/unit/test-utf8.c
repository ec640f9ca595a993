/* SPDX-License-Identifier: MIT */
/*
 * UTF-8: every sequence of up to three bytes and every character, against the table of RFC 3629
 * section 4. Run by `meson test utf8`.
 */

#include "proto/utf8.h"

#include <check.h>

static bool tail(uint8_t c)
{
	return c >= 0x80 && c <= 0xbf;
}

/* The grammar of the RFC, byte by byte. */
static size_t by_grammar(const uint8_t *p, size_t n)
{
	if (p[0] <= 0x7f)
		return 1;
	if (n >= 2 && p[0] >= 0xc2 && p[0] <= 0xdf && tail(p[1]))
		return 2;
	if (n >= 3 && tail(p[2]) &&
		((p[0] == 0xe0 && p[1] >= 0xa0 && p[1] <= 0xbf) ||
			(p[0] >= 0xe1 && p[0] <= 0xec && tail(p[1])) ||
			(p[0] == 0xed && p[1] >= 0x80 && p[1] <= 0x9f) ||
			(p[0] >= 0xee && p[0] <= 0xef && tail(p[1]))))
		return 3;
	if (n >= 4 && tail(p[2]) && tail(p[3]) &&
		((p[0] == 0xf0 && p[1] >= 0x90 && p[1] <= 0xbf) ||
			(p[0] >= 0xf1 && p[0] <= 0xf3 && tail(p[1])) ||
			(p[0] == 0xf4 && p[1] >= 0x80 && p[1] <= 0x8f)))
		return 4;
	return 0;
}

START_TEST(as_the_grammar)
{
	for (unsigned a = 0; a < 256; a++)
		for (unsigned b = 0; b < 256; b++)
			for (unsigned c = 0x7e; c < 0xc2; c++) {
				const uint8_t p[] = { (uint8_t)a, (uint8_t)b, (uint8_t)c,
					(uint8_t)(c ^ 1) };
				for (size_t n = 1; n <= sizeof(p); n++)
					if (utf8_decode(p, n, NULL) != by_grammar(p, n))
						ck_abort_msg(
							"%02x %02x %02x, %zu bytes", a, b, c, n);
			}
}
END_TEST

START_TEST(every_character)
{
	for (uint32_t c = 0; c <= 0x10ffff; c++) {
		uint8_t p[4];
		uint32_t got = ~c;
		size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

		for (size_t i = n; i-- > 1;)
			p[i] = (uint8_t)(0x80 | (c >> 6 * (n - 1 - i) & 0x3f));
		p[0] = (uint8_t)(n == 1 ? c : (0xf00 >> n & 0xff) | c >> 6 * (n - 1));
		bool surrogate = c >= 0xd800 && c <= 0xdfff;
		if (utf8_decode(p, n, &got) != (surrogate ? 0 : n) || (!surrogate && got != c))
			ck_abort_msg("U+%04X", c);
		if (utf8_decode(p, n - 1 ? n - 1 : 1, NULL) != (n == 1 ? 1 : 0))
			ck_abort_msg("U+%04X cut", c);
	}
}
END_TEST

START_TEST(cut_at_a_border)
{
	static const struct {
		const char *text;
		size_t max;
		int n;
	} rows[] = {
		{ "", 0, 0 },
		{ "abc", 3, 3 },
		{ "abc", 2, 2 },
		{ "a\u00e9", 3, 3 },
		{ "a\u00e9", 2, 1 },
		{ "\u20ac\u20ac", 5, 3 },
		{ "\u20ac\u20ac", 2, 0 },
		{ "\U0001f600x", 3, 0 },
		{ "\U0001f600x", 4, 4 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_int_eq(utf8_cut(rows[i].text, rows[i].max), rows[i].n);
	/* Invalid UTF-8 is still shown in some form. */
	ck_assert_int_gt(utf8_cut("\x80\x80\x80\x80\x80\x80\x80\x80\x80", 8), 0);
}
END_TEST

START_TEST(repaired)
{
	static const char *const rows[][2] = {
		{ "", "" },
		{ "a\u00e9\u20ac", "a\u00e9\u20ac" },
		{ "a\xff"
		  "b",
			"a\ufffd"
			"b" },
		{ "\xe2\x82", "\ufffd\ufffd" },
		{ "\xc0\xaf!", "\ufffd\ufffd!" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_free_ char *got = utf8_repair(rows[i][0]);
		ck_assert_str_eq(got, rows[i][1]);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("utf8");
	TCase *t = tcase_create("utf8");
	SRunner *sr;
	int failed;

	tcase_set_timeout(t, 60);
	tcase_add_test(t, as_the_grammar);
	tcase_add_test(t, every_character);
	tcase_add_test(t, cut_at_a_border);
	tcase_add_test(t, repaired);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
