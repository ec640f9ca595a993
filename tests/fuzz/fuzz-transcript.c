/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of a transcript's files, as a crash or somebody with access to the disk leaves them:
 * the input is a first byte and the last segment, or with bit 0 of that byte a middle one, between
 * two that are whole; bit 1 removes the first of them. After opening, the end is a whole record,
 * opening again changes nothing, every byte that is listed as readable is read once, a record
 * appended after it is found again, and removing leaves nothing.
 */

#include "daemon/agent/segment.h"

#include <fcntl.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ID "ex-1"
#define CHECK(c) \
	do { \
		if (!(c)) \
			abort(); \
	} while (0)

static char dir[64];

static void remove_dir(void)
{
	(void)segments_remove(dir, ID);
	(void)rmdir(dir);
}

static void write_segment(unsigned number, const void *p, size_t n)
{
	_cleanup_free_ char *path = str_printf("%s/" ID ".%04u", dir, number);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && write_all(fd, p, n) >= 0);
}

/* A whole segment with two records, whose offsets are larger than most that an input has. */
static void write_whole(unsigned number, uint64_t first)
{
	const uint64_t offset[STREAM_MAX] = { 0, first, first, 0 };
	struct record rec = { STREAM_STDOUT, 3, number };
	struct buf b;

	buf_init(&b, 4096);
	CHECK(segment_put_head(&b, offset) >= 0 && record_put(&b, &rec, "abc") >= 0);
	rec.stream = STREAM_STDERR;
	CHECK(record_put(&b, &rec, "def") >= 0);
	write_segment(number, buf_head(&b), buf_len(&b));
	buf_done(&b);
}

/* Reads from cursor to the end of the segment: returns the cursor at which nothing more comes. */
static uint64_t read_segment(const struct segment *s, uint64_t cursor)
{
	struct segment_place place = { SEGMENT_HEAD_SIZE, cursor_of(s->offset) };

	for (;;) {
		_cleanup_free_ uint8_t *p = NULL;
		struct segment_place before = place;
		uint64_t first;
		size_t n;

		CHECK(segment_read(dir, ID, s->number, s->size, &place, cursor, &p, &n, &first) >=
			0);
		if (!p)
			return first;
		CHECK(n > 0 && n <= SEGMENT_READ_MAX && first <= cursor);
		CHECK(place.cursor > cursor && place.at > before.at && place.at <= s->size);
		cursor = place.cursor;
	}
}

static void check_reading(const struct segments *l)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct segment *s = &l->items[i];
		uint64_t base = cursor_of(s->offset), end = read_segment(s, base);

		CHECK(base <= s->end && s->bad == UINT64_MAX);
		if (i + 1 < l->n) {
			CHECK(s->number < s[1].number && s->end == cursor_of(s[1].offset));
			continue;
		}
		CHECK(end == s->end && s->end == cursor_of(l->offset));
		if (end > base)
			CHECK(read_segment(s, end - 1) == end);
	}
}

static void check_times(const struct segments *l)
{
	static const uint64_t times[] = { 0, 1, 2, 1000, UINT64_MAX };
	uint64_t cursor = 0, last = 0;

	for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
		int r = segments_find_time(dir, ID, l, times[i], &cursor);

		CHECK(r == 0 || r == 1);
		if (r == 1 && i == 0)
			last = cursor;
		CHECK(r == 0 || cursor >= last);
	}
}

static bool same(const struct segments *a, const struct segments *b)
{
	if (a->n != b->n || a->next_number != b->next_number ||
		memcmp(a->offset, b->offset, sizeof(a->offset)) != 0)
		return false;
	for (size_t i = 0; i < a->n; i++) {
		const struct segment *x = &a->items[i], *y = &b->items[i];

		if (x->number != y->number || x->end != y->end || x->size != y->size ||
			memcmp(x->offset, y->offset, sizeof(x->offset)) != 0)
			return false;
	}
	return true;
}

/* Appends a record where the transcript would. */
static void check_appending(struct segments *l)
{
	struct segments again = { 0 };
	struct segment *last = &l->items[l->n - 1];
	struct record rec = { STREAM_PTY, 5, 7 };
	struct buf b;

	buf_init(&b, 4096);
	CHECK(record_put(&b, &rec, "hello") >= 0);
	if (last->size + buf_len(&b) <= SEGMENT_BYTES) {
		CHECK(segment_append(
			      dir, ID, last->number, last->size, buf_head(&b), buf_len(&b)) >= 0);
		CHECK(segments_list(dir, ID, &again) >= 0);
		CHECK(again.offset[STREAM_PTY] == l->offset[STREAM_PTY] + 5);
		CHECK(segment_append(dir, ID, last->number, last->size + 100, "x", 1) == -ESTALE);
		CHECK(segments_sync(dir, ID, l, 0) >= 0);
	}
	segments_done(&again);
	buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct segments l = { 0 }, again = { 0 };
	int r;

	if (size < 1 || size > 2 * SEGMENT_BYTES)
		return 0;
	if (!dir[0]) {
		strcpy(dir, "/tmp/fuzz-transcript-XXXXXX");
		CHECK(mkdtemp(dir));
		CHECK(atexit(remove_dir) == 0);
	}
	if (!(data[0] & 2))
		write_whole(0, 0);
	write_segment(1, data + 1, size - 1);
	if (data[0] & 1)
		write_whole(2, 1000);
	r = segments_list(dir, ID, &l);
	CHECK(r >= 0 || r == -EPROTONOSUPPORT);
	if (r >= 0) {
		CHECK(segments_list(dir, ID, &again) >= 0);
		again.next_number = l.next_number; /* a last one with a torn head is gone */
		CHECK(same(&l, &again));
		check_reading(&l);
		check_times(&l);
		if (l.n > 0)
			check_appending(&l);
	}
	segments_done(&again);
	CHECK(segments_copy(&again, &l) >= 0);
	if (again.n > 0) {
		CHECK(segment_unlink(dir, ID, again.items[0].number) >= 0);
		segments_drop_first(&again);
	}
	segments_done(&again);
	segments_done(&l);
	CHECK(segments_remove(dir, ID) >= 0 && segments_list(dir, ID, &l) >= 0 && l.n == 0);
	return 0;
}
