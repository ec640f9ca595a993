/* SPDX-License-Identifier: MIT */
/*
 * Tests of proto/host.c. Hosts differ, so these tests compare two sources (the measured TSC rate
 * with the kernel's), or use their own files and variables.
 */

#include "proto/host.h"
#include <check.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

static char dir[] = "/tmp/pyro-test-host-XXXXXX";

static char *file_with(const char *name, const char *text)
{
	char *path = str_printf("%s/%s", dir, name);
	_cleanup_close_ int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
	return path;
}

START_TEST(kvm)
{
	struct host_kvm k;

	host_kvm_probe(&k);
	ck_assert_int_eq(k.usable, k.error == 0);
	if (k.usable)
		ck_assert(k.exists && k.readable && k.writable && host_cpu_virtualization());
	if (!k.exists)
		ck_assert_int_eq(k.error, ENOENT);
}
END_TEST

START_TEST(tsc)
{
	_cleanup_free_ char *info = NULL;
	uint32_t khz;

	if (_i > 0)
		host_tsc_begin();
	khz = host_tsc_khz();
	ck_assert_uint_eq(host_tsc_khz(), khz);
	if (read_file_at(AT_FDCWD, "/proc/cpuinfo", 4 * MIB, &info, NULL) < 0)
		return;
	/* "cpu MHz" is the present clock rate, except where a hypervisor reports the TSC's. */
	const char *mhz = strstr(info, "cpu MHz");
	if (!mhz || !strstr(info, "constant_tsc") || !strstr(info, " hypervisor"))
		return;
	double want = strtod(strchr(mhz, ':') + 1, NULL) * 1000;
	ck_assert_msg(
		khz > want * 0.99 && khz < want * 1.01, "measured %u, kernel says %.0f", khz, want);
}
END_TEST

START_TEST(sizes)
{
	uint64_t free_bytes = 0;

	ck_assert_uint_ge(host_cpu_count(), 1);
	ck_assert_uint_gt(host_memory_mib(), 64);
	ck_assert_uint_le(host_memory_available_mib(), host_memory_mib());
	ck_assert_int_eq(host_free_bytes("/none/of/these", &free_bytes), 0);
	ck_assert_int_eq(host_free_bytes("/", &free_bytes), 0);
	ck_assert_int_eq(host_free_bytes("tmp", &free_bytes), -EINVAL);
	ck_assert_int_eq(host_free_bytes("", &free_bytes), -EINVAL);
	ck_assert_int_eq(host_free_bytes("/etc/passwd/x", &free_bytes), -ENOTDIR);
}
END_TEST

START_TEST(programs)
{
	_cleanup_free_ char *sh = NULL, *again = NULL, *mine = NULL, *found = NULL;

	ck_assert_int_eq(setenv("PATH", ":relative::/nonexistent:/bin:", 1), 0);
	ck_assert_int_eq(host_find_program("sh", &sh), 0);
	ck_assert_str_eq(sh, "/bin/sh");
	ck_assert_int_eq(host_find_program("/bin/sh", &again), 0);
	ck_assert_int_eq(host_find_program("/bin", &again), -ENOENT);
	ck_assert_int_eq(host_find_program("", &again), -ENOENT);
	ck_assert_int_eq(host_find_program("no-such-program", &again), -ENOENT);
	mine = file_with("prog", "#!/bin/sh\n");
	ck_assert_int_eq(setenv("PATH", dir, 1), 0);
	ck_assert_int_eq(host_find_program("prog", &found), -ENOENT); /* not executable */
	ck_assert_int_eq(chmod(mine, 0700), 0);
	ck_assert_int_eq(host_find_program("prog", &found), 0);
	ck_assert_str_eq(found, mine);
	ck_assert_int_eq(setenv("PATH", "", 1), 0);
	ck_assert_int_eq(host_find_program("sh", &found), -ENOENT);
}
END_TEST

START_TEST(subids)
{
	uint64_t start = 0, count = 0;
	_cleanup_free_ char *f = file_with("subuid",
		"\n# comment\nroot\nroot:1\nroot:x:5\n:1:2\nother:1:70000\n"
		"root:5:10\n4294967295000:1:1\nroot:4294967290:65536\nroot:-1:65536\n"
		"root:100000:65536:junk\n0:200000:70000\nroot:300000:65536");

	ck_assert_int_eq(host_subid(f, 0, 1, &start, &count), 0);
	ck_assert_uint_eq(start, 5);
	ck_assert_int_eq(host_subid(f, 0, 11, &start, &count), 0);
	ck_assert_uint_eq(start, 200000); /* by number */
	ck_assert_uint_eq(count, 70000);
	ck_assert_int_eq(host_subid(f, 0, 70001, &start, &count), -ENOENT);
	ck_assert_int_eq(host_subid(f, 12345678, 1, &start, &count), -ENOENT);
	ck_assert_int_eq(host_subid("/nonexistent", 0, 1, &start, &count), -ENOENT);
	_cleanup_free_ char *last = file_with("subgid", "root:300000:65536");
	ck_assert_int_eq(host_subid(last, 0, 65536, &start, &count), 0);
	ck_assert_uint_eq(start, 300000);
}
END_TEST

