/* SPDX-License-Identifier: MIT */
/*
 * Which mirror the host's apt sources name: both formats; third-party sources are skipped, whether
 * apt has fetched from them or not; other systems are ignored; the content of a configured mirror.
 * Run by `meson test`; each case writes a root of its own.
 */
#include "daemon/import/mirror.h"
#include <check.h>
#include <ftw.h>
#include <limits.h>
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

/* Makes the folder below root and its parents. */
static void put_dirs(const char *name)
{
	char path[128];
	int n = snprintf(path, sizeof(path), "%s%s", root, name);
	for (int i = 1; i <= n; i++) {
		if (path[i] != '/' && path[i] != '\0')
			continue;
		path[i] = '\0';
		ck_assert(mkdir(path, 0700) == 0 || errno == EEXIST);
		path[i] = i < n ? '/' : '\0';
	}
}

static void setup(void)
{
	snprintf(root, sizeof(root), "test-mirror-%ld", (long)getpid());
	put_dirs("/etc/apt/sources.list.d");
	put_dirs("/var/lib/apt/lists");
	put("etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n");
	put("etc/apt/sources.list", "");
	put("etc/apt/sources.list.d/a.sources", "");
}

static int remove_one(const char *path, _unused_ const struct stat *st, _unused_ int flag,
	_unused_ struct FTW *ftw)
{
	return remove(path);
}

static void teardown(void)
{
	ck_assert_int_eq(nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
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
		"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian trixie main\n"
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

#define KEYRINGS "/usr/share/keyrings/"

/* Named like Debian's suites and components, and first by file name. */
START_TEST(third_party)
{
	static const char *const theirs[] = {
		"deb [arch=amd64 signed-by=/etc/apt/keyrings/microsoft.gpg] https://packages.third.example/repos/cli/ trixie main\n",
		"deb https://dl.third.example/linux/chrome/deb/ stable main\n",
		"deb [signed-by=" KEYRINGS "third.gpg] https://third.example/debian trixie main\n",
		"deb [ signed-by=" KEYRINGS
		"third.gpg arch=amd64 ] https://third.example/debian/ trixie main\n",
	};
	put("etc/apt/sources.list.d/debian.sources",
		"Types: deb\nURIs: http://deb.example/debian/\nSuites: trixie trixie-updates\nComponents: main\n"
		"Signed-By: " KEYRINGS "debian-archive-keyring.gpg\n\n"
		"Types: deb\nURIs: http://deb.example/debian-security\nSuites: trixie-security\nComponents: main\n");
	for (size_t i = 0; i < ARRAY_SIZE(theirs); i++) {
		put("etc/apt/sources.list.d/cli.list", theirs[i]);
		expect("http://deb.example/debian", "http://deb.example/debian-security");
	}
	put("etc/apt/sources.list.d/cli.list", "");
	put("etc/apt/sources.list.d/a.sources",
		"Types: deb\nURIs: https://third.example/debian\nSuites: trixie\nComponents: main\n"
		"Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n -----END PGP PUBLIC KEY BLOCK-----\n");
	expect("http://deb.example/debian", "http://deb.example/debian-security");
}
END_TEST

#define SIGNED "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"

/* Files that apt has fetched count, regardless of address and keyring. */
START_TEST(fetched)
{
	put("etc/apt/sources.list",
		"deb https://third.example/debian trixie main\n"
		"deb [signed-by=/srv/own.gpg] http://me:pw@cache.example:3142/my_mirror trixie main\n"
		"deb http://cache.example/fixes/ trixie-security main\n");
	put("var/lib/apt/lists/third.example_debian_dists_trixie_InRelease",
		SIGNED "Origin: Third\nLabel: Debian\nOrigin: Debian\n");
	put("var/lib/apt/lists/cache.example:3142_my%5fmirror_dists_trixie_InRelease",
		SIGNED "Origin: Debian\nLabel: Debian\n");
	put("var/lib/apt/lists/cache.example_fixes_dists_trixie-security_Release",
		"Origin: Debian\nLabel: Debian-Security\n");
	expect("http://me:pw@cache.example:3142/my_mirror", "http://cache.example/fixes");
	put("var/lib/apt/lists/cache.example:3142_my%5fmirror_dists_trixie_InRelease", "");
	expect(NULL, "http://cache.example/fixes");
}
END_TEST

START_TEST(not_debian)
{
	put("etc/os-release", "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=trixie\n");
	put("etc/apt/sources.list", "deb http://a.example/ubuntu trixie main\n");
	expect(NULL, NULL);
}
END_TEST

/* A mirror in a folder needs no network; http uses a proxy that does not exist. */
START_TEST(configured)
{
	char here[PATH_MAX], work[PATH_MAX + 32], uri[PATH_MAX + 64];
	char *lines[MIRROR_LINES];
	struct mirror m = { 0 };
	ck_assert_int_eq(setenv("http_proxy", "http://127.0.0.1:9", 1), 0);
	ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
	snprintf(work, sizeof(work), "%s/%s", here, root);
	snprintf(uri, sizeof(uri), "file://%s/debian/", work);
	ck_assert_int_eq(mirror_configured(uri, "bookworm", work, &m), 0);
	ck_assert(!m.updates && !m.security);
	ck_assert_int_eq(mirror_lines(&m, "bookworm", "", lines), 1);
	free(lines[0]);
	mirror_done(&m);
	put_dirs("/debian/dists/bookworm-updates");
	put("debian/dists/bookworm-updates/InRelease", "");
	put_dirs("/debian-security/dists/bookworm-security");
	put("debian-security/dists/bookworm-security/InRelease", "");
	ck_assert_int_eq(mirror_configured(uri, "bookworm", work, &m), 0);
	ck_assert(m.updates);
	uri[strlen(uri) - 1] = '\0';
	ck_assert_str_eq(m.uri, uri);
	ck_assert_int_eq(mirror_lines(&m, "bookworm", "[a=b] ", lines), 3);
	ck_assert_ptr_nonnull(strstr(lines[0], "/debian bookworm main"));
	ck_assert_ptr_nonnull(strstr(lines[1], "/debian bookworm-updates main"));
	ck_assert_ptr_nonnull(strstr(lines[2], "/debian-security bookworm-security main"));
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		ck_assert(startswith(lines[i], "deb [a=b] file:///"));
		free(lines[i]);
	}
	mirror_done(&m);
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
	tcase_add_test(tc, third_party);
	tcase_add_test(tc, fetched);
	tcase_add_test(tc, not_debian);
	tcase_add_test(tc, configured);
	tcase_add_test(tc, hostile);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
