/* SPDX-License-Identifier: MIT */
/*
 * The writer thread: operations run one after the other and complete on the loop in their order; at
 * the end the queue is finished; one that waits can be cancelled; a slow one holds up no event of
 * the loop. And the file operations of transcripts: what they refuse to open.
 */

#include "daemon/agent/segment.h"
#include "daemon/writer.h"

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/stat.h>

static sd_event *event;
static struct writer *writer;
static char dir[64];
static sem_t gate; /* holds back the thread */

struct job {
	struct writer_op op;
	unsigned n;
	bool waits;
	int *runs, *dones, *frees; /* borrowed: counters */
	bool on_thread;
};

static pthread_t loop_thread;
static _Atomic unsigned next_run;
static unsigned next_done;

static void run_job(struct writer_op *op)
{
	struct job *j = (struct job *)op;

	if (j->waits)
		while (sem_wait(&gate) < 0)
			;
	ck_assert_uint_eq(j->n, next_run);
	next_run++;
	j->on_thread = !pthread_equal(pthread_self(), loop_thread);
	(*j->runs)++;
}

static void job_done(struct writer_op *op)
{
	struct job *j = (struct job *)op;

	ck_assert(j->on_thread && pthread_equal(pthread_self(), loop_thread));
	ck_assert_uint_eq(j->n, next_done);
	next_done++;
	(*j->dones)++;
}

static void job_free(struct writer_op *op)
{
	struct job *j = (struct job *)op;

	(*j->frees)++;
	free(j);
}

static int runs, dones, frees;

static struct job *queue(unsigned n, bool waits)
{
	struct job *j = calloc(1, sizeof(*j));

	ck_assert_ptr_nonnull(j);
	*j = (struct job){ .op = { .run = run_job, .done = job_done, .free = job_free },
		.n = n,
		.waits = waits,
		.runs = &runs,
		.dones = &dones,
		.frees = &frees };
	writer_queue(writer, &j->op);
	return j;
}

static void run_until(const int *counter, int value)
{
	uint64_t deadline = now_usec() + 30 * USEC_PER_SEC;

	while (*counter < value) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(event, USEC_PER_SEC), 0);
	}
}

