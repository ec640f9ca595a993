/* SPDX-License-Identifier: MIT */
/*
 * Transcripts: every reader gets every byte of its streams once and in order, or a gap in its
 * place, whatever is written, held back, dropped, lost, cut off or freed meanwhile; what was
 * reported as kept is there after a crash. Everything a reader gets is compared with what was
 * appended.
 */

#include "daemon/agent/segment.h"
#include "daemon/agent/transcript.h"

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "daemon/writer.h"

#define MODEL_MAX (64 * MIB)
#define LIMIT     (16 * MIB)
#define ID        "ex-0123456789ab"

/* Where there are many: libcheck records each assertion that holds, which is slow. */
#define EXPECT(c) \
	do { \
		if (!(c)) \
			ck_abort_msg("line %d: %s", __LINE__, #c); \
	} while (0)

static sd_event *event;
static struct writer *writer;
static char top[64], dir[80];
static struct transcript *t;

/* Faults of the file system */

ssize_t __real_pwrite64(int fd, const void *p, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *p, size_t n, off_t at);
ssize_t __real_pread64(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_pread64(int fd, void *p, size_t n, off_t at);
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static _Atomic int write_error, read_error, sync_error, written_before, syncs;

/* Fails after written_before bytes. */
ssize_t __wrap_pwrite64(int fd, const void *p, size_t n, off_t at)
{
	int before = written_before;

	if (write_error == 0)
		return __real_pwrite64(fd, p, n, at);
	if (before == 0) {
		errno = write_error;
		return -1;
	}
	n = MIN_OF(n, (size_t)before);
	written_before -= (int)n;
	return __real_pwrite64(fd, p, n, at);
}

ssize_t __wrap_pread64(int fd, void *p, size_t n, off_t at)
{
	if (read_error == 0)
		return __real_pread64(fd, p, n, at);
	errno = read_error;
	return -1;
}

int __wrap_fdatasync(int fd)
{
	syncs++;
	if (sync_error == 0)
		return __real_fdatasync(fd);
	errno = sync_error;
	return -1;
}

/* What was appended: the bytes and streams by cursor. */
static uint8_t *model, *model_stream;
static uint64_t model_n, model_offset[STREAM_MAX];

static uint8_t pattern(uint8_t stream, uint64_t offset)
{
	return (uint8_t)(offset * 31 + (offset >> 8) * 7 + (offset >> 16) * 13 + stream * 101U);
}

static int try_append(uint8_t stream, size_t n)
{
	int r;

	EXPECT(model_n + n <= MODEL_MAX);
	for (size_t i = 0; i < n; i++)
		model[model_n + i] = pattern(stream, model_offset[stream] + i);
	memset(model_stream + model_n, stream, n);
	r = transcript_append(t, stream, model + model_n, n);
	if (r < 0)
		return r;
	model_n += n;
	model_offset[stream] += n;
	return 0;
}

static void add(uint8_t stream, size_t n)
{
	ck_assert_int_eq(try_append(stream, n), 0);
}

/* Makes the model end at the cursor. */
static void cut_model(uint64_t cursor)
{
	ck_assert_uint_le(cursor, model_n);
	while (model_n > cursor)
		model_offset[model_stream[--model_n]]--;
}

/* The loop */

static uint64_t deadline(void)
{
	return now_usec() + 120 * USEC_PER_SEC;
}

static void run_once(uint64_t until)
{
	EXPECT(now_usec() < until);
	EXPECT(sd_event_run(event, USEC_PER_SEC) >= 0);
}

struct barrier {
	struct writer_op op;
	bool *passed;
	sem_t *gate; /* NULL: it does not wait */
};

static void run_barrier(struct writer_op *op)
{
	struct barrier *b = (struct barrier *)op;

	while (b->gate && sem_wait(b->gate) < 0)
		;
}

static void barrier_done(struct writer_op *op)
{
	*((struct barrier *)op)->passed = true;
}

static void barrier_free(struct writer_op *op)
{
	free(op);
}

static void queue_barrier(bool *passed, sem_t *gate)
{
	struct barrier *b = calloc(1, sizeof(*b));

	ck_assert_ptr_nonnull(b);
	*b = (struct barrier){ { .run = run_barrier, .done = barrier_done, .free = barrier_free },
		passed, gate };
	writer_queue(writer, &b->op);
}

static void run_events(void)
{
	int r;

	do {
		r = sd_event_run(event, 0);
		ck_assert_int_ge(r, 0);
	} while (r > 0);
}

/* Until nothing is left to do, for all that each round of the thread and the loop can start. */
static void settle(void)
{
	uint64_t until = deadline();

	for (int i = 0; i < 5; i++) {
		bool passed = false;

		run_events();
		queue_barrier(&passed, NULL);
		while (!passed)
			run_once(until);
	}
	run_events();
}

/* Holds back everything on the writer thread. */
static sem_t gate;
static bool gate_passed;

static void hold_thread(void)
{
	ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
	gate_passed = false;
	queue_barrier(&gate_passed, &gate);
}

static void release_thread(void)
{
	ck_assert_int_eq(sem_post(&gate), 0);
}

static bool all_kept(void)
{
	for (uint8_t i = STREAM_STDOUT; i < STREAM_MAX; i++) {
		if (transcript_kept(t, i) != transcript_size(t, i))
			return false;
	}
	return true;
}

static void wait_kept(void)
{
	uint64_t until = deadline();

	while (!all_kept())
		run_once(until);
}

/* Readers that check what they get */

struct reader {
	struct transcript_reader *r;
	unsigned streams;
	uint8_t at_stream; /* made by transcript_reader_new_at */
	uint64_t next;     /* cursor, or offset in that stream */
	uint64_t first;    /* cursor of the first byte that it got */
	uint64_t bytes, gap, top_up;
	unsigned gaps, caught_up, ends;
	uint64_t usec;
	int error;
	int fail;             /* what on_bytes returns */
	bool any, free_in[4]; /* frees itself in the n-th callback's kind */
	struct reader *victim;
	bool free_transcript;
};

enum { IN_BYTES, IN_GAP, IN_CAUGHT_UP, IN_END };

static bool frees(struct reader *m, int kind)
{
	if (!m->free_in[kind])
		return false;
	if (m->victim)
		m->victim->r = transcript_reader_free(m->victim->r);
	if (m->free_transcript)
		t = transcript_free(t);
	else
		m->r = transcript_reader_free(m->r);
	m->r = NULL;
	return true;
}

/* Nothing of the reader's streams lies between. */
static void skip_others(struct reader *m, uint64_t upto)
{
	unsigned wrong = 0;

	EXPECT(m->next <= upto);
	for (; m->next < upto; m->next++)
		wrong += m->streams >> model_stream[m->next] & 1;
	EXPECT(wrong == 0);
}

static int on_bytes(struct transcript_reader *r, uint8_t stream, const void *p, size_t n,
	uint64_t usec, void *userdata)
{
	struct reader *m = userdata;
	uint64_t from = transcript_reader_cursor(r) - n;
	unsigned wrong = 0;

	EXPECT(n > 0);
	EXPECT(m->streams >> stream & 1);
	EXPECT(m->ends == 0);
	EXPECT(usec >= m->usec);
	m->usec = usec;
	if (m->at_stream) {
		for (size_t i = 0; i < n; i++)
			wrong += ((const uint8_t *)p)[i] != pattern(stream, m->next + i);
	} else {
		skip_others(m, from);
		wrong = memcmp(p, model + from, n) != 0;
		for (size_t i = 0; i < n; i++)
			wrong += model_stream[from + i] != stream;
	}
	EXPECT(wrong == 0);
	if (!m->any)
		m->first = from;
	m->any = true;
	m->next += n;
	m->bytes += n;
	if (frees(m, IN_BYTES))
		return 0;
	if (m->top_up)
		transcript_reader_credit(r, n);
	return m->fail;
}

static void on_gap(struct transcript_reader *r, uint64_t n, void *userdata)
{
	struct reader *m = userdata;

	ck_assert_uint_gt(n, 0);
	if (!m->at_stream)
		skip_others(m, transcript_reader_cursor(r) - n);
	m->next += n;
	m->gap += n;
	m->gaps++;
	(void)frees(m, IN_GAP);
}

static void on_caught_up(struct transcript_reader *r, void *userdata)
{
	struct reader *m = userdata;

	ck_assert_uint_eq(transcript_reader_cursor(r), transcript_cursor(t));
	if (!m->at_stream)
		skip_others(m, model_n);
	m->caught_up++;
	(void)frees(m, IN_CAUGHT_UP);
}

static void on_end(_unused_ struct transcript_reader *r, int error, void *userdata)
{
	struct reader *m = userdata;

	m->ends++;
	m->error = error;
	if (error == 0 && !m->at_stream)
		skip_others(m, model_n);
	if (error == 0 && m->at_stream)
		ck_assert_uint_eq(m->next, model_offset[m->at_stream]);
	(void)frees(m, IN_END);
}

static const struct transcript_reader_callbacks reader_cb = { on_bytes, on_gap, on_caught_up,
	on_end };

static void read_from(struct reader *m, int64_t cursor, unsigned streams, uint64_t credit)
{
	*m = (struct reader){ .streams = streams };
	ck_assert_int_eq(transcript_reader_new(t, cursor, streams, &reader_cb, m, &m->r), 0);
	m->next = transcript_reader_cursor(m->r);
	transcript_reader_credit(m->r, credit);
}

static void read_at(struct reader *m, uint8_t stream, uint64_t offset, uint64_t credit)
{
	*m = (struct reader){ .streams = 1u << stream, .at_stream = stream, .next = offset };
	ck_assert_int_eq(transcript_reader_new_at(t, stream, offset, &reader_cb, m, &m->r), 0);
	transcript_reader_credit(m->r, credit);
}

static void wait_bytes(const struct reader *m, uint64_t n)
{
	uint64_t until = deadline();

	while (m->bytes < n)
		run_once(until);
	ck_assert_uint_eq(m->bytes, n);
}

static void wait_count(const unsigned *count, unsigned n)
{
	uint64_t until = deadline();

	while (*count < n)
		run_once(until);
	ck_assert_uint_eq(*count, n);
}

static void unread(struct reader *m)
{
	m->r = transcript_reader_free(m->r);
}

/* Reads everything from the beginning and checks it. Returns the bytes of gaps. */
static uint64_t read_all(void)
{
	struct reader m;

	read_from(&m, 0, TRANSCRIPT_BOTH | 1u << STREAM_PTY, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.bytes + m.gap, transcript_cursor(t));
	unread(&m);
	return m.gap;
}

/* Transcripts */

static uint64_t reported[STREAM_MAX];
static bool free_in_kept;

static void on_kept(struct transcript *of, uint8_t stream, uint64_t upto, _unused_ void *userdata)
{
	EXPECT(upto > reported[stream]);
	EXPECT(upto == transcript_kept(of, stream));
	EXPECT(upto <= transcript_size(of, stream));
	reported[stream] = upto;
	if (free_in_kept)
		t = transcript_free(t);
}

static const struct transcript_callbacks cb = { on_kept };

static void begin(uint64_t limit)
{
	ck_assert_int_eq(transcript_new(writer, dir, ID, limit, &cb, NULL, &t), 0);
}

static bool opened;
static int open_result;

static void on_open(int r, _unused_ void *userdata)
{
	ck_assert(!opened);
	opened = true;
	open_result = r;
}

/* Frees the transcript, if there is one, and opens it again. */
static int reopen(void)
{
	uint64_t until = deadline();

	t = transcript_free(t);
	opened = false;
	ck_assert_int_eq(transcript_open(writer, dir, ID, LIMIT, &cb, NULL, on_open, &t), 0);
	ck_assert_int_eq(transcript_append(t, STREAM_STDOUT, "x", 1), -EAGAIN);
	while (!opened)
		run_once(until);
	for (uint8_t i = 0; i < STREAM_MAX; i++)
		reported[i] = transcript_kept(t, i);
	return open_result;
}

static void expect_sizes(void)
{
	for (uint8_t i = STREAM_STDOUT; i < STREAM_MAX; i++)
		ck_assert_uint_eq(transcript_size(t, i), model_offset[i]);
	ck_assert_uint_eq(transcript_cursor(t), model_n);
}

static char *segment_path(unsigned number)
{
	char *path = str_printf("%s/" ID ".%04u", dir, number);

	ck_assert_ptr_nonnull(path);
	return path;
}

static uint64_t file_size(unsigned number)
{
	_cleanup_free_ char *path = segment_path(number);
	struct stat st;

	return stat(path, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

static uint64_t total_size(unsigned *ret_files)
{
	uint64_t total = 0;

	*ret_files = 0;
	for (unsigned i = 0; i < 100; i++) {
		total += file_size(i);
		*ret_files += file_size(i) > 0;
	}
	return total;
}

static void setup(void)
{
	strcpy(top, "/tmp/pyro-transcript-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(top));
	(void)snprintf(dir, sizeof(dir), "%s/vm", top);
	model = malloc(MODEL_MAX);
	model_stream = malloc(MODEL_MAX);
	ck_assert(model && model_stream);
	ck_assert_int_ge(sd_event_new(&event), 0);
	ck_assert_int_eq(writer_new(event, &writer), 0);
}

static int remove_one(
	const char *p, _unused_ const struct stat *st, _unused_ int f, _unused_ struct FTW *w)
{
	return remove(p);
}

static void teardown(void)
{
	t = transcript_free(t);
	writer = writer_free(writer);
	event = sd_event_unref(event);
	free(model);
	free(model_stream);
	(void)nftw(top, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Appends n bytes in pieces of both streams, as the window allows. */
static void fill(uint64_t n, size_t piece)
{
	for (uint64_t done = 0; done < n;) {
		size_t k = (size_t)MIN_OF(n - done, (uint64_t)piece);

		if (try_append(done / piece % 3 == 2 ? STREAM_STDERR : STREAM_STDOUT, k) == 0)
			done += k;
		else
			wait_kept();
	}
	wait_kept();
}

/* Bytes that never came; the model has them as zeros. */
static void skip(uint8_t stream, uint64_t n)
{
	memset(model + model_n, 0, n);
	memset(model_stream + model_n, stream, n);
	model_n += n;
	model_offset[stream] += n;
	ck_assert_int_eq(transcript_skip(t, stream, model_offset[stream]), 0);
}

/* Order, cursors, masks */

START_TEST(order_over_both_streams)
{
	struct reader live, late;
	struct stat st;
	_cleanup_free_ char *path = segment_path(0);

	begin(LIMIT);
	read_from(&live, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	settle();
	ck_assert_uint_eq(live.caught_up, 1);
	ck_assert_int_eq(access(dir, F_OK), -1); /* no file before the first byte */
	for (int i = 0; i < 300; i++)
		add(i % 3 ? STREAM_STDOUT : STREAM_STDERR, (size_t)(i * 7 % 501));
	wait_kept();
	wait_bytes(&live, model_n);
	expect_sizes();
	ck_assert_uint_eq(transcript_earliest(t), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	read_from(&late, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_bytes(&late, model_n);
	ck_assert_uint_eq(late.gaps, 0);
	transcript_end(t);
	wait_count(&late.ends, 1);
	wait_count(&live.ends, 1);
	ck_assert_int_eq(late.error, 0);
	ck_assert_int_eq(transcript_append(t, STREAM_STDOUT, "x", 1), -EPIPE);
}
END_TEST

START_TEST(wrong_calls)
{
	begin(LIMIT);
	ck_assert_int_eq(transcript_append(t, STREAM_STDIN, "x", 1), -EINVAL);
	ck_assert_int_eq(transcript_append(t, STREAM_MAX, "x", 1), -EINVAL);
	ck_assert_int_eq(transcript_append(t, STREAM_STDOUT, NULL, 0), 0);
	ck_assert_int_eq(transcript_skip(t, STREAM_STDOUT, UINT64_MAX), -ERANGE);
	t = transcript_free(t);
	for (int i = 0; i < 4; i++) {
		static const char *const ids[] = { "", "../x", ".x", "a/b" };

		ck_assert_int_eq(
			transcript_new(writer, dir, ids[i], LIMIT, &cb, NULL, &t), -EINVAL);
		ck_assert_int_eq(transcript_remove(writer, dir, ids[i], NULL, NULL), -EINVAL);
	}
	ck_assert_ptr_null(transcript_free(NULL));
	ck_assert_ptr_null(transcript_reader_free(NULL));
}
END_TEST

/* Every cursor into a few records, from the file and from memory, and all negative ones. */
START_TEST(every_cursor)
{
	struct reader m;

	begin(LIMIT);
	for (int i = 0; i < 10; i++)
		add(i & 1 ? STREAM_STDOUT : STREAM_STDERR, (size_t)(1 + i % 4));
	for (int pass = 0; pass < 3; pass++) {
		if (pass == 0)
			hold_thread();
		for (int64_t c = -30; c <= 30; c++) {
			uint64_t from = c >= 0 ? MIN_OF((uint64_t)c, model_n)
					       : model_n - MIN_OF((uint64_t)-c, model_n);

			read_from(&m, c, TRANSCRIPT_BOTH, UINT64_MAX);
			wait_count(&m.caught_up, 1);
			ck_assert_uint_eq(m.bytes, model_n - from);
			ck_assert_uint_eq(m.gaps, 0);
			unread(&m);
		}
		if (pass == 0)
			release_thread();
		wait_kept();
		if (pass == 1)
			ck_assert_int_eq(reopen(), 0);
	}
	read_from(&m, INT64_MIN, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_bytes(&m, model_n);
	unread(&m);
	read_from(&m, INT64_MAX, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.bytes, 0);
}
END_TEST

START_TEST(masks)
{
	struct reader out, err, none;

	begin(LIMIT);
	fill(3 * MIB, 9000);
	add(STREAM_PTY, 10);
	read_from(&out, 0, 1u << STREAM_STDOUT, UINT64_MAX);
	read_from(&err, 0, 1u << STREAM_STDERR, UINT64_MAX);
	read_from(&none, 0, 0, 1);
	wait_bytes(&out, model_offset[STREAM_STDOUT]);
	wait_bytes(&err, model_offset[STREAM_STDERR]);
	wait_count(&none.caught_up, 1);
	wait_count(&err.caught_up, 1);
	/* The cursor counts all streams, the credit those that are passed. */
	ck_assert_uint_eq(transcript_reader_cursor(err.r), model_n);
	ck_assert_uint_eq(transcript_reader_cursor(none.r), model_n);
}
END_TEST

/* From each offset of a stream: in memory, in files, dropped, and beyond the end. */
START_TEST(reader_of_one_stream_by_offset)
{
	static const uint64_t more[] = { 0, 1, 8999, 9000, 9001, 700000, 2000000, 3000000,
		UINT64_MAX };
	struct reader m;

	begin(3 * MIB);
	fill(5 * MIB, 9000);
	add(STREAM_STDERR, 100); /* in memory */
	add(STREAM_STDOUT, 100);
	add(STREAM_STDERR, 100);
	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		uint64_t size = transcript_size(t, STREAM_STDERR);
		uint64_t earliest = transcript_earliest_of(t, STREAM_STDERR);
		uint64_t from = MIN_OF(more[i], size);
		uint64_t gap = earliest - MIN_OF(earliest, from);

		ck_assert_uint_gt(earliest, 0);
		read_at(&m, STREAM_STDERR, more[i], UINT64_MAX);
		if (more[i] > size)
			m.next = size;
		wait_count(&m.caught_up, 1);
		ck_assert_uint_eq(m.gap, gap);
		ck_assert_uint_eq(m.bytes, size - from - gap);
		unread(&m);
	}
	for (uint64_t back = 0; back < 250; back++) {
		read_at(&m, STREAM_STDERR, model_offset[STREAM_STDERR] - back, UINT64_MAX);
		wait_count(&m.caught_up, 1);
		ck_assert_uint_eq(m.bytes, back);
		unread(&m);
	}
	ck_assert_int_eq(
		transcript_reader_new_at(t, STREAM_STDIN, 0, &reader_cb, &m, &m.r), -EINVAL);
}
END_TEST

/* Credit */

START_TEST(credit_stops_and_restarts)
{
	struct reader m;

	begin(LIMIT);
	add(STREAM_STDOUT, 1000);
	add(STREAM_STDERR, 1000);
	read_from(&m, 0, TRANSCRIPT_BOTH, 0);
	settle();
	ck_assert_uint_eq(m.bytes, 0);
	for (uint64_t n = 1; n <= 2000; n = n * 3 + 1) {
		transcript_reader_credit(m.r, n - m.bytes);
		settle();
		ck_assert_uint_eq(m.bytes, n);
		ck_assert_uint_eq(m.caught_up, 0);
	}
	transcript_reader_credit(m.r, 2000 - m.bytes);
	settle();
	ck_assert_uint_eq(m.bytes, 2000);
	ck_assert_uint_eq(m.caught_up, 1);
	add(STREAM_STDOUT, 5); /* no credit: it stays */
	settle();
	ck_assert_uint_eq(m.bytes, 2000);
	ck_assert_uint_eq(m.caught_up, 1);
	transcript_reader_credit(m.r, 5);
	settle();
	ck_assert_uint_eq(m.bytes, 2005);
	ck_assert_uint_eq(m.caught_up, 2);
	transcript_reader_credit(m.r, UINT64_MAX);
	transcript_reader_credit(m.r, UINT64_MAX); /* saturates */
	add(STREAM_STDOUT, 5);
	settle();
	ck_assert_uint_eq(m.bytes, 2010);
}
END_TEST

/* Nothing is kept while the thread is held back, and every reader has it all. */
START_TEST(live_readers_while_writes_are_held_back)
{
	struct reader m[3];

	begin(LIMIT);
	read_from(&m[0], 0, TRANSCRIPT_BOTH, UINT64_MAX);
	read_from(&m[1], 0, 1u << STREAM_STDERR, UINT64_MAX);
	read_from(&m[2], 0, TRANSCRIPT_BOTH, 10); /* lags: from memory too */
	hold_thread();
	for (int i = 0; i < 64; i++) {
		add(STREAM_STDOUT, 4096);
		add(STREAM_STDERR, 4096);
		run_events();
		ck_assert_uint_eq(m[0].bytes, model_n);
		ck_assert_uint_eq(m[1].bytes, model_n / 2);
	}
	ck_assert_uint_eq(m[2].bytes, 10);
	transcript_reader_credit(m[2].r, 100000);
	run_events();
	ck_assert_uint_eq(m[2].bytes, 100010);
	ck_assert_uint_eq(transcript_kept(t, STREAM_STDOUT), 0);
	/* The window is full. */
	ck_assert_int_eq(try_append(STREAM_STDOUT, 1), -ENOBUFS);
	ck_assert_int_eq(try_append(STREAM_STDERR, 1), -ENOBUFS);
	ck_assert(!gate_passed);
	release_thread();
	wait_kept();
	ck_assert_uint_eq(reported[STREAM_STDOUT], STREAM_WINDOW);
	add(STREAM_STDOUT, 1);
	transcript_reader_credit(m[2].r, UINT64_MAX);
	wait_bytes(&m[2], model_n);
	ck_assert_uint_eq(read_all(), 0);
}
END_TEST

/* Bytes one by one: they share records, so that memory and files stay small. */
START_TEST(single_bytes_share_records)
{
	begin(LIMIT);
	hold_thread();
	for (int i = 0; i < 100000; i++)
		add(STREAM_STDOUT, 1);
	release_thread();
	wait_kept();
	ck_assert_uint_lt(file_size(0), 200000);
	ck_assert_uint_eq(read_all(), 0);
	/* In turn they cannot. */
	for (int i = 0; i < 100000; i++)
		add(i & 1 ? STREAM_STDOUT : STREAM_STDERR, 1);
	wait_kept();
	ck_assert_uint_eq(read_all(), 0);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 0);
}
END_TEST

START_TEST(twenty_readers)
{
	struct reader m[20];
	uint64_t until;

	begin(LIMIT);
	fill(4 * MIB, 20011);
	for (int i = 0; i < 20; i++) {
		read_from(&m[i], i * 200003, i % 3 ? TRANSCRIPT_BOTH : 1u << STREAM_STDERR,
			(uint64_t)1000 * (uint64_t)(i * i * i + 1));
		m[i].top_up = 1;
	}
	fill(4 * MIB, 10007);
	until = deadline();
	for (int i = 0; i < 20; i++) {
		while (m[i].caught_up == 0 || transcript_reader_cursor(m[i].r) < model_n)
			run_once(until);
		ck_assert_uint_eq(m[i].gaps, 0);
		if (i % 3)
			ck_assert_uint_eq(m[i].bytes, model_n - (uint64_t)i * 200003);
	}
	transcript_end(t);
	for (int i = 0; i < 20; i++)
		wait_count(&m[i].ends, 1);
}
END_TEST

/* Limits */

START_TEST(limit_drops_the_oldest)
{
	struct reader m;
	unsigned files;

	begin(3 * MIB);
	for (int i = 0; i < 80; i++) {
		fill(128 * 1024, 30000);
		ck_assert_uint_le(total_size(&files), 3 * MIB);
		ck_assert_uint_le(files, 3);
	}
	settle();
	ck_assert_uint_ge(transcript_earliest(t), model_n - 3 * MIB);
	ck_assert_uint_le(transcript_earliest(t), model_n - MIB);
	read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.gaps, 1);
	ck_assert_uint_eq(m.gap, transcript_earliest(t));
	ck_assert_uint_eq(m.first, transcript_earliest(t));
	unread(&m);
	read_from(&m, -(int64_t)(8 * MIB), TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.gaps, 0);
	ck_assert_uint_eq(m.first, transcript_earliest(t));
	unread(&m);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), transcript_earliest(t));
}
END_TEST

/* The limit of the product: 16 MiB of files, whatever is appended. */
START_TEST(limit_of_a_command)
{
	unsigned files;

	begin(LIMIT_TRANSCRIPT_BYTES);
	fill(20 * MIB, 32768);
	settle();
	ck_assert_uint_le(total_size(&files), 16 * MIB);
	ck_assert_uint_eq(files, 16);
	ck_assert_uint_ge(transcript_cursor(t) - transcript_earliest(t), 15 * MIB);
	ck_assert_uint_eq(read_all(), transcript_earliest(t));
}
END_TEST

START_TEST(holding_reader_keeps_segments)
{
	struct reader m, other;
	unsigned files;

	begin(2 * MIB);
	read_from(&m, 0, TRANSCRIPT_BOTH, 0);
	transcript_reader_hold(m.r);
	read_from(&other, 0, TRANSCRIPT_BOTH, 0);
	fill(6 * MIB, 30000);
	settle();
	ck_assert_uint_eq(transcript_earliest(t), 0);
	ck_assert_uint_ge(total_size(&files), 6 * MIB);
	transcript_reader_credit(m.r, 5 * MIB / 2);
	wait_bytes(&m, 5 * MIB / 2);
	settle();
	ck_assert_uint_gt(transcript_earliest(t), MIB);
	ck_assert_uint_le(transcript_earliest(t), 5 * MIB / 2);
	transcript_reader_credit(m.r, UINT64_MAX);
	wait_bytes(&m, model_n);
	ck_assert_uint_eq(m.gaps, 0);
	settle();
	ck_assert_uint_le(total_size(&files), 2 * MIB);
	transcript_reader_credit(other.r, UINT64_MAX);
	wait_count(&other.caught_up, 1);
	ck_assert_uint_eq(other.gap, transcript_earliest(t));
}
END_TEST

/* It is dropped for others as soon as the holder is freed. */
START_TEST(freed_holder_holds_nothing)
{
	struct reader m;
	unsigned files;

	begin(2 * MIB);
	read_from(&m, 0, TRANSCRIPT_BOTH, 0);
	transcript_reader_hold(m.r);
	fill(4 * MIB, 30000);
	unread(&m);
	settle();
	ck_assert_uint_le(total_size(&files), 2 * MIB);
}
END_TEST

/* Freeing */

START_TEST(reader_freed_in_its_callback)
{
	struct reader m, next;

	begin(LIMIT);
	fill(MIB, 1000);
	hold_thread();
	read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	read_from(&next, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	m.free_in[_i] = true;
	if (_i == IN_GAP)
		skip(STREAM_STDOUT, 5 * MIB);
	if (_i == IN_END)
		transcript_end(t);
	release_thread();
	wait_bytes(&next, MIB);
	settle();
	ck_assert_ptr_null(m.r);
	ck_assert_uint_eq(m.caught_up + m.ends + m.gaps, _i == IN_BYTES ? 0 : 1);
}
END_TEST

START_TEST(reader_freed_by_another)
{
	struct reader m[3];

	begin(LIMIT);
	add(STREAM_STDOUT, 100);
	for (int i = 0; i < 3; i++)
		read_from(&m[i], 0, TRANSCRIPT_BOTH, 100);
	m[0].free_in[IN_BYTES] = m[1].free_in[IN_BYTES] = m[2].free_in[IN_BYTES] = true;
	m[0].victim = &m[1];
	settle();
	ck_assert_uint_eq(m[0].bytes, 100);
	ck_assert_uint_eq(m[1].bytes, 0);
	ck_assert_uint_eq(m[2].bytes, 100);
	wait_kept();
}
END_TEST

START_TEST(transcript_freed_in_a_callback)
{
	struct reader m[3];

	begin(LIMIT);
	for (int i = 0; i < 3; i++)
		read_from(&m[i], 0, TRANSCRIPT_BOTH, UINT64_MAX);
	if (_i == 4) {
		free_in_kept = true;
	} else {
		m[1].free_in[_i] = m[1].free_transcript = true;
		if (_i == IN_GAP)
			skip(STREAM_STDOUT, 1);
		if (_i == IN_END)
			transcript_end(t);
	}
	if (_i == IN_BYTES || _i == 4)
		add(STREAM_STDOUT, 100);
	for (uint64_t until = deadline(); t;)
		run_once(until);
	settle();
	ck_assert_uint_eq(m[2].bytes, _i == 4 ? 100 : 0);
	if (_i == IN_BYTES || _i == 4) {
		free_in_kept = false;
		ck_assert_int_eq(reopen(), 0);
		expect_sizes();
	}
}
END_TEST

/* What was appended is written: with a write under way, and more than one segment in memory. */
START_TEST(transcript_freed_with_writes_pending)
{
	begin(LIMIT);
	fill(900000, 30000);
	hold_thread();
	add(STREAM_STDOUT, 200000);
	run_events(); /* under way */
	add(STREAM_STDERR, STREAM_WINDOW);
	skip(STREAM_PTY, 7);
	add(STREAM_PTY, 1000);
	t = transcript_free(t);
	release_thread();
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 7);
}
END_TEST

/* A daemon's end: the thread finishes what commands have left. */
START_TEST(writer_ends_with_writes_pending)
{
	begin(LIMIT);
	hold_thread();
	add(STREAM_STDOUT, 200000);
	run_events();
	add(STREAM_STDERR, 200000);
	t = transcript_free(t);
	release_thread();
	writer = writer_free(writer);
	ck_assert_int_eq(writer_new(event, &writer), 0);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 0);
}
END_TEST

/* Opening */

START_TEST(open_after_a_clean_end)
{
	struct reader early;

	ck_assert_int_eq(reopen(), 0); /* no file: an empty one */
	expect_sizes();
	for (int i = 0; i < 4; i++) {
		fill(MIB, 12345);
		add(STREAM_PTY, 3);
		ck_assert_int_eq(reopen(), 0);
		expect_sizes();
		ck_assert_uint_eq(transcript_kept(t, STREAM_PTY), 3 * ((uint64_t)i + 1));
		ck_assert_uint_eq(read_all(), 0);
	}
	/* A reader that comes before it is open waits. */
	t = transcript_free(t);
	hold_thread();
	opened = false;
	ck_assert_int_eq(transcript_open(writer, dir, ID, LIMIT, &cb, NULL, on_open, &t), 0);
	read_from(&early, -10, TRANSCRIPT_BOTH | 1u << STREAM_PTY, UINT64_MAX);
	early.next = model_n - 10;
	run_events();
	release_thread();
	wait_bytes(&early, 10);
	ck_assert(opened);
	/* What is appended now comes from memory. */
	hold_thread();
	add(STREAM_STDOUT, 1000);
	run_events();
	ck_assert_uint_eq(early.bytes, 1010);
	release_thread();
}
END_TEST

static void cut_file(unsigned number, uint64_t size)
{
	_cleanup_free_ char *path = segment_path(number);

	ck_assert_int_eq(truncate(path, (off_t)size), 0);
}

/* The last record is cut at every byte. */
START_TEST(torn_record)
{
	uint64_t whole, cursor;

	begin(LIMIT);
	add(STREAM_STDOUT, 100);
	wait_kept();
	add(STREAM_STDERR, 50);
	wait_kept();
	whole = file_size(0);
	cursor = model_n;
	for (uint64_t cut = 1; cut <= RECORD_HEAD_SIZE + 50; cut++) {
		t = transcript_free(t);
		settle();
		cut_file(0, whole - cut);
		ck_assert_int_eq(reopen(), 0);
		cut_model(cursor - 50);
		expect_sizes();
		ck_assert_uint_eq(file_size(0), whole - RECORD_HEAD_SIZE - 50);
		ck_assert_uint_eq(read_all(), 0);
		add(STREAM_STDERR, 50);
		wait_kept();
		ck_assert_uint_eq(file_size(0), whole);
		ck_assert_uint_eq(read_all(), 0);
	}
}
END_TEST

static void write_file(const char *path, uint64_t at, const void *p, size_t n)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(__real_pwrite64(fd, p, n, (off_t)at), (int)n);
}

/* What is no record is cut: an unknown stream, length 0, too long, longer than the file, zeros. */
START_TEST(foreign_bytes_at_the_end)
{
	static const struct {
		size_t n;
		uint8_t bytes[20];
	} ends[] = {
		{ 13 + 1, { 0, 1 } },
		{ 13 + 1, { 4, 1 } },
		{ 13 + 1, { 0x81, 1 } },
		{ 13 + 1, { 255, 1 } },
		{ 13, { 1, 0 } },
		{ 20, { 1, 8 } },
		{ 20, { 1, 0, 0x80, 1 } },
		{ 20, { 1, 0xff, 0xff, 0xff, 0xff } },
		{ 20, { 0 } },
	};
	_cleanup_free_ char *path = segment_path(0);
	uint64_t whole;

	begin(LIMIT);
	add(STREAM_STDOUT, 100);
	wait_kept();
	whole = file_size(0);
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		t = transcript_free(t);
		settle();
		write_file(path, whole, ends[i].bytes, ends[i].n);
		ck_assert_int_eq(reopen(), 0);
		expect_sizes();
		ck_assert_uint_eq(file_size(0), whole);
		ck_assert_uint_eq(read_all(), 0);
	}
	/* Beyond 1 MiB nothing is a record, in however large a file. */
	t = transcript_free(t);
	settle();
	cut_file(0, 1ULL << 40);
	ck_assert_int_eq(reopen(), 0);
	ck_assert_uint_eq(file_size(0), whole);
}
END_TEST

/* A segment whose head is torn at any byte is removed; the one before goes on. */
START_TEST(torn_head)
{
	uint64_t before;

	begin(LIMIT);
	fill(MIB + 20000, 20000);
	ck_assert_uint_gt(file_size(1), 0);
	t = transcript_free(t);
	settle();
	before = file_size(0);
	for (int cut = SEGMENT_HEAD_SIZE - 1; cut >= 0; cut--) {
		_cleanup_free_ char *path = segment_path(1);
		uint8_t head[SEGMENT_HEAD_SIZE] = "pyrotran\1";

		write_file(path, 0, head, sizeof(head));
		cut_file(1, (uint64_t)cut);
		ck_assert_int_eq(reopen(), 0);
		ck_assert_int_eq(access(path, F_OK), -1);
		cut_model(transcript_cursor(t));
		expect_sizes();
		ck_assert_uint_eq(file_size(0), before);
	}
	/* Also when it is whole but for one bit, and several of them. */
	fill(MIB, 20000);
	t = transcript_free(t);
	settle();
	for (unsigned bit = 0; bit < SEGMENT_HEAD_SIZE * 8; bit++) {
		_cleanup_free_ char *path = segment_path(7), *path2 = segment_path(8);
		_cleanup_free_ char *from = segment_path(0);
		uint8_t head[SEGMENT_HEAD_SIZE];
		_cleanup_close_ int fd = open(from, O_RDONLY | O_CLOEXEC);

		ck_assert_int_eq(__real_pread64(fd, head, sizeof(head), 0), sizeof(head));
		head[bit / 8] ^= (uint8_t)(1 << bit % 8);
		write_file(path, 0, head, sizeof(head));
		write_file(path2, 0, head, sizeof(head));
		if (bit / 8 >= 8 && bit / 8 < 12) { /* of a newer version: not ours to cut */
			if ((bit == 64))
				continue; /* version 0 */
			ck_assert_int_eq(reopen(), -EPROTONOSUPPORT);
			ck_assert_int_eq(access(path, F_OK) + access(path2, F_OK), 0);
			ck_assert_int_eq(
				transcript_append(t, STREAM_STDOUT, "x", 1), -EPROTONOSUPPORT);
			continue;
		}
		ck_assert_int_eq(reopen(), 0);
		ck_assert_int_eq(access(path, F_OK) + access(path2, F_OK), -2);
		expect_sizes();
	}
}
END_TEST

START_TEST(missing_middle_segment)
{
	_cleanup_free_ char *path = segment_path(1);
	struct reader m;
	uint64_t gap;

	begin(LIMIT);
	fill(4 * MIB, 30000);
	t = transcript_free(t);
	settle();
	if (_i == 0) {
		ck_assert_int_eq(unlink(path), 0);
	} else if (_i == 1) { /* its head is foreign */
		write_file(path, 3, "x", 1);
	} else if (_i == 2) { /* it is a link */
		ck_assert_int_eq(unlink(path), 0);
		ck_assert_int_eq(symlink("/dev/zero", path), 0);
	} else if (_i == 3) { /* of another command, with offsets beyond the next one's */
		uint64_t offset[STREAM_MAX] = { 0, 1ULL << 40, 1ULL << 40, 0 };
		struct buf head;

		buf_init(&head, SEGMENT_HEAD_SIZE);
		ck_assert_int_eq(segment_put_head(&head, offset), 0);
		write_file(path, 0, buf_head(&head), buf_len(&head));
		buf_done(&head);
	}
	ck_assert_int_eq(reopen(), 0);
	if (_i == 4) /* while the transcript is open */
		ck_assert_int_eq(unlink(path), 0);
	if (_i == 5) /* cut */
		ck_assert_int_eq(truncate(path, 200000), 0);
	if (_i == 6) /* foreign bytes in place of records */
		write_file(path, SEGMENT_HEAD_SIZE + 7 * (RECORD_HEAD_SIZE + 30000),
			(const uint8_t[100000]){ 0 }, 100000);
	expect_sizes();
	gap = read_all();
	ck_assert_uint_ge(gap, MIB / 2);
	ck_assert_uint_le(gap, MIB);
	/* A reader that begins in the gap, and one by offset that has something before it. */
	read_from(&m, 3 * MIB / 2, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.gaps, 1);
	unread(&m);
	read_at(&m, STREAM_STDOUT, 1000, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.gaps, 1);
	ck_assert_uint_eq(m.bytes + m.gap, model_offset[STREAM_STDOUT] - 1000);
}
END_TEST

/* Failing disks */

/* ENOSPC in the middle of a write, with readers at the end, a lagging one, and none. */
START_TEST(no_space)
{
	static const int errors[] = { ENOSPC, EDQUOT, EFBIG, EIO, EROFS };
	struct reader live;
	uint64_t before, lost;

	begin(LIMIT);
	fill(100000, 1000);
	read_from(&live, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_bytes(&live, model_n);
	before = file_size(0);
	written_before = 5000;
	write_error = errors[_i];
	lost = model_n;
	add(STREAM_STDOUT, 20000);
	add(STREAM_STDERR, 20000);
	wait_kept(); /* the guest goes on */
	fill(STREAM_WINDOW, 10000);
	wait_bytes(&live, model_n);
	ck_assert_uint_eq(live.gaps, 0);
	ck_assert_uint_eq(file_size(0), before); /* no half record */
	ck_assert_uint_eq(file_size(1), 0);
	lost = model_n - lost;
	ck_assert_uint_eq(read_all(), lost);
	write_error = 0;
	fill(5000, 1000);
	wait_bytes(&live, model_n);
	ck_assert_uint_gt(file_size(1), 0); /* begins beyond the end of the one before */
	ck_assert_uint_eq(read_all(), lost);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), lost);
	fill(5000, 1000);
	ck_assert_uint_eq(read_all(), lost);
}
END_TEST

/* From the very first byte. */
START_TEST(no_space_at_first)
{
	struct reader m;

	begin(LIMIT);
	write_error = ENOSPC;
	fill(300000, 1000);
	settle();
	ck_assert_uint_eq(file_size(0), 0);
	ck_assert_uint_eq(transcript_earliest(t), model_n);
	read_from(&m, 5, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.caught_up, 1);
	ck_assert_uint_eq(m.gap, model_n - 5);
	write_error = 0;
	fill(1000, 10);
	wait_bytes(&m, 1000);
	ck_assert_uint_eq(transcript_earliest(t), 300000);
	unread(&m);
	/* All of it again: nothing on the disk, so an agent goes on beyond the size. */
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 300000);
}
END_TEST

/* The live caller of a command that holds gets every byte also from a full disk, at its pace. */
START_TEST(no_space_waits_for_the_holder)
{
	struct reader m, other;

	begin(LIMIT);
	fill(1000, 100);
	write_error = ENOSPC;
	read_from(&m, 0, TRANSCRIPT_BOTH, 0);
	transcript_reader_hold(m.r);
	read_from(&other, 0, TRANSCRIPT_BOTH, 0);
	add(STREAM_STDOUT, STREAM_WINDOW);
	settle();
	ck_assert_uint_eq(reported[STREAM_STDOUT] + reported[STREAM_STDERR], 1000);
	ck_assert_int_eq(try_append(STREAM_STDOUT, 1), -ENOBUFS);
	transcript_reader_credit(m.r, 200000);
	settle();
	ck_assert_int_eq(try_append(STREAM_STDOUT, 1), -ENOBUFS);
	transcript_reader_credit(m.r, UINT64_MAX);
	wait_bytes(&m, model_n);
	wait_kept();
	write_error = 0;
	add(STREAM_STDOUT, 10);
	wait_bytes(&m, model_n);
	ck_assert_uint_eq(m.gaps, 0);
	transcript_reader_credit(other.r, UINT64_MAX);
	wait_bytes(&other, 1010);
	ck_assert_uint_eq(other.gap, STREAM_WINDOW);
}
END_TEST

START_TEST(unreadable_file)
{
	struct reader m;

	begin(LIMIT);
	fill(1000, 100);
	read_error = EIO;
	read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.ends, 1);
	ck_assert_int_eq(m.error, -EIO);
	settle();
	ck_assert_uint_eq(m.ends, 1);
	unread(&m);
	ck_assert_int_eq(reopen(), -EIO);
	read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	wait_count(&m.ends, 1);
	ck_assert_int_eq(m.error, -EIO);
	unread(&m);
	read_error = 0;
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 0);
}
END_TEST

