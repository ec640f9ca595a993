/* SPDX-License-Identifier: MIT */
/*
 * Subordinate uids, and the account whose limits count for each. A name service is asked by a job,
 * in whose place the tests answer (the linker's --wrap), on a clock of their own.
 */

#include "daemon/account.h"

#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/job.h"
#include "daemon/log.h"
#include "daemon/subid.h"

static char dir[] = "/tmp/pyro-test-account-XXXXXX";
static char subuid[64], passwd[64], nsswitch[64];
static struct accounts *a;

static sd_event *event;
static struct job_spec job; /* that runs; on_done is NULL: none */
static uid_t asked;         /* by it */
static unsigned jobs, changes;
static uint64_t clock_usec, delay_usec;
static bool real_jobs;

int __real_job_start(sd_event *e, const struct job_spec *spec, struct job **ret);
int __wrap_job_start(sd_event *e, const struct job_spec *spec, struct job **ret);
struct job *__real_job_cancel(struct job *j);
struct job *__wrap_job_cancel(struct job *j);
uint64_t __real_now_usec(void);
uint64_t __wrap_now_usec(void);
int __real_sd_event_source_set_time_relative(sd_event_source *s, uint64_t usec);
int __wrap_sd_event_source_set_time_relative(sd_event_source *s, uint64_t usec);

int __wrap_job_start(sd_event *e, const struct job_spec *spec, struct job **ret)
{
	jobs++;
	if (real_jobs)
		return __real_job_start(e, spec, ret);
	ck_assert_ptr_null(job.on_done); /* one at a time */
	ck_assert_str_eq(spec->child.argv[0], "/pyro-subid");
	ck_assert_uint_ne(spec->timeout_usec, 0);
	job = *spec;
	asked = (uid_t)atoi(spec->child.argv[2]);
	*ret = (struct job *)&job;
	return 0;
}

struct job *__wrap_job_cancel(struct job *j)
{
	if (real_jobs)
		return __real_job_cancel(j);
	if (j)
		job = (struct job_spec){ 0 };
	return NULL;
}

uint64_t __wrap_now_usec(void)
{
	return __real_now_usec() + clock_usec;
}

int __wrap_sd_event_source_set_time_relative(sd_event_source *s, uint64_t usec)
{
	delay_usec = usec;
	return __real_sd_event_source_set_time_relative(s, 0);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
	(void)close(fd);
}

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(subuid, sizeof(subuid), "%s/subuid", dir);
	(void)snprintf(passwd, sizeof(passwd), "%s/passwd", dir);
	(void)snprintf(nsswitch, sizeof(nsswitch), "%s/nsswitch.conf", dir);
	put(passwd, "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
		    "annabel:x:1001:1001::/:/bin/sh\nbad:x\n");
	put(subuid,
		"ann:100000:65536\nannabel:165536:65536\n1002:300000:10\nnobody-we-know:400000:10\n"
		"no line\nann:x:1\nann:500000:1\n150000:600000:5\n");
	ck_assert_int_eq(accounts_new(subuid, passwd, &a), 0);
}

static void teardown(void)
{
	log_set_accounts(NULL, NULL);
	a = accounts_free(a);
	(void)unlink(subuid);
	(void)unlink(passwd);
	(void)unlink(nsswitch);
	event = sd_event_unref(event);
	ck_assert_int_eq(rmdir(dir), 0);
}

static uid_t find(uid_t uid)
{
	accounts_refresh(a);
	return accounts_find(a, uid);
}

