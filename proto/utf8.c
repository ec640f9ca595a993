/* SPDX-License-Identifier: MIT */
/*
 * The one decoder of UTF-8: for the scanner of JSON, the escaping of log lines and terminal text, the
 * output kept for replies and the texts of errors, which all read bytes of strangers. What must stay true:
 * exactly the well-formed sequences of RFC 3629 are accepted, and no byte beyond n is looked at.
 */

#include "proto/utf8.h"

size_t utf8_decode(const void *text, size_t n, uint32_t *ret)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const uint8_t *p = text;
	size_t len = p[0] < 0x80   ? 1
		     : p[0] < 0xc2 ? 0
		     : p[0] < 0xe0 ? 2
		     : p[0] < 0xf0 ? 3
		     : p[0] < 0xf5 ? 4
				   : 0;

	if (len == 0 || len > n)
		return 0;
	uint32_t c = len == 1 ? p[0] : p[0] & (0x7fU >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fU);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	if (ret)
		*ret = c;
	return len;
}

int utf8_cut(const char *text, size_t max)
{
	size_t n = strnlen(text, max + 1);

	if (n <= max)
		return (int)n;
	n = max;
	while (n > 0 && max - n < UTF8_MAX - 1 && ((unsigned char)text[n] & 0xc0) == 0x80)
		n--;
	return (int)n;
}

char *utf8_repair(const char *text)
{
	static const char unknown[] = "\xef\xbf\xbd";
	size_t n = strlen(text), at = 0;
	char *copy = malloc(n * (sizeof(unknown) - 1) + 1);

	if (!copy)
		return NULL;
	for (size_t i = 0, len; i < n; i += MAX_OF(len, (size_t)1)) {
		len = utf8_decode(text + i, n - i, NULL);
		size_t put = len > 0 ? len : sizeof(unknown) - 1;
		memcpy(copy + at, len > 0 ? text + i : unknown, put);
		at += put;
	}
	copy[at] = '\0';
	return copy;
}
