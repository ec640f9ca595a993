/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/files.c and the operations, on a temporary folder: answers, repetition, deadlines,
 * and what is left of an operation that is killed. tests/t/test_agent_files.py has the operations in
 * the agent, tests/vm/test_files.py in a guest.
 */

#include "guest/files.h"

#include <check.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char folder[64];
static struct loop *loop;
static struct files *files;
static struct buf out;
static struct msg_file_result done;
static uint32_t done_channel;
static bool late; /* the test has waited long enough */

/* NOLINTNEXTLINE(bugprone-command-processor,cert-env33-c): a test */
#define RUN(...) \
	do { \
		_cleanup_free_ char *_command = str_printf(__VA_ARGS__); \
		ck_assert_int_eq(system(_command), 0); \
	} while (0)

/* Replaces functions of libc, in the operations' processes too. */
static struct {
	bool names_twice;       /* readdir, as below a folder that changes */
	int dead_error;         /* of each look at an entry "dead" */
	bool folder_sync_fails; /* fsync of a folder */
	int unlock_before_kill; /* lock that the next kill releases before; 0: none */
} libc;

struct dirent *readdir(DIR *d)
{
	static struct dirent *last;
	struct dirent *(*real)(DIR * d) =
		(struct dirent * (*)(DIR *)) dlsym(RTLD_NEXT, "readdir64");
	struct dirent *e = last;

	last = NULL;
	if (e)
		return e;
	e = real(d);
	last = libc.names_twice ? e : NULL;
	return e;
}

int fstatat(int dir_fd, const char *name, struct stat *st, int flags)
{
	if (libc.dead_error && streq(name, "dead")) {
		errno = libc.dead_error;
		return -1;
	}
	return (int)syscall(SYS_newfstatat, dir_fd, name, st, flags);
}