START_TEST(callback_fails)
{
	struct reader m;

	begin(LIMIT);
	add(STREAM_STDOUT, 10);
	read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	m.fail = -ECANCELED;
	wait_count(&m.ends, 1);
	ck_assert_int_eq(m.error, -ECANCELED);
	add(STREAM_STDOUT, 10);
	settle();
	ck_assert_uint_eq(m.bytes, 10);
}
END_TEST

static int sync_results[3];

static void on_sync(int r, void *userdata)
{
	*(int *)userdata = r;
}

static void on_sync_free(int r, void *userdata)
{
	*(int *)userdata = r;
	t = transcript_free(t);
}

START_TEST(synchronised)
{
	uint64_t until = deadline();

	begin(LIMIT);
	for (int i = 0; i < 3; i++)
		sync_results[i] = 1;
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[0]), 0);
	while (sync_results[0] == 1)
		run_once(until);
	ck_assert_int_eq(sync_results[0], 0); /* nothing to do */
	ck_assert_int_eq(syncs, 0);
	sync_results[0] = 1;
	fill(2 * MIB + 5, 30000);
	add(STREAM_STDOUT, 10);
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[0]), 0);
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[1]), 0);
	while (sync_results[1] == 1)
		run_once(until);
	ck_assert_int_eq(sync_results[0] | sync_results[1], 0);
	ck_assert(all_kept());
	ck_assert_int_eq(syncs, 3); /* each segment once */
	add(STREAM_STDOUT, 10);
	sync_error = EIO;
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[2]), 0);
	while (sync_results[2] == 1)
		run_once(until);
	ck_assert_int_eq(sync_results[2], -EIO);
	ck_assert_int_eq(syncs, 4); /* only what has changed */
	sync_error = 0;
	add(STREAM_STDOUT, 10);
	ck_assert_int_eq(transcript_sync(t, on_sync_free, &sync_results[2]), 0);
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[1]), 0);
	while (t)
		run_once(until);
	settle();
	ck_assert_int_eq(sync_results[2], 0);
	/* After a restart nobody knows what is on the disk. */
	syncs = 0;
	ck_assert_int_eq(reopen(), 0);
	sync_results[0] = 1;
	ck_assert_int_eq(transcript_sync(t, on_sync, &sync_results[0]), 0);
	while (sync_results[0] == 1)
		run_once(until);
	ck_assert_int_eq(sync_results[0], 0);
	ck_assert_int_eq(syncs, 3);
}
END_TEST

