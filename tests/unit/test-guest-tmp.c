/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/tmp.c on a folder that stands in for the machine's own disk: files of an earlier
 * run in tmp, other files in place of tmp and trash, and nothing outside is touched.
 */

#include "guest/tmp.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { DEPTH = 3000, ENTRIES = 5000 };

static char disk[64], outside[64];
static int fd = -EBADF;

static void setup(void)
{
	(void)strcpy(disk, "/tmp/pyro-test-disk-XXXXXX");
	(void)strcpy(outside, "/tmp/pyro-test-outside-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(disk));
	ck_assert_ptr_nonnull(mkdtemp(outside));
	fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	umask(0);
}

/* NOLINTNEXTLINE(bugprone-command-processor,cert-env33-c): a test */
#define RUN(...) \
	do { \
		_cleanup_free_ char *_command = str_printf(__VA_ARGS__); \
		ck_assert_int_eq(system(_command), 0); \
	} while (0)

static void teardown(void)
{
	fd = fd_close(fd);
	RUN("chattr -R -f -i -a %s; true", disk);
	RUN("rm -rf %s", disk);
	RUN("rm -rf %s", outside);
}

static size_t count(int at, const char *name)
{
	int dir_fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir;
	size_t n = 0;

	ck_assert_int_ge(dir_fd, 0);
	dir = fdopendir(dir_fd);
	while (readdir(dir))
		n++;
	(void)closedir(dir);
	return n - 2;
}

static void write_file(int at, const char *name)
{
	_cleanup_close_ int f = openat(at, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	ck_assert_int_eq(write_all(f, "x", 1), 0);
}

/* After a start /tmp is new, and the rest is deleted when the deletion has finished. */
static void check_renewed(void)
{
	_cleanup_close_ int trash = -EBADF;
	struct stat st;

	ck_assert_int_eq(tmp_renew(fd), 0);
	ck_assert_int_eq(fstatat(fd, "tmp", &st, AT_SYMLINK_NOFOLLOW), 0);
	ck_assert_uint_eq(st.st_mode, S_IFDIR | 01777);
	ck_assert_uint_eq(count(fd, "tmp"), 4); /* X11's */
	ck_assert_int_eq(fstatat(fd, "tmp/.X11-unix", &st, AT_SYMLINK_NOFOLLOW), 0);
	ck_assert_uint_eq(st.st_mode, S_IFDIR | 01777);
	trash = openat(fd, "trash", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	tmp_empty(trash);
	ck_assert_uint_eq(count(fd, "trash"), 0);
}

START_TEST(first_start)
{
	ck_assert_int_eq(tmp_renew(fd), 0);
	ck_assert_uint_eq(count(fd, "tmp"), 4);
	check_renewed();
}
END_TEST

START_TEST(everything_goes)
{
	ck_assert_int_eq(mkdirat(fd, "tmp", 01777), 0);
	write_file(fd, "tmp/file");
	ck_assert_int_eq(mkdirat(fd, "tmp/empty", 0), 0);
	ck_assert_int_eq(mkdirat(fd, "tmp/full", 0755), 0);
	write_file(fd, "tmp/full/file");
	ck_assert_int_eq(mkfifoat(fd, "tmp/full/fifo", 0), 0);
	ck_assert_int_eq(linkat(fd, "tmp/file", fd, "tmp/full/hard", 0), 0);
	check_renewed();
}
END_TEST

START_TEST(links_are_not_followed)
{
	_cleanup_close_ int out = open(outside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	write_file(out, "kept");
	ck_assert_int_eq(mkdirat(fd, "tmp", 0755), 0);
	ck_assert_int_eq(symlinkat(outside, fd, "tmp/link"), 0);
	ck_assert_int_eq(mkdirat(fd, "tmp/d", 0755), 0);
	ck_assert_int_eq(symlinkat(outside, fd, "tmp/d/link"), 0);
	check_renewed();
	ck_assert_uint_eq(count(out, "."), 1);
	/* Other files in place of the two folders. */
	ck_assert_int_eq(unlinkat(fd, "trash", AT_REMOVEDIR), 0);
	ck_assert_int_eq(symlinkat(outside, fd, "trash"), 0);
	check_renewed();
	ck_assert_uint_eq(count(out, "."), 1);
	RUN("rm -rf %s/tmp", disk);
	ck_assert_int_eq(symlinkat(outside, fd, "tmp"), 0);
	check_renewed();
	ck_assert_uint_eq(count(out, "."), 1);
	RUN("rm -rf %s/tmp", disk);
	write_file(fd, "tmp");
	check_renewed();
}
END_TEST

START_TEST(deep_and_wide)
{
	int at = dup(fd);

	ck_assert_int_eq(mkdirat(fd, "tmp", 0755), 0);
	for (int i = 0; i < DEPTH; i++) {
		int next;
		ck_assert_int_eq(mkdirat(at, i ? "d" : "tmp/d", 0755), 0);
		next = openat(at, i ? "d" : "tmp/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		write_file(next, "file");
		(void)close(at);
		at = next;
	}
	for (int i = 0; i < ENTRIES; i++) {
		char name[32];
		(void)snprintf(name, sizeof(name), "file-%d", i);
		write_file(at, name);
	}
	(void)close(at);
	check_renewed();
}
END_TEST

static bool set_flags(const char *path, int flags)
{
	_cleanup_close_ int f = openat(fd, path, O_RDONLY | O_CLOEXEC);
	int old;

	return ioctl(f, FS_IOC_GETFLAGS, &old) == 0 && (flags |= old, true) &&
	       ioctl(f, FS_IOC_SETFLAGS, &flags) == 0;
}

START_TEST(immutable_files)
{
	ck_assert_int_eq(mkdirat(fd, "tmp", 0755), 0);
	ck_assert_int_eq(mkdirat(fd, "tmp/d", 0755), 0);
	ck_assert_int_eq(mkdirat(fd, "tmp/d/e", 0755), 0);
	write_file(fd, "tmp/d/file");
	write_file(fd, "tmp/d/e/file");
	if (!set_flags("tmp/d/file", FS_IMMUTABLE_FL))
		return; /* not root, or a file system without them */
	ck_assert(set_flags("tmp/d/e/file", FS_APPEND_FL));
	ck_assert(set_flags("tmp/d/e", FS_IMMUTABLE_FL));
	ck_assert(set_flags("tmp/d", FS_APPEND_FL));
	ck_assert(set_flags("tmp", FS_IMMUTABLE_FL));
	check_renewed();
	ck_assert(set_flags("trash", FS_IMMUTABLE_FL));
	check_renewed();
}
END_TEST

/* Neither the trash nor a new tmp can be created until some old files are deleted; only as many as
 * needed are. */
START_TEST(full_disk)
{
	struct stat st;

	for (int again = 0; again < 2; again++) {
		if (mount("disk", disk, "tmpfs", 0, "nr_inodes=200") < 0)
			return; /* only root may */
		fd_close(fd);
		fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ck_assert_int_eq(tmp_renew(fd), 0);
		if (again)
			RUN("mkdir -m 700 %s/trash", disk);
		RUN("i=0; while mkdir %s/tmp/d$i 2>/dev/null && touch %s/tmp/d$i/f 2>/dev/null; do i=$((i+1)); done",
			disk, disk);
		ck_assert_int_lt(mkdirat(fd, "more", 0700), 0);
		ck_assert_int_eq(tmp_renew(fd), 0);
		ck_assert_int_eq(fstatat(fd, "tmp", &st, AT_SYMLINK_NOFOLLOW), 0);
		ck_assert_uint_eq(st.st_mode & 07777, 01777);
		ck_assert_uint_eq(count(fd, "tmp"), 4);
		ck_assert_uint_ge(count(fd, "trash"), 1);
		fd = fd_close(fd);
		ck_assert_int_eq(umount2(disk, MNT_DETACH), 0);
		fd = open(disk, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
}
END_TEST

START_TEST(in_a_process_of_its_own)
{
	pid_t pid;
	int status;

	ck_assert_int_eq(tmp_delete_old(fd, &pid), 0);
	ck_assert_int_eq(mkdirat(fd, "trash", 0700), 0);
	write_file(fd, "trash/file");
	ck_assert_int_eq(tmp_delete_old(fd, &pid), 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	ck_assert_uint_eq(count(fd, "trash"), 0);
}
END_TEST

/* An interrupted deletion continues at the next start. */
START_TEST(what_an_earlier_start_left)
{
	ck_assert_int_eq(mkdirat(fd, "trash", 0700), 0);
	ck_assert_int_eq(mkdirat(fd, "trash/0123456789abcdef", 0700), 0);
	write_file(fd, "trash/0123456789abcdef/file");
	write_file(fd, "trash/file");
	check_renewed();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-tmp");
	TCase *tc = tcase_create("guest-tmp");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60); /* thousands of folders on a disk that others use too */
	tcase_add_test(tc, first_start);
	tcase_add_test(tc, everything_goes);
	tcase_add_test(tc, links_are_not_followed);
	tcase_add_test(tc, deep_and_wide);
	tcase_add_test(tc, immutable_files);
	tcase_add_test(tc, full_disk);
	tcase_add_test(tc, in_a_process_of_its_own);
	tcase_add_test(tc, what_an_earlier_start_left);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