START_TEST(owners)
{
	static const struct {
		uid_t uid, account;
	} rows[] = {
		{ 0, 0 }, { 1000, 1000 }, { 99999, 99999 }, { 100000, 1000 }, { 165535, 1000 },
		{ 165536, 1001 }, { 231071, 1001 }, { 231072, 231072 }, { 300009, 1002 },
		{ 300010, 300010 },
		{ 400003, 400000 },                 /* unknown owner: the range is one account */
		{ 500000, 1000 }, { 600004, 1000 }, /* ranges of ann's uid */
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		ck_assert_uint_eq(find(rows[i].uid), rows[i].account);
	ck_assert_uint_eq(accounts_find(NULL, 100000), 100000);
}
END_TEST

START_TEST(files_that_change)
{
	ck_assert_uint_eq(find(700000), 700000);
	put(subuid, "annabel:700000:10\n");
	ck_assert_uint_eq(find(700000), 1001);
	ck_assert_uint_eq(find(100000), 100000);
	ck_assert_int_eq(unlink(subuid), 0);
	ck_assert_uint_eq(find(700000), 700000);
	put(subuid, "bob:700000:10\n");
	ck_assert_uint_eq(find(700001), 700000);
	put(passwd, "bob:x:1003:1003::/:/bin/sh\n");
	ck_assert_uint_eq(find(700001), 1003);
}
END_TEST

START_TEST(ranges_that_overlap_or_point_at_each_other)
{
	put(subuid, "ann:1000000:1000\nannabel:1000500:10\n2000000:3000000:5\n3000000:2000000:5\n");
	ck_assert_uint_eq(find(1000505), 1001);
	ck_assert_uint_eq(find(1000600), 1000);
	(void)find(2000001); /* ends */
	put(subuid, "5:1000:1000\n6:1100:100\n7:1150:500\n8:1000:10\n9:1000:10\n10:1800:900\n");
	ck_assert_uint_eq(find(1005), 8);
	ck_assert_uint_eq(find(1010), 5);
	ck_assert_uint_eq(find(1149), 6);
	ck_assert_uint_eq(find(1199), 7);
	ck_assert_uint_eq(find(1649), 7);
	ck_assert_uint_eq(find(1650), 5);
	ck_assert_uint_eq(find(1800), 10);
	ck_assert_uint_eq(find(2699), 10);
	ck_assert_uint_eq(find(2700), 2700);
}
END_TEST

static uint64_t cpu_nsec(void)
{
	struct timespec t;

	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Writes both files with so many users, and returns the least time of reading them. */
static uint64_t time_of_reading(unsigned n_users)
{
	_cleanup_free_ char *users = malloc(64 * (size_t)n_users + 1),
			    *ranges = malloc(64 * (size_t)n_users + 1);
	size_t at = 0, at_range = 0;
	uint64_t least = UINT64_MAX;

	ck_assert(users && ranges);
	for (unsigned i = 0; i < n_users; i++) {
		at += (size_t)sprintf(
			users + at, "user%06u:x:%u:100::/home:/bin/sh\n", i, 10000 + i);
		at_range +=
			(size_t)sprintf(ranges + at_range, "user%06u:%u:10\n", i, 1000000 + 10 * i);
	}
	put(passwd, users);
	for (int i = 0; i < 3; i++) {
		uint64_t begin;

		put(subuid, ranges);
		begin = cpu_nsec();
		ck_assert_uint_eq(find(1000000 + 10 * n_users - 1), 10000 + n_users - 1);
		least = MIN_OF(least, cpu_nsec() - begin);
	}
	return least;
}

/* Returns the least time of 1000 questions about a uid that no range has. */
static uint64_t time_of_asking(void)
{
	const uid_t nobody = 4000000000;
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 5; i++) {
		uint64_t begin = cpu_nsec();
		int right = 0;

		for (int k = 0; k < 1000; k++)
			right += accounts_find(a, nobody) == nobody;
		least = MIN_OF(least, cpu_nsec() - begin);
		ck_assert_int_eq(right, 1000);
	}
	return least;
}

/* With 20,000 users each change of a file held up all calls for 13 s. */
START_TEST(many_users)
{
	uint64_t few = time_of_reading(2000), asked_few = time_of_asking(),
		 many = time_of_reading(8 * 2000), asked_many = time_of_asking();

	ck_assert_msg(many < 24 * few, "%llu ns, %llu ns", (unsigned long long)few,
		(unsigned long long)many);
	ck_assert_msg(asked_many < 4 * asked_few, "%llu ns, %llu ns", (unsigned long long)asked_few,
		(unsigned long long)asked_many);
}
END_TEST

START_TEST(nsswitch_lines)
{
	static const struct {
		const char *text, *source; /* NULL: none but files */
	} rows[] = {
		{ "", NULL }, { "passwd: files sss\n", NULL }, { "subid: files\n", NULL },
		{ "subid:files", NULL }, { "subid:\n", NULL }, { "subid: # sss\n", NULL },
		{ "# subid: sss\n", NULL }, { "#subid: sss", NULL }, { "subids: sss\n", NULL },
		{ "subid sss\n", NULL }, { "subid: files # sss\n", NULL },
		{ "subid: files#sss\n", NULL }, { "subid: [NOTFOUND=return]\n", NULL },
		{ "subid: files [sss\n", NULL }, { "subid: files [a] [b c] \t\r\n", NULL },
		{ "subid: sss\n", "sss" },
		{ "passwd: files\nsubid:\tsss\r\ngroup: files\n", "sss" },
		{ "  SubID: sss", "sss" }, { "subid:sss#x", "sss" },
		{ "subid: FILES sss ldap\n", "sss" },
		{ "subid: files [NOTFOUND=return SUCCESS=continue] sss\n", "sss" },
		{ "subid: sss[NOTFOUND=return] files", "sss" },
		{ "subid: filesystem\n", "filesystem" },
		{ "subid:\nsubid: sss\nsubid: files\n", "sss" },
		{ "subid: files\nsubid: sss\n", NULL }, /* libsubid stops at the first too */
		{ "subid: ../../x\n", "../../x" },      /* pyro-subid refuses it */
	};
	char source[SUBID_SOURCE_SIZE], name[100], line[200];
	_cleanup_free_ char *big = malloc(MIB + 1);

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		ck_assert_msg(subid_source(rows[i].text, source) == (rows[i].source != NULL), "%s",
			rows[i].text);
		if (rows[i].source)
			ck_assert_str_eq(source, rows[i].source);
	}
	for (int n = 49; n <= 52; n++) {
		(void)snprintf(name, sizeof(name), "%0*d", n, 0);
		(void)snprintf(line, sizeof(line), "subid: %s\n", name);
		ck_assert(subid_source(line, source));
		ck_assert_str_eq(source, n <= 50 ? name : "");
	}
	ck_assert_ptr_nonnull(big);
	memset(big, 'x', MIB);
	big[MIB] = '\0';
	ck_assert(!subid_source(big, source));
	memcpy(big, "subid:", 6);
	ck_assert(subid_source(big, source));
	ck_assert_str_eq(source, "");
	memset(big + 6, '[', MIB - 6);
	ck_assert(!subid_source(big, source));
	memset(big + 6, ' ', MIB - 6);
	ck_assert(!subid_source(big, source));
	memset(big, '\n', MIB);
	ck_assert(!subid_source(big, source));
}
END_TEST