/* Skipping, times, removing */

START_TEST(skipped_bytes_are_a_gap)
{
	struct reader live, by_offset;

	begin(LIMIT);
	read_from(&live, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	read_at(&by_offset, STREAM_STDERR, 0, UINT64_MAX);
	add(STREAM_STDOUT, 10);
	skip(STREAM_STDOUT, 2 * MIB);
	add(STREAM_STDERR, 10);
	skip(STREAM_STDERR, 5);
	skip(STREAM_STDOUT, 6);
	wait_kept();
	expect_sizes();
	wait_bytes(&live, 20);
	ck_assert_uint_eq(live.gap, 2 * MIB + 11);
	ck_assert_int_eq(transcript_skip(t, STREAM_STDERR, 3), 0); /* has it */
	ck_assert_uint_eq(by_offset.gap, 5);
	ck_assert_uint_eq(by_offset.bytes, 10);
	ck_assert_uint_eq(read_all(), 2 * MIB + 11);
	add(STREAM_STDERR, 1);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), 2 * MIB + 11);
}
END_TEST

/* Waits for the clock to be later by more than bytes can share. */
static uint64_t later(void)
{
	uint64_t from = wall_usec();

	while (wall_usec() < from + 20 * USEC_PER_MSEC)
		(void)sd_event_run(event, 10 * USEC_PER_MSEC);
	return wall_usec();
}