int fsync(int fd)
{
	struct stat st;

	if (libc.folder_sync_fails && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static void unlock(int fd)
{
	struct flock fl = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	ck_assert_int_eq(fcntl(fd, F_SETLK, &fl), 0);
}

int kill(pid_t pid, int signo)
{
	int fd = libc.unlock_before_kill;
	siginfo_t si;

	libc.unlock_before_kill = 0;
	if (fd > 0) {
		unlock(fd);
		ck_assert_int_eq(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT), 0);
	}
	return (int)syscall(SYS_kill, pid, signo);
}

/* Decodes the answer, if one came, and stops the loop. */
static bool on_step(_unused_ void *userdata)
{
	struct frame_assembler a;
	struct decoder d;
	struct frame f;
	int complete = 0;

	if (!files_send(files, &out))
		return false;
	decoder_init(&d, DECODER_PLAIN, NULL);
	frame_assembler_init(&a, LIMIT_FILE_MESSAGE_BYTES);
	while (!complete) {
		size_t room;
		uint8_t *p = decoder_space(&d, &room);
		size_t n = MIN_OF(room, buf_len(&out));

		memcpy(p, buf_head(&out), n);
		buf_consume(&out, n);
		decoder_fed(&d, n);
		while (!complete && decoder_next(&d, &f) == DECODER_FRAME)
			complete = frame_assembler_add(&a, &f);
	}
	ck_assert_uint_eq(f.type, FRAME_FILE_DONE);
	done_channel = f.channel;
	msg_file_result_done(&done);
	ck_assert_int_eq(msg_file_result_get(&f, AGENT_PROTOCOL_MAX, &done), 0);
	ck_assert_uint_eq(buf_len(&out), 0);
	frame_assembler_done(&a);
	decoder_done(&d);
	loop_stop(loop);
	return false;
}

static void ignore(_unused_ int signo, _unused_ void *userdata)
{
}

/* A new loop with the folder's files: a stopped one does not run again. */
static void begin(uint64_t late_usec)
{
	const struct files_params p = { .workspace = folder, .late_usec = late_usec };
	struct files_params with = p;

	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(loop_take_signals(loop, ignore, NULL), 0);
	with.loop = loop;
	ck_assert_int_eq(files_new(&with, &files), 0);
	loop_set_step(loop, on_step, NULL);
	buf_init(&out, 4 * MIB);
}

static void end(void)
{
	files = files_free(files);
	loop = loop_free(loop);
	buf_done(&out);
	msg_file_result_done(&done);
}

static void setup(void)
{
	(void)strcpy(folder, "/tmp/pyro-test-files-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	late = false;
	memset(&libc, 0, sizeof(libc));
}

static void teardown(void)
{
	RUN("rm -rf %s", folder);
}

static void ask(uint32_t channel, const struct msg_file *m)
{
	ck_assert_int_eq(files_take(files, AGENT_PROTOCOL_MAX, channel, m), 0);
}

static void on_wait_over(struct timer *t)
{
	late = true;
	loop_stop(t->userdata);
}

/* Runs the loop until an answer, or as long as given. */
static void wait_for(uint64_t usec)
{
	struct timer t = { .on_timer = on_wait_over, .userdata = loop };

	late = false;
	loop_arm(loop, &t, now_usec() + usec);
	ck_assert_int_eq(loop_run(loop), 0);
	loop_disarm(loop, &t);
}

static struct msg_file make(uint8_t op, const char *path, const char *text)
{
	struct msg_file m = { .op = op, .path = (char *)(uintptr_t)path };

	random_bytes(m.id, sizeof(m.id));
	m.max_bytes = op == FILE_READ ? LIMIT_FILE_BYTES : 0;
	if (text)
		m.text = (struct msg_blob){ (uint8_t *)(uintptr_t)text, (uint32_t)strlen(text) };
	return m;
}

#define ANSWER_USEC (20 * USEC_PER_SEC)

/* One operation by a collection of its own. */
static void once(const struct msg_file *m, int error)
{
	begin(0);
	ask(7, m);
	wait_for(ANSWER_USEC);
	ck_assert(!late);
	ck_assert_uint_eq(done_channel, 7);
	ck_assert_mem_eq(done.id, m->id, sizeof(m->id));
	ck_assert_int_eq((int)done.error, error);
}

START_TEST(write_read_edit_list)
{
	struct msg_file m = make(FILE_WRITE, "a/b", "one\n");

	once(&m, 0);
	ck_assert_uint_eq(done.size, 4);
	end();
	m = make(FILE_EDIT, "a/b", "two");
	m.old_text = (struct msg_blob){ (uint8_t *)"one", 3 };
	once(&m, 0);
	ck_assert_uint_eq(done.found, 1);
	end();
	m = make(FILE_READ, "a/b", NULL);
	once(&m, 0);
	ck_assert_uint_eq(done.content.n, 4);
	ck_assert_mem_eq(done.content.data, "two\n", 4);
	end();
	m = make(FILE_LIST, "", NULL);
	m.path = folder;
	m.flags = FILE_RECURSIVE;
	once(&m, 0);
	ck_assert_uint_eq(done.n_entries, 2);
	ck_assert_str_eq(done.entries[1].path, "a/b");
	end();
}
END_TEST

/* The agent's descriptors stay its own, and what the operation may write is bounded. */
START_TEST(process_has_no_descriptor_of_the_agent)
{
	struct msg_file m = make(FILE_LIST, "/proc/self/fd", NULL);

	once(&m, 0);
	for (uint32_t i = 0; i < done.n_entries; i++)
		ck_assert_uint_lt(
			(unsigned)atoi(done.entries[i].path), 6); /* stdio, 3, 4, the folder */
	ck_assert_uint_le(done.n_entries, 6);
	end();
}
END_TEST

/* Locks what writes wait for, in the place of an operation that hangs. */
static int lock_all(void)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char path[64], link[64] = "";

	for (int fd = 3; fd < 64; fd++) {
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n > 0 && strstr(link, "pyro-files")) {
			ck_assert_int_eq(fcntl(fd, F_SETLK, &fl), 0);
			return fd;
		}
	}
	ck_abort_msg("no lock");
	return -1;
}

