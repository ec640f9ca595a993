/* SPDX-License-Identifier: MIT */
/*
 * pyrod.conf: every key's type and range, and refusals with file and line. Also the escaping of log
 * lines. Run by `meson test config`.
 */

#include "daemon/config.h"

#include <check.h>
#include <sys/stat.h>

#include "daemon/log.h"

static char dir[] = "/tmp/pyro-test-config-XXXXXX";

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(setenv("XDG_CONFIG_HOME", dir, 1), 0);
}

static void write_file(const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	_cleanup_fclose_ FILE *f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
}

static void teardown(void)
{
	static const char *const names[] = { "pyro/pyrod.conf", "pyro/conf.d/20-b.conf",
		"pyro/conf.d/10-a.conf", "pyro/conf.d/notes.txt", "pyro/conf.d", "pyro", "x.conf",
		"" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, names[i]);
		(void)remove(path);
	}
}

/* Loads text as the only file. Returns the error's message and fix when it is refused, otherwise
 * NULL. */
static const char *refused(const char *text, struct config **ret)
{
	static char message[1000];
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *path = str_printf("%s/x.conf", dir);
	write_file("x.conf", text);
	if (config_load(true, path, ret, &err) >= 0)
		return NULL;
	ck_assert(err.set);
	(void)snprintf(message, sizeof(message), "%s|%s", err.message, err.fix ? err.fix : "");
	return message;
}

START_TEST(defaults)
{
	_cleanup_(config_freep) struct config *c = NULL;
	ck_assert_int_eq(config_load(false, NULL, &c, NULL), 0);
	ck_assert_int_eq(c->default_ttl_seconds, 600);
	ck_assert_int_eq(c->max_machines, 16);
	ck_assert_int_eq(c->output_limit_mib, 16);
	ck_assert_int_eq(c->accelerator, ACCELERATOR_AUTO);
	ck_assert(c->host_compat);
	ck_assert_ptr_null(c->kernel);
	ck_assert_ptr_null(c->files);
}
END_TEST

START_TEST(reads)
{
	_cleanup_(config_freep) struct config *c = NULL;
	const char *text = refused("# a comment\n[pyrod]\naccelerator = emulation\n"
				   "host_compat=yes\nmax_machines=3\nkernel=/boot/vmlinuz\n"
				   "qemu=/a\nqemu=\n",
		&c);
	ck_assert_msg(!text, "%s", text);
	ck_assert_int_eq(c->accelerator, ACCELERATOR_EMULATION);
	ck_assert(c->host_compat);
	ck_assert_int_eq(c->max_machines, 3);
	ck_assert_str_eq(c->kernel, "/boot/vmlinuz");
	ck_assert_ptr_null(c->qemu);
}
END_TEST