static void setup(void)
{
	strcpy(dir, "/tmp/pyro-writer-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(sem_init(&gate, 0, 0), 0);
	loop_thread = pthread_self();
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
	writer = writer_free(writer);
	event = sd_event_unref(event);
	(void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

START_TEST(order)
{
	for (unsigned i = 0; i < 1000; i++)
		queue(i, false);
	run_until(&dones, 1000);
	ck_assert_int_eq(frees, 1000);
}
END_TEST

static int on_tick(sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	if (++*(int *)userdata < 20)
		return sd_event_source_set_time_relative(s, USEC_PER_MSEC) < 0 ||
		       sd_event_source_set_enabled(s, SD_EVENT_ONESHOT) < 0;
	return 0;
}

/* The loop goes on while an operation waits for its disk, and sees its end afterwards. */
START_TEST(loop_goes_on)
{
	sd_event_source *timer = NULL;
	int ticks = 0;

	queue(0, true);
	queue(1, false);
	ck_assert_int_ge(
		sd_event_add_time_relative(event, &timer, CLOCK_MONOTONIC, 0, 0, on_tick, &ticks),
		0);
	run_until(&ticks, 20);
	ck_assert_int_eq(dones, 0);
	ck_assert_int_eq(sem_post(&gate), 0);
	run_until(&dones, 2);
	sd_event_source_disable_unref(timer);
}
END_TEST

START_TEST(end_finishes_the_queue)
{
	queue(0, true);
	for (unsigned i = 1; i < 100; i++)
		queue(i, false);
	ck_assert_int_eq(sem_post(&gate), 0);
	writer = writer_free(writer);
	ck_assert_int_eq(runs, 100);
	ck_assert_int_eq(dones, 0);
	ck_assert_int_eq(frees, 100);
}
END_TEST

START_TEST(cancel)
{
	struct job *waits, *last;

	queue(0, true);
	waits = queue(77, false);
	last = queue(1, false);
	ck_assert(writer_cancel(writer, &waits->op));
	ck_assert_int_eq(frees, 1);
	ck_assert_int_eq(sem_post(&gate), 0);
	while (next_run < 2) /* the thread has both; the loop has not been told */
		sched_yield();
	ck_assert(!writer_cancel(writer, &last->op));
	run_until(&dones, 2);
	ck_assert_int_eq(frees, 3);
}
END_TEST

START_TEST(free_takes_null)
{
	ck_assert_ptr_null(writer_free(NULL));
}
END_TEST

/* Files */

static int append(const char *where, uint64_t at, const char *text)
{
	return segment_append(where, "ex-1", 0, at, text, strlen(text));
}

static uint64_t size_of(const char *path)
{
	struct stat st;

	return lstat(path, &st) < 0 ? UINT64_MAX : (uint64_t)st.st_size;
}

START_TEST(append_makes_private_files)
{
	_cleanup_free_ char *where = str_printf("%s/t", dir);
	_cleanup_free_ char *path = str_printf("%s/t/ex-1.0000", dir);
	struct stat st;

	umask(0);
	ck_assert_int_eq(append(where, 0, "head"), 0);
	ck_assert_int_eq(append(where, 4, "more"), 0);
	ck_assert_int_eq(stat(where, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0700);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(st.st_size, 8);
	/* Never where the file is shorter; what is longer was never reported. */
	ck_assert_int_eq(append(where, 9, "x"), -ESTALE);
	ck_assert_int_eq(append(where, 5, "x"), 0);
	ck_assert_int_eq((int)size_of(path), 6);
	/* A segment begins once. */
	ck_assert_int_eq(append(where, 0, "x"), -EEXIST);
	ck_assert_int_eq((int)size_of(path), 6);
	ck_assert_int_eq(segment_unlink(where, "ex-1", 0), 0);
	ck_assert_int_eq(append(where, 6, "x"), -ENOENT);
	ck_assert_int_eq(segment_unlink(where, "ex-1", 0), -ENOENT);
}
END_TEST

START_TEST(links_and_fifos_are_refused)
{
	_cleanup_free_ char *where = str_printf("%s/t", dir);
	_cleanup_free_ char *path = str_printf("%s/t/ex-1.0000", dir);
	_cleanup_free_ char *victim = str_printf("%s/victim", dir);
	_cleanup_free_ char *link = str_printf("%s/link", dir);
	struct segment_place place = { SEGMENT_HEAD_SIZE, 0 };
	struct segments l = { 0 };
	uint8_t *bytes;
	uint64_t cursor;
	size_t n;

	ck_assert_int_eq(mkdir(where, 0700), 0);
	fd_close(open(victim, O_WRONLY | O_CREAT, 0600));
	ck_assert_int_eq(symlink(victim, path), 0);
	ck_assert_int_eq(append(where, 0, "x"), -EEXIST);
	ck_assert_int_eq(append(where, 1, "x"), -ELOOP);
	ck_assert_int_eq(
		segment_read(where, "ex-1", 0, 100, &place, 0, &bytes, &n, &cursor), -ELOOP);
	ck_assert_int_eq(segments_reserve(&l), 0);
	l.items[l.n++] = (struct segment){ 0 };
	ck_assert_int_eq(segments_sync(where, "ex-1", &l, 0), -ELOOP);
	segments_done(&l);
	ck_assert_int_eq(segments_list(where, "ex-1", &l), -ELOOP);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(append(where, 1, "x"), -ENXIO); /* nobody reads it */
	ck_assert_int_eq(
		segment_read(where, "ex-1", 0, 100, &place, 0, &bytes, &n, &cursor), -EINVAL);
	ck_assert_int_eq(segments_list(where, "ex-1", &l), -EINVAL);
	/* The directory itself is no link either. */
	ck_assert_int_eq(symlink(where, link), 0);
	ck_assert_int_eq(append(link, 0, "x"), -ENOTDIR);
	ck_assert_int_eq(segments_list(link, "ex-1", &l), -ENOTDIR);
	ck_assert_int_eq(segments_remove(link, "ex-1"), -ENOTDIR);
	ck_assert_int_eq((int)size_of(victim), 0);
}
END_TEST

/* Names of others, also those that look alike, stay. */
START_TEST(remove_takes_its_own)
{
	static const char *const names[] = { "ex-1.0000", "ex-1.0001", "ex-1.10000", "ex-1.00001",
		"ex-1.1", "ex-1.", "ex-1.000x", "ex-10.0000", "ex-1", "x" };
	_cleanup_free_ char *where = str_printf("%s/t", dir);

	ck_assert_int_eq(segments_remove(where, "ex-1"), 0); /* nothing there */
	ck_assert_int_eq(mkdir(where, 0700), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", where, names[i]);

		fd_close(open(path, O_WRONLY | O_CREAT, 0600));
	}
	ck_assert_int_eq(segments_remove(where, "ex-1"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", where, names[i]);

		ck_assert_int_eq(access(path, F_OK) == 0, i >= 3);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("writer");
	TCase *tc = tcase_create("writer");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, order);
	tcase_add_test(tc, loop_goes_on);
	tcase_add_test(tc, end_finishes_the_queue);
	tcase_add_test(tc, cancel);
	tcase_add_test(tc, free_takes_null);
	tcase_add_test(tc, append_makes_private_files);
	tcase_add_test(tc, links_and_fifos_are_refused);
	tcase_add_test(tc, remove_takes_its_own);
	suite_add_tcase(suite, tc);
	sr = srunner_create(suite);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