static size_t entries(void)
{
	DIR *d = opendir(folder);
	size_t n = 0;

	while (readdir(d))
		n++;
	(void)closedir(d);
	return n - 2;
}

/* A write that hangs is killed and has changed nothing; the next one is done. */
START_TEST(deadline)
{
	struct msg_file m = make(FILE_WRITE, "f", "x");

	begin(100 * USEC_PER_MSEC);
	int fd = lock_all();
	ask(1, &m);
	wait_for(ANSWER_USEC);
	ck_assert(!late);
	ck_assert_int_eq((int)done.error, ETIMEDOUT);
	ck_assert_uint_eq(done.flags, 0);
	ck_assert_uint_eq(entries(), 0);
	unlock(fd);
	end();
	m = make(FILE_WRITE, "f", "y");
	once(&m, 0);
	end();
}
END_TEST

/* A folder had been made before the write hung: whether the file is written is unknown. */
START_TEST(deadline_after_a_change)
{
	struct msg_file m = make(FILE_WRITE, "d/f", "x");

	begin(100 * USEC_PER_MSEC);
	int fd = lock_all();
	ask(1, &m);
	wait_for(ANSWER_USEC);
	ck_assert_int_eq((int)done.error, ETIMEDOUT);
	ck_assert_uint_eq(done.flags, FILE_UNKNOWN);
	unlock(fd);
	end();
}
END_TEST

/* A repeated id: answered from memory on a new connection, even with other contents. */
START_TEST(repeated)
{
	struct msg_file m = make(FILE_WRITE, "f", "one"), again;

	once(&m, 0);
	files_reconnected(files);
	ck_assert(!files_send(files, &out)); /* not asked on this connection */
	again = m;
	again.text = (struct msg_blob){ (uint8_t *)"two", 3 };
	ask(2, &again);
	msg_file_result_done(&done);
	on_step(NULL);
	ck_assert_uint_eq(done_channel, 2);
	ck_assert_mem_eq(done.id, m.id, sizeof(m.id));
	ck_assert_uint_eq(done.size, 3);
	RUN("test \"$(cat %s/f)\" = one", folder);
	/* Another operation under the same id is an error of the host. */
	again.op = FILE_READ;
	ck_assert_int_eq(files_take(files, AGENT_PROTOCOL_MAX, 3, &again), -EBADMSG);
	ck_assert_int_eq(files_take(files, AGENT_PROTOCOL_MAX, 0, &m), -EBADMSG);
	end();
}
END_TEST

static void kill_children(void)
{
	_cleanup_free_ char *text = NULL,
			    *path = str_printf("/proc/self/task/%d/children", getpid());
	char *at;

	ck_assert_int_eq(read_file_at(AT_FDCWD, path, 4096, &text, NULL), 0);
	at = text;
	for (long pid; (pid = strtol(at, &at, 10)) > 0;)
		ck_assert_int_eq(kill((pid_t)pid, SIGKILL), 0);
}

/* One that is killed from outside, as by the OOM killer. */
START_TEST(killed)
{
	struct msg_file m = make(FILE_WRITE, "f", "x");

	begin(0);
	int fd = lock_all();
	ask(1, &m);
	kill_children();
	wait_for(ANSWER_USEC);
	ck_assert_int_eq((int)done.error, ENOMEM);
	ck_assert_uint_eq(done.flags, 0);
	unlock(fd);
	end();
}
END_TEST

/* Done between the deadline and the signal: it is not reported as failed. */
START_TEST(done_at_the_deadline)
{
	struct msg_file m = make(FILE_WRITE, "f", "x");

	begin(1);
	libc.unlock_before_kill = lock_all();
	ask(1, &m);
	wait_for(ANSWER_USEC);
	ck_assert(!late);
	ck_assert_int_eq((int)done.error, 0);
	ck_assert_uint_eq(done.size, 1);
	RUN("test \"$(cat %s/f)\" = x", folder);
	end();
}
END_TEST