/* Everything from a time on: in an old segment, a new one, memory, and in the future. */
START_TEST(since)
{
	uint64_t times[6], cursors[6];

	begin(3 * MIB);
	for (int i = 0; i < 6; i++) {
		cursors[i] = model_n;
		times[i] = later();
		if (i < 4)
			fill(MIB + 77, 30000);
		else if (i < 5)
			add(STREAM_STDOUT, 10); /* stays in memory */
		if (i == 3)
			hold_thread();
	}
	release_thread();
	for (int i = 0; i < 7; i++) {
		uint64_t from = i < 6 ? MAX_OF(cursors[i], transcript_earliest(t)) : 0;
		struct reader m;

		read_from(&m, 0, TRANSCRIPT_BOTH, UINT64_MAX);
		transcript_reader_since(m.r, i < 6 ? times[i] : 0);
		if (i < 6)
			m.next = from;
		wait_count(&m.caught_up, 1);
		ck_assert_uint_eq(m.bytes + m.gap, model_n - from);
		unread(&m);
		/* The later of the two counts; it may be freed while it searches. */
		read_from(&m, -5, TRANSCRIPT_BOTH, UINT64_MAX);
		transcript_reader_since(m.r, 1);
		m.next = model_n - 5;
		if (i == 3)
			unread(&m);
		settle();
		if (i != 3) {
			ck_assert_uint_eq(m.bytes, 5);
			unread(&m);
		}
	}
}
END_TEST

