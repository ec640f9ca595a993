/* SPDX-License-Identifier: MIT */
/*
 * Another user's files in a staging folder become the daemon's: by chown if it is root, otherwise
 * by copy. Needs root, for a second user; skipped otherwise. (test-environment.c has the rest of
 * the installation.)
 */
#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "daemon/image/install.h"

enum { US = 61190, THEM = 61191 };

struct fixture {
	char dir[64];
	sd_event *event;
	struct installs installs;
	bool done;
	struct error error;
};

static void put(const char *path, const char *text, mode_t mode, uid_t uid)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
	ck_assert_int_eq(fchown(fd, uid, THEM), 0);
	ck_assert_int_eq(fchmod(fd, mode), 0);
}

static void make_dir(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(chown(path, uid, gid), 0);
	ck_assert_int_eq(chmod(path, mode), 0);
}

/* Makes the folder as pyro-import leaves it: image.ext4 with a hole, and a folder with a file, all
 * owned by its user and group. (Modes: tests/t/test_image.py.) */
static void begin(struct fixture *t)
{
	const gid_t groups[] = { THEM };
	int fd;

	*t = (struct fixture){ .dir = "/tmp/test-install-XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(t->dir));
	ck_assert_int_eq(chown(t->dir, US, US), 0);
	ck_assert_int_eq(chdir(t->dir), 0);
	make_dir(".staging-1", 0770, US, THEM);
	put(".staging-1/image.ext4", "begin", 0640, THEM);
	fd = open(".staging-1/image.ext4", O_WRONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, "end", 3, 64 * MIB), 3);
	(void)close(fd);
	make_dir(".staging-1/boot", 0770, THEM, THEM);
	put(".staging-1/boot/order", "1", 0640, THEM);
	ck_assert_int_ge(sd_event_new(&t->event), 0);
	LIST_INIT(&t->installs);
	ck_assert_int_eq(setgroups(1, groups), 0);
	ck_assert_int_eq(setegid(US), 0);
	ck_assert_int_eq(seteuid(US), 0);
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int flag,
	_unused_ struct FTW *ftw)
{
	return remove(path);
}

static void end(struct fixture *t)
{
	ck_assert_int_eq(seteuid(0), 0);
	ck_assert_int_eq(setegid(0), 0);
	install_cancel_all(&t->installs);
	sd_event_unref(t->event);
	error_clear(&t->error);
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(nftw(t->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

static void on_done(const struct error *err, void *userdata)
{
	struct fixture *t = userdata;

	t->done = true;
	if (err)
		ck_assert_int_eq(error_copy(&t->error, err), 0);
}

static void install(struct fixture *t)
{
	const struct install_spec spec = {
		.dir = t->dir, .staging = ".staging-1", .target = "sha256-x", .meta = "{}"
	};
	const uint64_t deadline = now_usec() + 30 * USEC_PER_SEC;

	ck_assert_int_eq(install_start(t->event, &t->installs, &spec, on_done, t, &t->error), 0);
	while (!t->done) {
		ck_assert_uint_lt(now_usec(), deadline);
		ck_assert_int_ge(sd_event_run(t->event, USEC_PER_SEC), 0);
	}
}

static int check_ours(
	const char *path, const struct stat *st, _unused_ int flag, _unused_ struct FTW *ftw)
{
	ck_assert_msg(st->st_uid == US, "%s is uid %u's", path, st->st_uid);
	return 0;
}

START_TEST(becomes_ours)
{
	_cleanup_free_ char *text = NULL;
	struct fixture t;
	struct stat st;
	size_t n;

	begin(&t);
	put(".staging-1/ours", "kept", 0600, US);
	install(&t);
	ck_assert_msg(!t.error.set, "%s: %s", t.error.message, t.error.cause);
	ck_assert_int_eq(nftw(".", check_ours, 16, FTW_PHYS), 0);
	ck_assert_int_eq(stat("sha256-x/image.ext4", &st), 0);
	ck_assert_int_eq(st.st_size, 64 * MIB + 3);
	ck_assert_int_lt(st.st_blocks, 1024); /* the hole is kept */
	ck_assert_int_ge(read_file_at(AT_FDCWD, "sha256-x/boot/order", 16, &text, &n), 0);
	ck_assert_str_eq(text, "1");
	ck_assert_int_lt(access(".staging-1", F_OK), 0);
	ck_assert_int_lt(access(".staging-1.own", F_OK), 0);
	end(&t);
}
END_TEST

/* No link or special file of the other user is followed, linked or waited for; existing files stay
 * unchanged. */
START_TEST(hostile)
{
	for (int i = 0; i < 4; i++) {
		struct fixture t;

		begin(&t);
		ck_assert_int_eq(seteuid(0), 0);
		if (i == 0)
			ck_assert_int_eq(symlink("/etc/shadow", ".staging-1/link"), 0);
		else if (i == 1)
			ck_assert_int_eq(mkfifo(".staging-1/fifo", 0666), 0);
		else if (i == 2)
			ck_assert_int_eq(link(".staging-1/image.ext4", ".staging-1/again"), 0);
		else
			put(".staging-1/closed", "x", 0600, THEM);
		ck_assert_int_eq(seteuid(US), 0);
		install(&t);
		ck_assert(t.error.set);
		ck_assert_int_lt(access("sha256-x", F_OK), 0);
		end(&t);
	}
}
END_TEST

int main(void)
{
	Suite *s;
	TCase *tc;
	SRunner *sr;
	int failed;

	if (geteuid() != 0) {
		printf("1..0 # SKIP needs root\n");
		return 0;
	}
	s = suite_create("install");
	tc = tcase_create("install");
	tcase_add_test(tc, becomes_ours);
	tcase_add_test(tc, hostile);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