/* The rename is done, but may not be on the disk. */
START_TEST(folder_cannot_be_synced)
{
	struct msg_file m = make(FILE_WRITE, "f", "x");

	libc.folder_sync_fails = true;
	once(&m, EIO);
	ck_assert_uint_eq(done.flags, FILE_UNKNOWN);
	ck_assert_uint_eq(done.size, 0);
	RUN("test \"$(cat %s/f)\" = x", folder);
	end();
}
END_TEST

/* A replaced file keeps its group, also where new files have the folder's. */
START_TEST(group_is_kept)
{
	struct msg_file m = make(FILE_WRITE, "s/f", "x");

	if (geteuid() != 0)
		return; /* has no second group to give */
	RUN("mkdir %s/s && chgrp 44 %s/s && chmod 2755 %s/s && : > %s/s/f && chgrp 0 %s/s/f",
		folder, folder, folder, folder, folder);
	once(&m, 0);
	RUN("test \"$(stat -c %%g-%%s %s/s/f)\" = 0-1", folder);
	end();
	m.path = (char *)"s/new";
	random_bytes(m.id, sizeof(m.id));
	once(&m, 0);
	RUN("test \"$(stat -c %%g %s/s/new)\" = 44", folder);
	end();
}
END_TEST

static struct msg_file make_list(void)
{
	struct msg_file m = make(FILE_LIST, folder, NULL);

	m.flags = FILE_RECURSIVE;
	RUN("mkdir -p %s/a/sub && : > %s/a/x && : > %s/a/dead && : > %s/z && mkdir %s/dead", folder,
		folder, folder, folder, folder);
	return m;
}

/* One entry that cannot be looked at is left out, below too, and said to be. */
START_TEST(dead_entries_are_left_out)
{
	static const char *const names[] = { "a", "a/sub", "a/x", "z" };
	static const int errors[] = { ENOTCONN, EACCES, ESRCH };
	struct msg_file m = make_list();

	libc.dead_error = errors[_i];
	once(&m, 0);
	ck_assert_uint_eq(done.flags, FILE_TRUNCATED);
	ck_assert_uint_eq(done.n_entries, ARRAY_SIZE(names));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		ck_assert_str_eq(done.entries[i].path, names[i]);
	end();
}
END_TEST

START_TEST(names_are_listed_once)
{
	static const char *const names[] = { "a", "a/dead", "a/sub", "a/x", "dead", "z" };
	struct msg_file m = make_list();

	libc.names_twice = true;
	once(&m, 0);
	ck_assert_uint_eq(done.flags, 0);
	ck_assert_uint_eq(done.n_entries, ARRAY_SIZE(names));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		ck_assert_str_eq(done.entries[i].path, names[i]);
	end();
}
END_TEST

/* 16 MiB can be edited; one byte more cannot. */
START_TEST(largest_edit)
{
	struct msg_file m = make(FILE_EDIT, "f", "b");

	m.old_text = (struct msg_blob){ (uint8_t *)"a", 1 };
	RUN("truncate -s 16777215 %s/f && printf a >> %s/f", folder, folder);
	once(&m, 0);
	ck_assert_uint_eq(done.size, 16 * MIB);
	end();
	RUN("truncate -s 16777216 %s/f && printf a >> %s/f", folder, folder);
	random_bytes(m.id, sizeof(m.id));
	once(&m, EFBIG);
	end();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-files");
	TCase *tc = tcase_create("guest-files");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, write_read_edit_list);
	tcase_add_test(tc, process_has_no_descriptor_of_the_agent);
	tcase_add_test(tc, deadline);
	tcase_add_test(tc, deadline_after_a_change);
	tcase_add_test(tc, repeated);
	tcase_add_test(tc, killed);
	tcase_add_test(tc, done_at_the_deadline);
	tcase_add_test(tc, folder_cannot_be_synced);
	tcase_add_test(tc, group_is_kept);
	tcase_add_loop_test(tc, dead_entries_are_left_out, 0, 3);
	tcase_add_test(tc, names_are_listed_once);
	tcase_add_test(tc, largest_edit);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