static void on_change(void *userdata _unused_)
{
	changes++;
}

static void use_service(const char *program, const char *text)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	ck_assert_int_eq(accounts_use_service(a,
				 &(struct accounts_service){
					 .event = event,
					 .nsswitch_path = nsswitch,
					 .program = program,
				 }),
		0);
	accounts_watch(a, on_change, NULL);
	log_set_accounts(a, accounts_find);
	put(nsswitch, text);
	accounts_refresh(a);
	changes = jobs = 0;
}

/* Lets the next job start. */
static void turn(void)
{
	while (sd_event_run(event, 0) > 0)
		;
}

static void end_job(int status, const char *line)
{
	struct job_spec ended = job;
	char copy[200];
	size_t n = strlen(line);

	ck_assert_ptr_nonnull(job.on_done);
	job.on_done = NULL;
	memcpy(copy, line, n + 1);
	for (char *at = copy, *one; (one = strsep(&at, "\n"));)
		if (*one)
			ended.on_line((struct job *)&job, one, strlen(one), ended.userdata);
	ended.on_done((struct job *)&job, status, "", ended.userdata);
	turn();
}

START_TEST(service_answers)
{
	use_service("/pyro-subid", "subid: sss\n");
	/* What the files say is not asked. */
	ck_assert_uint_eq(find(0), 0);
	ck_assert_uint_eq(find(1000), 1000);
	ck_assert_uint_eq(find(100000), 1000);
	ck_assert_uint_eq(find(400003), 400000);
	turn();
	ck_assert_uint_eq(jobs, 0);
	ck_assert_uint_eq(find(700003), ACCOUNT_UNKNOWN);
	ck_assert_uint_eq(find(2000), ACCOUNT_UNKNOWN);
	turn();
	ck_assert_uint_eq(asked, 700003);
	ck_assert_uint_eq(find(700003), ACCOUNT_UNKNOWN);
	end_job(0, "61001 700000 65536");
	ck_assert_uint_eq(changes, 1);
	ck_assert_uint_eq(find(700000), 61001);
	ck_assert_uint_eq(find(765535), 61001);
	ck_assert_uint_eq(find(2000), ACCOUNT_UNKNOWN);
	ck_assert_uint_eq(asked, 2000);
	end_job(0, "own");
	ck_assert_uint_eq(changes, 2);
	ck_assert_uint_eq(find(2000), 2000);
	ck_assert_uint_eq(find(699999), ACCOUNT_UNKNOWN);
	turn();
	end_job(0, "100001 699999 1"); /* an owner that is a subordinate uid itself */
	ck_assert_uint_eq(find(699999), 1000);
	turn();
	ck_assert_uint_eq(jobs, 3);
	/* Another source: nothing that the last one said holds. */
	put(nsswitch, "subid: ldap\n");
	ck_assert_uint_eq(find(700000), ACCOUNT_UNKNOWN);
	turn();
	ck_assert_uint_eq(jobs, 4);
	put(nsswitch, "subid: files \n");
	ck_assert_uint_eq(find(700000), 700000);
	ck_assert_ptr_null(job.on_done); /* cancelled */
	ck_assert_uint_eq(find(700001), 700001);
	turn();
	ck_assert_uint_eq(jobs, 4);
}
END_TEST