static void expect_free(const char *line, const char *option, const char *file)
{
	const char *at = strstr(line, option);
	unsigned long long first = 0, last = 0;
	_cleanup_free_ char *text = NULL;
	size_t n;

	ck_assert_ptr_nonnull(at);
	ck_assert_int_eq(sscanf(at + strlen(option), " %llu-%llu", &first, &last), 2);
	ck_assert_uint_ge(first, 100000);
	ck_assert_uint_eq(last - first, 65535);
	if (read_file_at(AT_FDCWD, file, 1 << 20, &text, &n) < 0)
		return;
	for (char *line_at = text, *row; (row = strsep(&line_at, "\n"));) {
		unsigned long long start, count;
		if (sscanf(row, "%*[^:]:%llu:%llu", &start, &count) == 2)
			ck_assert(last < start || first >= start + count);
	}
}

START_TEST(subid_command)
{
	_cleanup_free_ char *line = NULL, *name = NULL, *none = NULL;

	ck_assert_int_eq(host_user_name(0, &name), 0);
	ck_assert_str_eq(name, "root");
	ck_assert_int_eq(host_subid_command(0, 65536, &line), 0);
	ck_assert(startswith(line, "sudo usermod --add-subuids "));
	ck_assert_str_eq(line + strlen(line) - strlen(" root"), " root");
	expect_free(line, "--add-subuids", "/etc/subuid");
	expect_free(line, "--add-subgids", "/etc/subgid");
	ck_assert_int_eq(host_subid_command(4294967, 65536, &none), -ENOENT);
	ck_assert_int_eq(host_subid_command(0, UINT32_MAX, &none), -ENOSPC);
}
END_TEST

START_TEST(places)
{
	_cleanup_free_ char *a = NULL, *b = NULL, *c = NULL, *d = NULL, *e = NULL, *f = NULL;

	ck_assert_int_eq(setenv("HOME", "/home/x", 1), 0);
	ck_assert_int_eq(unsetenv("PYRO_ENVIRONMENT_CACHE_DIR"), 0);
	ck_assert_int_eq(host_socket_path(true, 0, &a), 0);
	ck_assert_str_eq(a, "/run/pyro/pyrod.sock");
	ck_assert_int_eq(host_state_dir(false, &b), 0);
	ck_assert_str_eq(b, "/home/x/.local/state/pyro");
	ck_assert_int_eq(host_environment_cache(false, &c), 0);
	ck_assert_str_eq(c, "/home/x/.cache/pyro/environments");
	ck_assert_int_eq(host_runtime_dir(false, 4000000000U, &d), 0);
	ck_assert_str_eq(d, "/run/user/4000000000/pyro");
	ck_assert_int_eq(setenv("PYRO_ENVIRONMENT_CACHE_DIR", "relative", 1), 0);
	ck_assert_int_eq(host_environment_cache(true, &e), -EINVAL);
	ck_assert_int_eq(setenv("PYRO_ENVIRONMENT_CACHE_DIR", "/c", 1), 0);
	ck_assert_int_eq(host_environment_cache(true, &e), 0);
	ck_assert_str_eq(e, "/c");
	ck_assert_int_eq(setenv("HOME", "relative", 1), 0);
	ck_assert_int_eq(host_state_dir(false, &f), 0); /* of /etc/passwd */
	ck_assert_int_eq(f[0], '/');
}
END_TEST

/* A home of another user, of root, of the caller, and a link of another user. */
START_TEST(whose_home)
{
	_cleanup_free_ char *home = str_printf("%s/home", dir), *local = NULL, *mine = NULL,
			    *again = NULL, *theirs = NULL;

	if (getuid() != 0)
		return;
	local = str_printf("%s/.local", home);
	mine = str_printf("%s/.local/state/pyro", home);
	ck_assert_int_eq(mkdir(home, 0755), 0);
	ck_assert_int_eq(setenv("HOME", home, 1), 0);
	ck_assert_int_eq(host_state_dir(false, &again), 0);
	ck_assert_str_eq(again, mine);
	ck_assert_int_eq(symlink("/", local), 0);
	ck_assert(host_is_ours(mine, strlen(home)));
	ck_assert_int_eq(lchown(local, 4000, 4000), 0);
	ck_assert(!host_is_ours(mine, strlen(home)));
	ck_assert(host_is_ours(home, strlen(home)));
	ck_assert(host_has_foreign_link(mine) && host_has_foreign_link(local));
	ck_assert(!host_has_foreign_link(home) && !host_has_foreign_link("/") &&
		  !host_has_foreign_link(""));
	ck_assert_int_eq(host_state_dir(false, &theirs), 0); /* of /etc/passwd */
	ck_assert(!startswith(theirs, home));
	ck_assert_int_eq(unlink(local), 0);
	ck_assert_int_eq(chown(home, 4000, 4000), 0);
	ck_assert(!host_is_ours(mine, strlen(home)) && !host_is_ours(home, 0));
	ck_assert_int_eq(rmdir(home), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("host");
	TCase *tc = tcase_create("host");

	if (!mkdtemp(dir))
		return EXIT_FAILURE;
	tcase_add_test(tc, kvm);
	tcase_add_loop_test(tc, tsc, 0, 2);
	tcase_add_test(tc, sizes);
	tcase_add_test(tc, programs);
	tcase_add_test(tc, subids);
	tcase_add_test(tc, subid_command);
	tcase_add_test(tc, places);
	tcase_add_test(tc, whose_home);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	static const char *const names[] = { "prog", "subuid", "subgid" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, names[i]);
		if (path)
			(void)unlink(path);
	}
	(void)rmdir(dir);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
