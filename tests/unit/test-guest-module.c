/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/module.c on indexes in depmod's format: which files are loaded for a name, in
 * which order, with which options; missing modules; lines and names of any length.
 */

#include "guest/module.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

static char dir[] = "/tmp/pyro-test-module-XXXXXX";
static int dir_fd = -EBADF;

/* The calls of the loader: "PATH(OPTIONS) …". */
struct log {
	char text[4096];
	const char *fails; /* its path */
};

static int load(
	int at, const char *path, const char *name _unused_, const char *options, void *userdata)
{
	struct log *log = userdata;
	size_t n = strlen(log->text);

	ck_assert_int_eq(at, dir_fd);
	(void)snprintf(log->text + n, sizeof(log->text) - n, "%s%s%s%s%s", n ? " " : "", path,
		*options ? "(" : "", options, *options ? ")" : "");
	return log->fails && streq(path, log->fails) ? -ENODEV : 0;
}

static void write_index(const char *name, const char *text)
{
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_eq(write_all(fd, text, strlen(text)), 0);
}

static void setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	write_index("modules.dep",
		"kernel/a/crc-t10dif.ko:\n"
		"kernel/net/veth.ko:\n"
		"kernel/net/top.ko: kernel/net/middle.ko kernel/net/base.ko.xz\n"
		"kernel/net/middle.ko: kernel/net/base.ko.xz\n"
		"kernel/net/base.ko.xz:\n"
		"kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n"
		"kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n"
		"kernel/net/llc/llc.ko:\n"
		"kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko\n"
		"kernel/drivers/net/dummy.ko:\n"
		"kernel/xt_LOG.ko: kernel/x_tables.ko\n"
		"kernel/x_tables.ko:\n"
		"kernel/nf_log_syslog.ko:\n"
		"kernel/loop-a.ko:\n"
		"kernel/loop-b.ko:\n");
	write_index("modules.alias", "# Aliases extracted from modules themselves.\n"
				     "alias rtnl-link-veth veth\n"
				     "alias net-pf-1[0-9]-proto-*  nothing\n"
				     "alias crypto-many veth\n"
				     "alias crypto-many crc_t10dif\n"
				     "alias crypto-many veth\n"
				     "alias of:N*T[a-z-]x veth\n"
				     "alias char-major-10-200 top\n"
				     "alias dangling nowhere\n"
				     "alias\nalias x\nnot an alias\n");
	write_index("modules.softdep", "softdep xt_LOG pre: nf_log_syslog none post: veth\n"
				       "softdep loop-a pre: loop-b\nsoftdep loop-b pre: loop-a\n"
				       "softdep veth crc_t10dif\nsoftdep\n");
	write_index("modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n");
}