static int removed;

static void on_removed(int r, _unused_ void *userdata)
{
	removed = r;
}

START_TEST(removed_with_writes_pending)
{
	_cleanup_free_ char *other = str_printf("%s/ex-other.0000", dir);
	uint64_t until = deadline();

	begin(LIMIT);
	fill(2 * MIB, 30000);
	write_file(other, 0, "x", 1);
	add(STREAM_STDOUT, 10);
	t = transcript_free(t);
	removed = 1;
	ck_assert_int_eq(transcript_remove(writer, dir, ID, on_removed, NULL), 0);
	while (removed == 1)
		run_once(until);
	ck_assert_int_eq(removed, 0);
	ck_assert_int_eq(unlink(other), 0);
	ck_assert_int_eq(rmdir(dir), 0); /* nothing else is there */
	ck_assert_int_eq(transcript_remove(writer, dir, ID, NULL, NULL), 0);
	settle();
}
END_TEST

/* A real full file system, that empties again. */

static void setup_small(void)
{
	setup();
	if (geteuid() != 0)
		return;
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("tmpfs", top, "tmpfs", 0, "size=1536k"), 0);
}

static void teardown_small(void)
{
	t = transcript_free(t);
	writer = writer_free(writer);
	if (geteuid() == 0)
		(void)umount2(top, MNT_DETACH);
	teardown();
}

