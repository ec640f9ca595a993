/* SPDX-License-Identifier: MIT */
/*
 * Which mirror the host's apt sources name: both formats, third parties passed over, other systems ignored.
 * Run by `meson test`; each case writes a root of its own.
 */
#include "daemon/image/mirror.h"
#include <check.h>
#include <sys/stat.h>

static char root[32];

static void put(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/%s", root, name);
	FILE *f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

static void setup(void)
{
	const char *const folders[] = { "", "/etc", "/etc/apt", "/etc/apt/sources.list.d" };
	char path[128];
	snprintf(root, sizeof(root), "test-mirror-%ld", (long)getpid());
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		ck_assert(mkdir(path, 0700) == 0 || errno == EEXIST);
	}
	put("etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n");
	put("etc/apt/sources.list", "");
	put("etc/apt/sources.list.d/a.sources", "");
}

static void teardown(void)
{
	const char *const names[] = { "/etc/os-release", "/etc/apt/sources.list",
		"/etc/apt/sources.list.d/a.sources", "/etc/apt/sources.list.d", "/etc/apt", "/etc",
		"" };
	char path[128];
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s%s", root, names[i]);
		ck_assert_int_eq(remove(path), 0);
	}
}

static void expect(const char *uri, const char *security)
{
	struct mirror m = { 0 };
	ck_assert_int_eq(mirror_of_host(root, "bookworm", &m), 0);
	ck_assert_pstr_eq(m.uri, uri);
	ck_assert_pstr_eq(m.security, security);
	mirror_done(&m);
}

START_TEST(one_line)
{
	put("etc/apt/sources.list",
		"# deb http://no/debian trixie main\n"
		"deb-src http://src/debian trixie main\n"
		"deb https://third.example/apt cloud-trixie main\n"
		"deb [arch=amd64 signed-by=/x] http://a.example/debian trixie main\n"
		"deb http://s.example/security trixie-security main contrib\n");
	expect("http://a.example/debian", "http://s.example/security");
}
END_TEST

START_TEST(deb822)
{
	put("etc/apt/sources.list.d/a.sources",
		"Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: trixie\nComponents: main\n\n"
		"Types: deb-src\nURIs: http://src.example\nSuites: trixie\nComponents: main\n\n"
		"Types: deb deb-src\n# a comment\nURIs: http://b.example/debian\n"
		"Suites: trixie trixie-updates\nComponents: main");
	expect("http://b.example/debian", NULL);
}
END_TEST

START_TEST(not_debian)
{
	put("etc/os-release", "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=trixie\n");
	put("etc/apt/sources.list", "deb http://a.example/ubuntu trixie main\n");
	expect(NULL, NULL);
}
END_TEST

START_TEST(hostile)
{
	put("etc/apt/sources.list",
		"deb\ndeb [\ndeb [a\ndeb x\ndeb copy:/x trixie main\ndeb http://a\"b trixie main\n");
	put("etc/apt/sources.list.d/a.sources",
		":\n:::\nTypes:\nURIs\n\nTypes: deb\nURIs:\nSuites:\nComponents: main\n");
	expect(NULL, NULL);
	ck_assert(!mirror_valid("http://a b"));
	ck_assert(!mirror_valid("--option"));
	ck_assert(mirror_valid("file:///srv/debian"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mirror");
	TCase *tc = tcase_create("mirror");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, one_line);
	tcase_add_test(tc, deb822);
	tcase_add_test(tc, not_debian);
	tcase_add_test(tc, hostile);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