static void teardown(void)
{
	static const char *const names[] = { "modules.dep", "modules.alias", "modules.softdep",
		"modules.builtin", "modules.devname" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlinkat(dir_fd, names[i], 0);
	ck_assert_int_eq(rmdir(dir), 0);
	dir_fd = fd_close(dir_fd);
}

static void check(const char *name, int want, const char *loads)
{
	struct log log = { 0 };

	ck_assert_msg(module_request(dir_fd, name, load, &log) == want, "%s", name);
	ck_assert_str_eq(log.text, loads);
}

START_TEST(names_and_aliases)
{
	check("veth", 0, "kernel/net/veth.ko");
	check("rtnl-link-veth", 0, "kernel/net/veth.ko");
	check("crc_t10dif", 0, "kernel/a/crc-t10dif.ko");
	check("crc-t10dif", 0, "kernel/a/crc-t10dif.ko");
	/* Loads every module of an alias once; a dash inside brackets is a range. */
	check("crypto-many", 0, "kernel/net/veth.ko kernel/a/crc-t10dif.ko");
	check("of:NfooTkx", 0, "kernel/net/veth.ko");
	check("of:NfooT_x", -ENOENT, "");
	check("ext4", 0, "");
	check("crc32c-generic", 0, "");
}
END_TEST

START_TEST(what_is_not_there)
{
	static const char *const names[] = { "", "nowhere", "dangling", "../../etc/passwd",
		"x_table", "x_tables_", "alias", "net-pf-20", "kernel/net/veth" };
	char *name = calloc(1, 100001);

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		check(names[i], -ENOENT, "");
	memset(name, 'a', 100000);
	check(name, -ENOENT, "");
	free(name);
}
END_TEST

START_TEST(dependencies_come_first)
{
	check("top", 0, "kernel/net/base.ko.xz kernel/net/middle.ko kernel/net/top.ko");
	check("char-major-10-200", 0,
		"kernel/net/base.ko.xz kernel/net/middle.ko kernel/net/top.ko");
}
END_TEST

START_TEST(a_dependency_that_fails_ends_it)
{
	struct log log = { .fails = "kernel/net/middle.ko" };

	ck_assert_int_eq(module_request(dir_fd, "top", load, &log), -ENODEV);
	ck_assert_str_eq(log.text, "kernel/net/base.ko.xz kernel/net/middle.ko");
	/* Of several modules one success is enough. */
	log = (struct log){ .fails = "kernel/net/veth.ko" };
	ck_assert_int_eq(module_request(dir_fd, "crypto-many", load, &log), 0);
}
END_TEST

START_TEST(soft_dependencies)
{
	check("xt_LOG", 0,
		"kernel/x_tables.ko kernel/nf_log_syslog.ko kernel/xt_LOG.ko kernel/net/veth.ko");
	/* A dependency cycle terminates. */
	check("loop-a", 0, "kernel/loop-b.ko kernel/loop-a.ko");
}
END_TEST

START_TEST(options_and_companions)
{
	check("dummy", 0, "kernel/drivers/net/dummy.ko(numdummies=0)");
	check("bridge", 0,
		"kernel/net/llc/llc.ko kernel/net/802/stp.ko kernel/net/bridge/bridge.ko "
		"kernel/net/bridge/br_netfilter.ko");
}
END_TEST

START_TEST(lines_of_any_length)
{
	size_t n = 3 * 64 * 1024;
	char *text = malloc(n + 64);

	memset(text, 'k', n);
	(void)snprintf(text + n, 64, ": x\nkernel/veth.ko:\nkernel/last.ko:");
	write_index("modules.dep", text);
	check("veth", 0, "kernel/veth.ko");
	check("last", -ENOENT, ""); /* cut off: no newline */
	write_index("modules.dep", "");
	check("veth", -ENOENT, "");
	(void)unlinkat(dir_fd, "modules.dep", 0);
	check("veth", -ENOENT, "");
	free(text);
}
END_TEST

static int collect(const struct module_node *n, void *userdata)
{
	char *text = userdata;
	size_t used = strlen(text);

	(void)snprintf(text + used, 512 - used, "%s %c %u:%u;", n->name,
		n->type == S_IFCHR ? 'c' : 'b', n->major, n->minor);
	return 0;
}

START_TEST(device_nodes)
{
	char text[512] = "";

	write_index("modules.devname",
		"# Device nodes to trigger on-demand module loading.\n"
		"fuse fuse c10:229\ntun net/tun c10:200\nx disk b7:1\n"
		"up ../etc c1:1\nabs /etc c1:1\ndot .x c1:1\nin a/../b c1:1\n"
		"end a/ c1:1\nshort x\ntype x p1:1\n");
	ck_assert_int_eq(module_nodes(dir_fd, collect, text), 0);
	ck_assert_str_eq(text, "fuse c 10:229;net/tun c 10:200;disk b 7:1;");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-module");
	TCase *tc = tcase_create("guest-module");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, names_and_aliases);
	tcase_add_test(tc, what_is_not_there);
	tcase_add_test(tc, dependencies_come_first);
	tcase_add_test(tc, a_dependency_that_fails_ends_it);
	tcase_add_test(tc, soft_dependencies);
	tcase_add_test(tc, options_and_companions);
	tcase_add_test(tc, lines_of_any_length);
	tcase_add_test(tc, device_nodes);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
