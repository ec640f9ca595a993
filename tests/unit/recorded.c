/* SPDX-License-Identifier: MIT */
/*
 * See recorded.h. Used by the tests of the protocol's three ends: agent, frame, link. A line that
 * cannot be parsed fails the test.
 */

#include "tests/unit/recorded.h"

#include <check.h>

FILE *recorded_open(unsigned version)
{
	char path[4096];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/protocol-%u", TEST_FRAMES, version);
	file = fopen(path, "re");
	ck_assert_msg(file != NULL, "%s: %s", path, strerror(errno));
	return file;
}

static void take_hex(const char *hex, struct recorded *ret)
{
	for (ret->n = 0; hex[0]; hex += 2) {
		unsigned byte;

		ck_assert_uint_lt(ret->n, sizeof(ret->data));
		ck_assert_int_eq(sscanf(hex, "%2x", &byte), 1);
		ret->data[ret->n++] = (uint8_t)byte;
	}
}

static void take_frame(struct recorded *ret)
{
	struct rd rd = { .p = ret->data, .n = ret->n };

	ret->frame.length = get_u32(&rd);
	ret->frame.type = get_u16(&rd);
	ret->frame.flags = get_u16(&rd);
	ret->frame.channel = get_u32(&rd);
	ret->frame.payload = rd.p;
	ck_assert(!rd.failed);
	ck_assert_uint_eq(ret->frame.length, rd.n);
}

bool recorded_next(FILE *file, struct recorded *ret)
{
	static char line[2 * sizeof(ret->data) + 32], hex[sizeof(line)];

	while (fgets(line, sizeof(line), file)) {
		*ret = (struct recorded){ .way = line[0] };
		if (line[0] == '#')
			continue;
		if (line[0] == '=' || line[0] == '-')
			return true;
		ck_assert_int_eq(sscanf(line, "%*1[<>] %15s %4127s", ret->name, hex), 2);
		take_hex(hex, ret);
		if (!streq(ret->name, "SYNC") && !streq(ret->name, "NONCE"))
			take_frame(ret);
		return true;
	}
	(void)fclose(file);
	return false;
}
