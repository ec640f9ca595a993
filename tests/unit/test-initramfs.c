/* SPDX-License-Identifier: MIT */
/*
 * Tests of `pyro-import initramfs` (daemon/import/initramfs.c): the archive's content, the same
 * bytes for the same inputs, and refusal of a damaged list of modules or a missing file without
 * leaving a file behind. The test captures the reports of import-output.c.
 */

#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <archive.h>
#include <archive_entry.h>
#include <check.h>

#include "daemon/import/import.h"

static char dir[64];
static struct error failure;
static json_object *success;

void import_progress(const char *phase, int percent, const char *detail _unused_)
{
	ck_assert_str_eq(phase, "kernel");
	ck_assert_int_le(percent, 100);
}

int import_fail(const struct error *err)
{
	ck_assert_int_eq(error_copy(&failure, err), 0);

	return 1;
}

int import_succeed(json_object *result)
{
	success = result;

	return 0;
}

static char *path_of(const char *name)
{
	static char paths[8][256];
	static unsigned next;
	char *p = paths[next++ % 8];

	ck_assert_int_lt(snprintf(p, sizeof(paths[0]), "%s/%s", dir, name), (int)sizeof(paths[0]));

	return p;
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(path_of(name), "we");

	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void setup(void)
{
	strcpy(dir, "/tmp/pyro-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(mkdir(path_of("kernel"), 0755), 0);
	ck_assert_int_eq(mkdir(path_of("kernel/boot"), 0755), 0);
	put("kernel/boot/order", "b.ko\na.ko\n");
	put("kernel/boot/a.ko", "module a");
	put("kernel/boot/b.ko", "module b!");
	put("agent", "the agent");
}

static int remove_one(const char *path, const struct stat *st _unused_, int type _unused_,
	struct FTW *ftw _unused_)
{
	return remove(path);
}

static void teardown(void)
{
	error_clear(&failure);
	json_object_put(success);
	success = NULL;
	(void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int run(const char *output)
{
	char *argv[] = { (char *)"initramfs", (char *)"--kernel", path_of("kernel"),
		(char *)"--agent", path_of("agent"), (char *)"--output", path_of(output), NULL };

	optind = 0;
	error_clear(&failure);
	json_object_put(success);
	success = NULL;

	return import_initramfs_main(ARRAY_SIZE(argv) - 1, argv);
}

static const struct {
	const char *name;
	mode_t mode;
	const char *text;
} expected[] = {
	{ "dev", S_IFDIR | 0755, NULL },
	{ "dev/console", S_IFCHR | 0600, NULL },
	{ "proc", S_IFDIR | 0555, NULL },
	{ "sys", S_IFDIR | 0555, NULL },
	{ "modules", S_IFDIR | 0755, NULL },
	{ "init", S_IFREG | 0755, "the agent" },
	{ "modules/order", S_IFREG | 0644, "b.ko\na.ko\n" },
	{ "modules/b.ko", S_IFREG | 0644, "module b!" },
	{ "modules/a.ko", S_IFREG | 0644, "module a" },
};

START_TEST(holds_what_it_should)
{
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	struct stat st;

	ck_assert_int_eq(run("initrd"), 0);
	ck_assert_int_eq(stat(path_of("initrd"), &st), 0);
	ck_assert_int_eq(json_get_int(success, "size_bytes", -1), st.st_size);
	ck_assert_int_eq(st.st_size % 4, 0);
	ck_assert_int_eq(archive_read_support_format_cpio(a), ARCHIVE_OK);
	ck_assert_int_eq(archive_read_open_filename(a, path_of("initrd"), 4096), ARCHIVE_OK);
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		char text[64] = { 0 };

		ck_assert_int_eq(archive_read_next_header(a, &e), ARCHIVE_OK);
		ck_assert_int_eq(archive_format(a), ARCHIVE_FORMAT_CPIO_SVR4_NOCRC);
		ck_assert_str_eq(archive_entry_pathname(e), expected[i].name);
		ck_assert_uint_eq(archive_entry_mode(e), expected[i].mode);
		ck_assert_int_eq(archive_entry_mtime(e), 0);
		ck_assert_int_eq(archive_entry_uid(e) + archive_entry_gid(e), 0);
		if (S_ISCHR(expected[i].mode))
			ck_assert_uint_eq(archive_entry_rdev(e), makedev(5, 1));
		if (expected[i].text) {
			ck_assert_int_ge(archive_read_data(a, text, sizeof(text) - 1), 0);
			ck_assert_str_eq(text, expected[i].text);
		}
	}
	ck_assert_int_eq(archive_read_next_header(a, &e), ARCHIVE_EOF);
	ck_assert_int_eq(archive_read_free(a), ARCHIVE_OK);
}
END_TEST

START_TEST(same_inputs_same_bytes)
{
	_cleanup_free_ char *one = NULL, *two = NULL;
	struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
	size_t n_one, n_two;

	ck_assert_int_eq(run("one"), 0);
	ck_assert_int_eq(utimensat(AT_FDCWD, path_of("agent"), times, 0), 0);
	ck_assert_int_eq(chmod(path_of("kernel/boot/a.ko"), 0600), 0);
	ck_assert_int_eq(run("two"), 0);
	ck_assert_int_eq(read_file_at(AT_FDCWD, path_of("one"), MIB, &one, &n_one), 0);
	ck_assert_int_eq(read_file_at(AT_FDCWD, path_of("two"), MIB, &two, &n_two), 0);
	ck_assert_uint_eq(n_one, n_two);
	ck_assert_int_eq(memcmp(one, two, n_one), 0);
}
END_TEST

START_TEST(no_modules_is_fine)
{
	put("kernel/boot/order", "");
	ck_assert_int_eq(run("initrd"), 0);
}
END_TEST

static const char *const bad_orders[] = { "../../agent.ko\n", "/etc/passwd\n", "a.ko\nmissing.ko\n",
	".ko\n", "a.ko b.ko\n", "..ko\n", "a\n",
	"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.ko\n" };

static void expect_refusal(void)
{
	ck_assert_int_eq(run("initrd"), 1);
	ck_assert(failure.set);
	ck_assert_ptr_nonnull(failure.message);
	ck_assert_ptr_null(success);
	ck_assert_int_lt(access(path_of("initrd"), F_OK), 0);
}

START_TEST(bad_orders_are_refused)
{
	put("kernel/boot/order", bad_orders[_i]);
	expect_refusal();
}
END_TEST

START_TEST(too_many_modules_are_refused)
{
	char order[129 * 5 + 1] = "";

	for (size_t i = 0; i < 129; i++)
		memcpy(order + 5 * i, "a.ko\n", 6);
	put("kernel/boot/order", order);
	expect_refusal();
}
END_TEST

START_TEST(missing_files_are_refused)
{
	ck_assert_int_eq(unlink(path_of(_i ? "agent" : "kernel/boot/order")), 0);
	expect_refusal();
}
END_TEST

START_TEST(an_existing_output_is_kept)
{
	put("initrd", "somebody's");
	ck_assert_int_eq(run("initrd"), 1);
	ck_assert_int_eq(access(path_of("initrd"), F_OK), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("initramfs");
	TCase *tc = tcase_create("initramfs");
	SRunner *sr;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, holds_what_it_should);
	tcase_add_test(tc, same_inputs_same_bytes);
	tcase_add_test(tc, no_modules_is_fine);
	tcase_add_loop_test(tc, bad_orders_are_refused, 0, ARRAY_SIZE(bad_orders));
	tcase_add_test(tc, too_many_modules_are_refused);
	tcase_add_loop_test(tc, missing_files_are_refused, 0, 2);
	tcase_add_test(tc, an_existing_output_is_kept);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);

	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
