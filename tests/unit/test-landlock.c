/* SPDX-License-Identifier: MIT */
#include <check.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/landlock.h"

enum { BROKEN = 100, ABSENT = 101 };

static struct {
	char dir[32], file[48], other[48];
	int fd;
} given;

static void setup(void)
{
	(void)snprintf(given.dir, sizeof(given.dir), "/tmp/test-landlock-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(given.dir));
	(void)snprintf(given.file, sizeof(given.file), "%s/file", given.dir);
	(void)snprintf(given.other, sizeof(given.other), "%s/other", given.dir);
	(void)close(open(given.other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	(void)close(open(given.file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	given.fd = open(given.file, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(given.fd, 0);
}

static void teardown(void)
{
	ck_assert_int_eq(unlink(given.file), 0);
	ck_assert_int_eq(unlink(given.other), 0);
	ck_assert_int_eq(rmdir(given.dir), 0);
}

static int try(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	return fd < 0 ? errno : 0;
}

static int opened_again(int flags)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", given.fd);
	return try(path, flags);
}

static int read_handed(void)
{
	return opened_again(O_RDONLY);
}

static int write_handed(void)
{
	return opened_again(O_WRONLY);
}

static int read_other(void)
{
	return try(given.other, O_RDONLY);
}

static int read_allowed(void)
{
	return try("/usr/bin/env", O_RDONLY);
}

static int write_allowed(void)
{
	return try("/usr/bin/env", O_WRONLY);
}

static int list_allowed(void)
{
	return try("/usr/bin", O_RDONLY | O_DIRECTORY);
}

static int use_device(void)
{
	return try("/dev/null", O_RDWR);
}

static int make(void)
{
	return mkdir("/tmp/test-landlock-new", 0700) < 0 ? errno : 0;
}

static const struct {
	const char *name;
	int (*try)(void);
	int want;
} cases[] = {
	{ "read what was handed", read_handed, 0 },
	{ "write what was handed", write_handed, EACCES },
	{ "read another file", read_other, EACCES },
	{ "read below what is allowed", read_allowed, 0 },
	{ "write below what is allowed", write_allowed, EACCES },
	{ "list what is only read", list_allowed, EACCES },
	{ "use a device", use_device, 0 },
	{ "make a directory", make, EACCES },
};

static int enter(void)
{
	_cleanup_(landlock_done) struct landlock l = { .fd = -EBADF };
	int r = landlock_begin(&l);

	if (r < 0)
		return ABSENT;
	if (landlock_allow(&l, given.fd, LANDLOCK_READ) < 0 ||
		landlock_allow_path(&l, "/usr/bin", LANDLOCK_READ) < 0 ||
		landlock_allow_path(
			&l, "/dev/null", LANDLOCK_READ | LANDLOCK_WRITE | LANDLOCK_IOCTL) < 0 ||
		landlock_allow_path(&l, "/nonexistent", LANDLOCK_READ) != -ENOENT)
		return BROKEN;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || landlock_enforce(&l) < 0)
		return BROKEN;
	return 0;
}

START_TEST(paths)
{
	pid_t pid = fork();
	int status;

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int r = enter();

		_exit(r ? r : cases[_i].try());
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == ABSENT) {
		printf("# this kernel has no Landlock\n");
		return;
	}
	ck_assert_msg(WEXITSTATUS(status) == cases[_i].want, "%s: %s", cases[_i].name,
		strerror(WEXITSTATUS(status)));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("landlock");
	TCase *tc = tcase_create("landlock");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, paths, 0, (int)ARRAY_SIZE(cases));
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
