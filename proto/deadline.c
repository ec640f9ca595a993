/* SPDX-License-Identifier: MIT */
/*
 * Deadlines of a test build: the table, overridden from PYRO_DEADLINES at the first call. Compiled
 * only into builds with crash points. What must stay true: a deadline never changes after the first
 * call.
 */
#include "proto/deadline.h"

#include <threads.h>

static struct {
	const char *name;
	uint64_t usec;
} table[] = {
#define X(symbol, name, seconds) [DEADLINE_##symbol] = { #name, (seconds)*USEC_PER_SEC },
	DEADLINES(X)
#undef X
};

static void set(const char *name, size_t length, const char *value)
{
	char digits[16];
	uint64_t msec;
	(void)snprintf(digits, sizeof(digits), "%.*s", (int)strcspn(value, ","), value);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strlen(table[i].name) == length && memcmp(table[i].name, name, length) == 0 &&
			parse_u64(digits, 1, UINT32_MAX, &msec) == 0) {
			table[i].usec = msec * USEC_PER_MSEC;
			return;
		}
	fprintf(stderr, "PYRO_DEADLINES: %s: not NAME=MILLISECONDS\n", name);
	abort();
}

static void read_environment(void)
{
	for (const char *at = getenv("PYRO_DEADLINES"); at && *at;) {
		size_t length = strcspn(at, "=");
		set(at, length, at[length] ? at + length + 1 : "");
		at += strcspn(at, ",");
		at += *at == ',';
	}
}

uint64_t deadline_usec(enum deadline d)
{
	static once_flag once = ONCE_FLAG_INIT;
	call_once(&once, read_environment);
	return table[d].usec;
}