START_TEST(no_service_without_its_line)
{
	use_service("/pyro-subid", "passwd: files sss\n");
	ck_assert_uint_eq(find(700000), 700000);
	ck_assert_int_eq(unlink(nsswitch), 0);
	ck_assert_uint_eq(find(700000), 700000);
	turn();
	ck_assert_uint_eq(jobs, 0);
	/* One that cannot be read may name a service. */
	ck_assert_int_eq(mkdir(nsswitch, 0700), 0);
	ck_assert_uint_eq(find(700000), ACCOUNT_UNKNOWN);
	ck_assert_int_eq(rmdir(nsswitch), 0);
}
END_TEST

START_TEST(failures_are_no_accounts)
{
	static const struct {
		int status;
		const char *line;
	} rows[] = {
		{ 0, "" },
		{ 1, "own" },
		{ -SIGSEGV, "own" },
		{ INT_MIN, "" },
		{ 0, "owner" },
		{ 0, "own\nown" },
		{ 0, "61001" },
		{ 0, "61001 5000" },
		{ 0, "61001 5000 " },
		{ 0, "61001 5001 10" },
		{ 0, "61001 4990 10" },
		{ 0, "61001 0 4294967296" },
		{ 0, "61001 0 18446744073709551615" },
		{ 0, "4294967295 5000 1" },
		{ 0, "61001 5000 1 1" },
		{ 0, "-1 5000 1" },
		{ 0, " own" },
		{ 0, "61001 0000000000000000000000000000000000000000000000000000000005000 1" },
	};

	use_service("/pyro-subid", "subid: sss\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		ck_assert_uint_eq(find(5000), ACCOUNT_UNKNOWN);
		turn();
		ck_assert_uint_eq(asked, 5000);
		end_job(rows[i].status, rows[i].line);
		ck_assert_uint_eq(delay_usec, USEC_PER_SEC); /* before another program */
		for (int k = 0; k < 100; k++) {
			ck_assert_uint_eq(find(5000), ACCOUNT_UNKNOWN);
			turn();
		}
		ck_assert_uint_eq(jobs, i + 1);
		clock_usec += 61 * USEC_PER_SEC;
	}
	ck_assert_uint_eq(find(5000), ACCOUNT_UNKNOWN);
	turn();
	end_job(0, "unknown");
	ck_assert_uint_eq(delay_usec, 0);
	ck_assert_uint_eq(find(5000), ACCOUNT_UNKNOWN);
	clock_usec += 61 * USEC_PER_SEC;
	ck_assert_uint_eq(find(5000), ACCOUNT_UNKNOWN);
	turn();
	end_job(0, "own");
	ck_assert_uint_eq(find(5000), 5000);
}
END_TEST

START_TEST(answers_grow_old)
{
	use_service("/pyro-subid", "subid: sss\n");
	(void)find(700000);
	turn();
	end_job(0, "61001 700000 65536");
	clock_usec += 11 * 60 * USEC_PER_SEC;
	ck_assert_uint_eq(find(700009), 61001); /* and asks again */
	turn();
	ck_assert_uint_eq(jobs, 2);
	end_job(1, "");
	ck_assert_uint_eq(find(700000), 61001);
	turn();
	ck_assert_uint_eq(jobs, 2);
	clock_usec += 50 * 60 * USEC_PER_SEC;
	ck_assert_uint_eq(find(700000), ACCOUNT_UNKNOWN);
	turn();
	end_job(0, "61002 700000 65536");
	ck_assert_uint_eq(find(700009), 61002);
}
END_TEST

