/* SPDX-License-Identifier: MIT */
/*
 * The mutator of the tar target, linked with libFuzzer only. It knows headers, so most of its
 * output passes the checksum and reaches the tree. One seed in four goes to the generic mutator
 * instead. Inputs stay real archives: `tar -tv` reads a corpus file.
 */

#include "proto/base.h"

#define BLOCK       512
#define ENTRIES_MAX 64

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

struct field {
	unsigned at, n;
};

/* Fields of ustar, then those that GNU tar has in place of the prefix. */
static const struct field fields[] = { { 0, 100 }, { 100, 8 }, { 108, 8 }, { 116, 8 }, { 124, 12 },
	{ 136, 12 }, { 156, 1 }, { 157, 100 }, { 257, 8 }, { 329, 8 }, { 337, 8 }, { 345, 155 },
	{ 386, 96 }, { 482, 1 }, { 483, 12 } };

struct entry {
	size_t at, n; /* with its data */
};

static unsigned next(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

static uint64_t octal(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n && p[i] >= '0' && p[i] <= '7'; i++)
		v = v * 8 + p[i] - '0';
	return v;
}

static void put_octal(uint8_t *p, size_t n, uint64_t v)
{
	p[n - 1] = '\0';
	for (size_t i = n - 1; i-- > 0; v /= 8)
		p[i] = (uint8_t)('0' + v % 8);
}

static void fix_checksum(uint8_t *head)
{
	unsigned sum = 0;

	memset(head + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += head[i];
	put_octal(head + 148, 7, sum);
}

static size_t find_entries(const uint8_t *data, size_t size, struct entry ret[ENTRIES_MAX])
{
	size_t n = 0;

	for (size_t at = 0; at + BLOCK <= size && data[at] && n < ENTRIES_MAX;) {
		uint64_t body = octal(data + at + 124, 11);
		size_t left = size - at - BLOCK;

		body = MIN_OF((body + BLOCK - 1) / BLOCK * BLOCK, (uint64_t)left);
		ret[n++] = (struct entry){ at, BLOCK + (size_t)body };
		at += BLOCK + (size_t)body;
	}
	return n;
}

/* Mutates one field of one header. */
static void mutate_field(uint8_t *head, unsigned *seed)
{
	const struct field *f = &fields[next(seed) % ARRAY_SIZE(fields)];
	size_t n = strnlen((const char *)head + f->at, f->n);

	n = LLVMFuzzerMutate(head + f->at, n, f->n);
	memset(head + f->at + n, 0, f->n - n);
}

/* Mutates the records of a pax header, then sets the true length of each line. */
static size_t repair_pax(const char *in, size_t n, char *out, size_t max)
{
	size_t at = 0;

	while (n > 0) {
		const char *end = memchr(in, '\n', n);
		size_t line = end ? (size_t)(end - in) : n, skip = 0;
		char number[24];

		while (skip < line && in[skip] >= '0' && in[skip] <= '9')
			skip++;
		skip += skip < line && in[skip] == ' ';
		size_t text = line - skip, total = text + 2;
		int digits = 0;
		for (int k = 0; k < 3; k++)
			digits = snprintf(
				number, sizeof(number), "%zu", total + (size_t)MAX_OF(digits, 1));
		if (text > 0 && at + text + (size_t)digits + 2 <= max)
			at += (size_t)snprintf(
				out + at, max - at + 1, "%s %.*s\n", number, (int)text, in + skip);
		line += end ? 1 : 0;
		in += line;
		n -= line;
	}
	return at;
}

static void mutate_pax(uint8_t *entry, size_t n)
{
	char out[4096 + 1];
	size_t room = MIN_OF(n - BLOCK, (size_t)4096);
	size_t body = (size_t)MIN_OF(octal(entry + 124, 11), (uint64_t)room);

	body = LLVMFuzzerMutate(entry + BLOCK, body, room);
	body = repair_pax((const char *)entry + BLOCK, body, out, room);
	memset(entry + BLOCK, 0, n - BLOCK);
	memcpy(entry + BLOCK, out, body);
	put_octal(entry + 124, 12, body);
}

/* Removes an entry, or repeats it before another one; moved is the copy. */
static size_t move_entry(
	uint8_t *data, size_t size, size_t max, struct entry from, struct entry to, bool more)
{
	uint8_t *copy = malloc(from.n);

	if (!copy)
		return size;
	memcpy(copy, data + from.at, from.n);
	if (!more) {
		memmove(data + from.at, data + from.at + from.n, size - from.at - from.n);
		size -= from.n;
	} else if (size + from.n <= max) {
		memmove(data + to.at + from.n, data + to.at, size - to.at);
		memcpy(data + to.at, copy, from.n);
		size += from.n;
	}
	free(copy);
	return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct entry entries[ENTRIES_MAX];
	size_t n = find_entries(data, size, entries);

	if (n == 0 || seed % 4 == 0)
		return LLVMFuzzerMutate(data, size, max);
	struct entry e = entries[next(&seed) % n];
	uint8_t *head = data + e.at;
	switch (next(&seed) % 4) {
	case 0:
		size = move_entry(data, size, max, e, entries[next(&seed) % n], next(&seed) % 3);
		break;
	case 1:
		if (e.n > BLOCK && (head[156] == 'x' || head[156] == 'g'))
			mutate_pax(head, e.n);
		else if (e.n > BLOCK)
			(void)LLVMFuzzerMutate(head + BLOCK, e.n - BLOCK, e.n - BLOCK);
		break;
	default: mutate_field(head, &seed); break;
	}
	n = find_entries(data, size, entries);
	for (size_t i = 0; i < n; i++)
		fix_checksum(data + entries[i].at);
	return size;
}