START_TEST(full_file_system)
{
	struct reader live;
	uint64_t lost;

	if (geteuid() != 0)
		return; /* cannot mount one: no_space has shown the same with an injected error */
	/* This thread is in another mount namespace than the writer's. */
	writer = writer_free(writer);
	ck_assert_int_eq(writer_new(event, &writer), 0);
	begin(LIMIT);
	read_from(&live, 0, TRANSCRIPT_BOTH, UINT64_MAX);
	fill(3 * MIB, 30000);
	wait_bytes(&live, model_n);
	lost = read_all();
	ck_assert_uint_gt(lost, MIB);
	ck_assert_uint_lt(lost, 5 * MIB / 2);
	ck_assert_int_eq(mount(NULL, top, NULL, MS_REMOUNT, "size=64m"), 0);
	fill(2 * MIB, 30000);
	wait_bytes(&live, model_n);
	ck_assert_uint_eq(read_all(), lost);
	ck_assert_int_eq(reopen(), 0);
	expect_sizes();
	ck_assert_uint_eq(read_all(), lost);
}
END_TEST

/* Random steps against the model. A crash is a copy of the files at a moment at which the thread
 * may be anywhere, in half of the cases cut at any byte of the last one. */

static uint64_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % n;
}

static void copy_file(const char *from, const char *to, uint64_t size)
{
	_cleanup_free_ uint8_t *p = malloc(size + 1);
	_cleanup_close_ int fd = open(from, O_RDONLY | O_CLOEXEC);

	ck_assert(p && fd >= 0);
	ck_assert_int_eq(__real_pread64(fd, p, size, 0), (int)size);
	write_file(to, 0, p, size);
}

