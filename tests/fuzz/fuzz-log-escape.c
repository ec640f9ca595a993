/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of both escapers, the daemon's log lines and the client's terminal text: what comes out is
 * valid UTF-8 without controls, without what reorders a line, and fits. The first byte is the room the
 * log has.
 */

#include "client/text.h"
#include "daemon/log.h"

#include "proto/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The scalar value at p, whose text is valid. */
static uint32_t next_char(const uint8_t *p, size_t *ret_n)
{
	size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	uint32_t c = n == 1 ? p[0] : p[0] & (0x7fU >> n);

	for (size_t i = 1; i < n; i++)
		c = c << 6 | (p[i] & 0x3fU);
	*ret_n = n;
	return c;
}

static void check_safe(const char *text, bool newlines)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t n;

	if (!json_utf8_valid(text, strlen(text)))
		abort();
	for (; *p; p += n) {
		uint32_t c = next_char(p, &n);

		if (newlines && c == '\n')
			continue;
		if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 ||
			c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
			(c >= 0x2066 && c <= 0x2069))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	size_t room = data[0], n;
	_cleanup_free_ char *out = malloc(room ? room : 1);
	_cleanup_free_ char *text = strndup((const char *)data + 1, size - 1);
	if (!out || !text)
		abort();
	n = log_escape((const char *)data + 1, size - 1, out, room);
	if (room > 0) {
		if (n >= room || out[n] != '\0' || strlen(out) != n)
			abort();
		check_safe(out, false);
	} else if (n != 0) {
		abort();
	}
	_cleanup_free_ char *flat = text_escape(text, NULL), *indented = text_escape(text, "  ");
	if (!flat || !indented)
		abort();
	check_safe(flat, false);
	check_safe(indented, true);
	return 0;
}
