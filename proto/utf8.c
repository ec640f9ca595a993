/* SPDX-License-Identifier: MIT */
/*
 * The only UTF-8 decoder, used for untrusted bytes: JSON, log lines, terminal text, the output kept
 * for replies and error texts. What must stay true: it accepts exactly the well-formed sequences of
 * RFC 3629 and reads no byte beyond n.
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

/* Optimal string alignment distance (restricted Damerau-Levenshtein). */
size_t text_distance(const char *a, const char *b)
{
	enum { WORD_MAX_BYTES = 64 };
	size_t rows[3][WORD_MAX_BYTES + 1], n = strlen(a), m = strlen(b);

	if (n > WORD_MAX_BYTES || m > WORD_MAX_BYTES)
		return SIZE_MAX;
	for (size_t k = 0; k <= m; k++)
		rows[0][k] = k;
	for (size_t i = 1; i <= n; i++) {
		size_t *now = rows[i % 3], *last = rows[(i - 1) % 3];
		const size_t *before = rows[(i + 1) % 3];

		now[0] = i;
		for (size_t k = 1; k <= m; k++) {
			size_t change = last[k - 1] + (a[i - 1] != b[k - 1]);

			now[k] = MIN_OF(MIN_OF(last[k] + 1, now[k - 1] + 1), change);
			if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
				now[k] = MIN_OF(now[k], before[k - 2] + 1);
		}
	}
	return rows[n % 3][m];
}