static unsigned crashes;
static bool lossy; /* since the last one, writes have failed */

/* Continues in a copy of the directory. */
static void crash(void)
{
	uint64_t kept[STREAM_MAX], last = 0;
	char old[sizeof(dir)];
	bool cut = rnd(2);

	for (uint8_t i = 0; i < STREAM_MAX; i++)
		kept[i] = transcript_kept(t, i);
	strcpy(old, dir);
	(void)snprintf(dir, sizeof(dir), "%s/vm%u", top, ++crashes);
	ck_assert_int_eq(mkdir(dir, 0700), 0);
	for (unsigned i = 0; i < 1000; i++) {
		_cleanup_free_ char *from = str_printf("%s/" ID ".%04u", old, i);
		_cleanup_free_ char *to = segment_path(i);
		struct stat st;

		if (stat(from, &st) < 0)
			continue;
		copy_file(from, to, (uint64_t)st.st_size);
		last = i;
	}
	if (cut && file_size((unsigned)last) > 0)
		cut_file((unsigned)last, rnd((uint32_t)file_size((unsigned)last)));
	ck_assert_int_eq(reopen(), 0);
	cut_model(transcript_cursor(t));
	expect_sizes();
	for (uint8_t i = STREAM_STDOUT; !cut && !lossy && i < STREAM_MAX; i++)
		ck_assert_uint_ge(transcript_size(t, i), kept[i]);
	lossy = false;
}

