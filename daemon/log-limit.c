/* SPDX-License-Identifier: MIT */
/*
 * The counters of log-limit.h. Called by log.c for each line, from any thread. The table has a
 * fixed size and replaces the least recent message, so a flood of many kinds is limited less well,
 * but costs no memory.
 */

#include "daemon/log-limit.h"

#include <pthread.h>

enum { KINDS = 256 };

struct kind {
	uint64_t key;
	uint64_t since_usec, seen_usec;
	unsigned n, left_out;
};

static struct kind kinds[KINDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* FNV-1a of the text: one format may be several literals with different addresses. */
static uint64_t key_of(const char *format, const char *field)
{
	const char *const parts[] = { format, field ? field : "" };
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		for (const char *p = parts[i]; *p; p++)
			h = (h ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
		h *= UINT64_C(0x100000001b3); /* separates format and field */
	}
	return h;
}

static struct kind *find(uint64_t key)
{
	struct kind *oldest = &kinds[0];

	for (size_t i = 0; i < KINDS; i++) {
		if (kinds[i].key == key)
			return &kinds[i];
		if (kinds[i].seen_usec < oldest->seen_usec)
			oldest = &kinds[i];
	}
	*oldest = (struct kind){ .key = key };
	return oldest;
}

bool log_limit_admit(
	const char *format, const char *field, uint64_t now_usec, unsigned *ret_left_out)
{
	struct kind *k;
	bool admitted;

	*ret_left_out = 0;
	(void)pthread_mutex_lock(&lock); /* fails only for an invalid mutex */
	k = find(key_of(format, field));
	if (k->seen_usec == 0 || now_usec - k->since_usec >= LOG_LIMIT_USEC) {
		k->since_usec = now_usec;
		k->n = 0;
	}
	k->seen_usec = now_usec;
	admitted = k->n < LOG_LIMIT_BURST;
	if (admitted) {
		k->n++;
		*ret_left_out = k->left_out;
		k->left_out = 0;
	} else {
		k->left_out++;
	}
	(void)pthread_mutex_unlock(&lock);
	return admitted;
}