START_TEST(refuses)
{
	static const struct {
		const char *text, *said;
	} rows[] = {
		{ "max_machnes=3\n", ":1: unknown key: max_machnes" },
		{ "[net]\nmax_machines=3\n", ":2: unknown section: net" },
		{ "\nmax_machines=0\n",
			":2: max_machines: 0|set max_machines to a number from 1 to 10000" },
		{ "max_machines=-1\n", ":1: max_machines: -1" },
		{ "max_machines=3x\n", ":1: max_machines: 3x" },
		{ "max_machines=99999999999999999999\n", ":1: max_machines" },
		{ "max_machines=\n", ":1: max_machines" },
		{ "host_compat=maybe\n", "set it to yes or no" },
		{ "accelerator=tcg\n", "set it to auto, kvm or emulation" },
		{ "kernel=boot/vmlinuz\n", "absolute path" },
		{ "mirror=mirror.invalid\n", "http://, https:// or file:///" },
		{ "mirror=--help\n", "http://, https:// or file:///" },
		{ "mirror=http://a/b [trusted=yes]\n", "http://, https:// or file:///" },
		{ "pool=1\nwhat is this\n", ":2: neither a key" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct config *c = NULL;
		const char *text = refused(rows[i].text, &c);
		ck_assert_msg(text && strstr(text, rows[i].said), "%s: %s", rows[i].text, text);
		ck_assert_ptr_null(c);
	}
}
END_TEST

START_TEST(long_line)
{
	char text[100100];
	struct config *c = NULL;
	memset(text, 'a', sizeof(text));
	memcpy(text, "mirror=", 7);
	strcpy(text + 100000, "\npool=1\n");
	ck_assert_ptr_nonnull(strstr(refused(text, &c), ":1: the line is too long"));
}
END_TEST

/* conf.d is read after the main file, in order of names; files with other names are not read. */
START_TEST(order)
{
	_cleanup_free_ char *a = str_printf("%s/pyro", dir), *b = str_printf("%s/pyro/conf.d", dir);
	_cleanup_(config_freep) struct config *c = NULL;
	ck_assert_int_eq(mkdir(a, 0700), 0);
	ck_assert_int_eq(mkdir(b, 0700), 0);
	write_file("pyro/pyrod.conf", "pool=1\nmax_machines=1\nretention_days=7\n");
	write_file("pyro/conf.d/20-b.conf", "pool=3\n");
	write_file("pyro/conf.d/10-a.conf", "pool=2\nmax_machines=2\n");
	write_file("pyro/conf.d/notes.txt", "not a key\n");
	ck_assert_int_eq(config_load(false, NULL, &c, NULL), 0);
	ck_assert_int_eq(c->pool, 3);
	ck_assert_int_eq(c->max_machines, 2);
	ck_assert_int_eq(c->retention_days, 7);
	static const char *const names[] = { "pyrod.conf", "conf.d/10-a.conf", "conf.d/20-b.conf" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/pyro/%s", dir, names[i]);
		ck_assert_str_eq(c->files[i], path);
	}
	ck_assert_ptr_null(c->files[ARRAY_SIZE(names)]);
}
END_TEST

START_TEST(missing)
{
	struct config *c = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_lt(config_load(true, "/nonexistent/pyrod.conf", &c, &err), 0);
	ck_assert_ptr_nonnull(strstr(err.message, "/nonexistent/pyrod.conf"));
}
END_TEST

START_TEST(escape)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
		{ "plain \xc3\xa9", "plain \xc3\xa9" },
		{ "a\nb\tc\x1b[0m", "a\\x0ab\\x09c\\x1b[0m" },
		{ "\x7f", "\\x7f" },
		{ "\xc2\x85", "\\xc2\\x85" },
		{ "\xe2\x80\xae", "\\xe2\\x80\\xae" },
		{ "\xe2\x80\xa8", "\\xe2\\x80\\xa8" },
		{ "\xe2\x81\xa6", "\\xe2\\x81\\xa6" },
		{ "\xff\xc0\xaf", "\\xff\\xc0\\xaf" },
		{ "\xed\xa0\x80", "\\xed\\xa0\\x80" },
		{ "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80" },
	};
	char out[64];
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t n = log_escape(rows[i].in, strlen(rows[i].in), out, sizeof(out));
		ck_assert_str_eq(out, rows[i].out);
		ck_assert_uint_eq(n, strlen(out));
	}
	for (size_t size = 1; size < 12; size++) {
		char small[16];
		memset(small, '#', sizeof(small));
		size_t n = log_escape("ab\n\xc3\xa9", 5, small, size);
		ck_assert_uint_lt(n, size);
		ck_assert_int_eq(small[n], '\0');
		ck_assert_int_eq(small[size], '#');
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config");
	TCase *t = tcase_create("config");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, defaults);
	tcase_add_test(t, reads);
	tcase_add_test(t, refuses);
	tcase_add_test(t, long_line);
	tcase_add_test(t, order);
	tcase_add_test(t, missing);
	tcase_add_test(t, escape);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