START_TEST(random_steps)
{
	const char *given = getenv("PYRO_TEST_SEED");
	struct reader m[6] = { 0 };

	seed = given ? strtoull(given, NULL, 10) + (unsigned)_i : (unsigned)_i;
	begin(3 * MIB);
	for (int step = 0; step < 2500 && model_n < MODEL_MAX - MIB; step++) {
		struct reader *x = &m[rnd(ARRAY_SIZE(m))];
		uint32_t what = rnd(100);

		if (what < 40) {
			(void)try_append(
				(uint8_t)(STREAM_STDOUT + rnd(2)), rnd(4) ? rnd(100) : rnd(100000));
		} else if (what < 50) {
			unread(x);
			if (rnd(3) == 0) {
				uint8_t stream = (uint8_t)(STREAM_STDOUT + rnd(2));

				read_at(x, stream, rnd((uint32_t)model_offset[stream] + 1), 0);
			} else {
				read_from(x,
					rnd(3) ? (int64_t)rnd((uint32_t)model_n + 1)
					       : -(int64_t)rnd(100000),
					rnd(2) ? TRANSCRIPT_BOTH : 1u << (STREAM_STDOUT + rnd(2)),
					0);
			}
			if (rnd(6) == 0)
				transcript_reader_hold(x->r);
		} else if (what < 75) {
			if (x->r)
				transcript_reader_credit(x->r, rnd(2) ? rnd(100) : rnd(300000));
		} else if (what < 90) {
			ck_assert_int_ge(sd_event_run(event, 0), 0);
		} else if (what < 94) {
			run_events();
		} else if (what == 94) {
			skip((uint8_t)(STREAM_STDOUT + rnd(2)), 1 + rnd(2000));
			lossy = true; /* nothing of it is in the file before the next bytes */
		} else if (what < 98) {
			settle();
		} else if (what == 98) {
			write_error = write_error || rnd(2) ? 0 : ENOSPC;
			written_before = (int)rnd(5000);
			lossy = lossy || write_error;
		} else {
			for (size_t i = 0; i < ARRAY_SIZE(m); i++)
				unread(&m[i]);
			write_error = 0;
			crash();
		}
	}
	write_error = 0;
	for (size_t i = 0; i < ARRAY_SIZE(m); i++) {
		if (m[i].r)
			transcript_reader_credit(m[i].r, UINT64_MAX);
	}
	transcript_end(t);
	for (size_t i = 0; i < ARRAY_SIZE(m); i++) {
		if (!m[i].r)
			continue;
		wait_count(&m[i].ends, 1);
		ck_assert_int_eq(m[i].error, 0);
	}
}
END_TEST

static void add_tests(TCase *tc)
{
	tcase_add_test(tc, order_over_both_streams);
	tcase_add_test(tc, wrong_calls);
	tcase_add_test(tc, every_cursor);
	tcase_add_test(tc, masks);
	tcase_add_test(tc, reader_of_one_stream_by_offset);
	tcase_add_test(tc, credit_stops_and_restarts);
	tcase_add_test(tc, live_readers_while_writes_are_held_back);
	tcase_add_test(tc, single_bytes_share_records);
	tcase_add_test(tc, twenty_readers);
	tcase_add_test(tc, limit_drops_the_oldest);
	tcase_add_test(tc, limit_of_a_command);
	tcase_add_test(tc, holding_reader_keeps_segments);
	tcase_add_test(tc, freed_holder_holds_nothing);
	tcase_add_loop_test(tc, reader_freed_in_its_callback, 0, 4);
	tcase_add_test(tc, reader_freed_by_another);
	tcase_add_loop_test(tc, transcript_freed_in_a_callback, 0, 5);
	tcase_add_test(tc, transcript_freed_with_writes_pending);
	tcase_add_test(tc, writer_ends_with_writes_pending);
	tcase_add_test(tc, open_after_a_clean_end);
	tcase_add_test(tc, torn_record);
	tcase_add_test(tc, foreign_bytes_at_the_end);
	tcase_add_test(tc, torn_head);
	tcase_add_loop_test(tc, missing_middle_segment, 0, 7);
	tcase_add_loop_test(tc, no_space, 0, 5);
	tcase_add_test(tc, no_space_at_first);
	tcase_add_test(tc, no_space_waits_for_the_holder);
	tcase_add_test(tc, unreadable_file);
	tcase_add_test(tc, callback_fails);
	tcase_add_test(tc, synchronised);
	tcase_add_test(tc, skipped_bytes_are_a_gap);
	tcase_add_test(tc, since);
	tcase_add_test(tc, removed_with_writes_pending);
	tcase_add_loop_test(tc, random_steps, 1, 9);
}

int main(void)
{
	Suite *suite = suite_create("transcript");
	TCase *tc = tcase_create("transcript"), *small = tcase_create("small");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	add_tests(tc);
	suite_add_tcase(suite, tc);
	tcase_set_timeout(small, 120);
	tcase_add_checked_fixture(small, setup_small, teardown_small);
	tcase_add_test(small, full_file_system);
	suite_add_tcase(suite, small);
	sr = srunner_create(suite);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