/* A user with 65,536 uids, of a service that lists no ranges. */
START_TEST(flood_of_one_user)
{
	use_service("/pyro-subid", "subid: sss\n");
	for (uid_t uid = 720896; uid < 720896 + 65536; uid++)
		ck_assert_uint_eq(find(uid), ACCOUNT_UNKNOWN);
	ck_assert_uint_eq(find(2000), ACCOUNT_UNKNOWN);
	turn();
	while (asked != 2000)
		end_job(0, "unknown");
	ck_assert_uint_le(jobs, 17); /* those before it in the queue */
	end_job(0, "own");
	for (uid_t i = 0; i < 10000; i++) {
		char line[32];

		(void)accounts_find(a, 720896 + i);
		turn();
		if (!job.on_done)
			continue;
		(void)snprintf(line, sizeof(line), "61001 %u 1", asked);
		end_job(0, line);
	}
	ck_assert_uint_eq(find(2000), 2000); /* still known */
	ck_assert_uint_eq(find(720896 + 9999), 61001);
	ck_assert_uint_eq(find(720896 + 9999 - 1000), 61001);
	ck_assert_uint_eq(find(720896 + 9999 - 1100), ACCOUNT_UNKNOWN);
}
END_TEST

/* A queue that is full of them again after each answer: another user's question gets its turn. */
START_TEST(flood_of_four_blocks)
{
	use_service("/pyro-subid", "subid: sss\n");
	for (uid_t i = 0; asked != 2000 && i < 200; i++) {
		for (uid_t k = 0; k < 4 * 32; k++)
			(void)accounts_find(a, 720896 + k / 32 * 65536 + 32 * i + k % 32);
		(void)accounts_find(a, 2000);
		turn();
		if (asked != 2000)
			end_job(0, "unknown");
	}
	ck_assert_uint_eq(asked, 2000);
	ck_assert_uint_le(jobs, 65);
}
END_TEST

/* The questions in the queue that the range of an answer has are not asked. */
START_TEST(flood_of_one_range)
{
	use_service("/pyro-subid", "subid: sss\n");
	for (uid_t uid = 700000; uid < 700000 + 65536; uid++)
		(void)accounts_find(a, uid);
	turn();
	end_job(0, "61001 700000 65536");
	ck_assert_ptr_null(job.on_done);
	for (uid_t uid = 700000; uid < 700000 + 65536; uid++)
		ck_assert_uint_eq(accounts_find(a, uid), 61001);
	turn();
	ck_assert_uint_eq(jobs, 1);
}
END_TEST

START_TEST(answers_are_bounded)
{
	use_service("/pyro-subid", "subid: sss\n");
	for (uid_t i = 0; i < 9000; i++) {
		(void)accounts_find(a, 1000000 + i * 65536);
		turn();
		end_job(0, "own");
	}
	ck_assert_uint_eq(jobs, 9000);
	ck_assert_uint_eq(find(1000000), ACCOUNT_UNKNOWN); /* the oldest */
	ck_assert_uint_eq(find(1000000 + 8999 * 65536), 1000000 + 8999 * 65536);
	ck_assert_uint_eq(find(1000000 + 1000 * 65536), 1000000 + 1000 * 65536);
}
END_TEST

/* A program of its own, as child.c starts it. */
START_TEST(real_program)
{
	_cleanup_free_ char *program = str_printf("%s/program", dir);
	int fd = open(program, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	static const char text[] = "#!/bin/sh\n[ $# = 2 ] && [ \"$1\" = sss ] || exit 1\n"
				   "[ \"$2\" = 700000 ] && echo 61001 700000 10 || kill -SEGV $$\n";

	ck_assert_int_eq(write_all(fd, text, sizeof(text) - 1), 0);
	(void)close(fd);
	real_jobs = true;
	use_service(program, "subid: sss\n");
	ck_assert_uint_eq(find(800000), ACCOUNT_UNKNOWN);
	ck_assert_uint_eq(find(700000), ACCOUNT_UNKNOWN);
	while (accounts_find(a, 700000) != 61001)
		ck_assert_int_ge(sd_event_run(event, UINT64_MAX), 0);
	ck_assert_uint_eq(jobs, 2);
	ck_assert_uint_eq(find(700009), 61001);
	ck_assert_uint_eq(find(800000), ACCOUNT_UNKNOWN);
	ck_assert_int_eq(unlink(program), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("account");
	TCase *t = tcase_create("account");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, owners);
	tcase_add_test(t, files_that_change);
	tcase_add_test(t, ranges_that_overlap_or_point_at_each_other);
	tcase_add_test(t, many_users);
	tcase_add_test(t, nsswitch_lines);
	tcase_add_test(t, service_answers);
	tcase_add_test(t, no_service_without_its_line);
	tcase_add_test(t, failures_are_no_accounts);
	tcase_add_test(t, answers_grow_old);
	tcase_add_test(t, flood_of_one_user);
	tcase_add_test(t, flood_of_four_blocks);
	tcase_add_test(t, flood_of_one_range);
	tcase_add_test(t, answers_are_bounded);
	tcase_add_test(t, real_program);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
