/* SPDX-License-Identifier: MIT */
/*
 * Tests of guest/conf.c, file.c, device.c and system.c on an environment's files and the kernel's
 * messages: sysctl.d lines, folders behind unusual links, device events, sizes.
 */

#include "guest/conf.h"
#include "guest/device.h"
#include "guest/file.h"
#include "guest/system.h"

#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

static void check_settings(const char *text, const char *want)
{
	_cleanup_settings_ struct conf_settings s = { 0 };
	char got[1024] = "";

	ck_assert_int_eq(conf_parse_settings(text, &s), 0);
	for (size_t i = 0; i < s.n; i++) {
		size_t n = strlen(got);
		(void)snprintf(got + n, sizeof(got) - n, "%s=%s;", s.v[i].key,
			s.v[i].value ? s.v[i].value : "NULL");
	}
	ck_assert_str_eq(got, want);
}

START_TEST(settings)
{
	check_settings("", "");
	check_settings("# a=b\n; c=d\n\n  \t\nno setting\n", "");
	check_settings(
		"kernel.pid_max = 99\nvm.swappiness=1", "kernel/pid_max=99;vm/swappiness=1;");
	check_settings(" \tnet/ipv4/ip_forward\t=\t1 \r\n", "net/ipv4/ip_forward=1;");
	/* The first of the two separators counts: the interface eth0.5. */
	check_settings("net.ipv4.conf.eth0/5.rp_filter=2\nnet/ipv4/conf/eth0.5/rp_filter=1",
		"net/ipv4/conf/eth0.5/rp_filter=2;net/ipv4/conf/eth0.5/rp_filter=1;");
	check_settings("-kernel.x = 1\n-net.ipv4.conf.all.rp_filter\nnet.ipv4.conf.*.rp_filter = 2",
		"kernel/x=1;net/ipv4/conf/all/rp_filter=NULL;net/ipv4/conf/*/rp_filter=2;");
	check_settings("kernel.core_pattern=|/bin/x %p = y\nempty=\n",
		"kernel/core_pattern=|/bin/x %p = y;empty=;");
}
END_TEST

START_TEST(settings_stay_inside)
{
	check_settings(
		"../../etc/passwd=x\n/etc/passwd=x\na/../../x=y\n=x\n/=x\na//b=c\na/=c\n-\n-=\n",
		"");
	check_settings("a/..b/c=d\n", "a/..b/c=d;");
}
END_TEST

START_TEST(settings_are_bounded)
{
	_cleanup_settings_ struct conf_settings s = { 0 };
	size_t lines = 4 * CONF_ENTRIES_MAX;
	char *text = malloc(lines * 4 + 1);

	for (size_t i = 0; i < lines; i++)
		memcpy(text + 4 * i, "a=b\n", 5);
	ck_assert_int_eq(conf_parse_settings(text, &s), 0);
	ck_assert_uint_eq(s.n, CONF_ENTRIES_MAX);
	free(text);
}
END_TEST

/* file.c */

static char dir[] = "/tmp/pyro-test-conf-XXXXXX";

static char *in(const char *name)
{
	static char path[8][512];
	static size_t at;

	at = (at + 1) % ARRAY_SIZE(path);
	(void)snprintf(path[at], sizeof(path[at]), "%s/%s", dir, name);
	return path[at];
}

static bool is_dir(const char *name)
{
	struct stat st;

	return stat(in(name), &st) == 0 && S_ISDIR(st.st_mode);
}

static void setup(void)
{
	(void)strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
	_cleanup_free_ char *command = str_printf("rm -rf %s", dir);

	ck_assert_int_eq(
		system(command), 0); /* NOLINT(bugprone-command-processor,cert-env33-c): a test */
}

START_TEST(folders)
{
	ck_assert_int_eq(file_dir(in("a/b/c")), 0);
	ck_assert_int_eq(file_dir(in("a/b/c")), 0);
	ck_assert(is_dir("a/b/c"));
	ck_assert_int_eq(file_dir("/"), 0);
}
END_TEST

/* /lib -> usr/lib without usr/lib; a chain; an absolute one. */
START_TEST(folders_behind_links)
{
	ck_assert_int_eq(symlink("usr/lib", in("lib")), 0);
	ck_assert_int_eq(file_dir(in("lib/modules")), 0);
	ck_assert(is_dir("usr/lib/modules"));
	ck_assert_int_eq(symlink("two", in("one")), 0);
	ck_assert_int_eq(symlink(in("three/four"), in("two")), 0);
	ck_assert_int_eq(file_dir(in("one")), 0);
	ck_assert(is_dir("three/four"));
	ck_assert_int_eq(symlink("a/../b", in("up")), 0);
	ck_assert_int_eq(file_dir(in("up/c")), 0);
	ck_assert(is_dir("up/c"));
}
END_TEST

START_TEST(folders_where_something_else_is)
{
	ck_assert_int_eq(file_replace(in("file"), "x"), 0);
	ck_assert_int_eq(file_dir(in("file")), 0);
	ck_assert(is_dir("file"));
	ck_assert_int_eq(symlink("self", in("self")), 0);
	ck_assert_int_eq(file_dir(in("self")), 0);
	ck_assert(is_dir("self"));
	ck_assert_int_eq(symlink("pong", in("ping")), 0);
	ck_assert_int_eq(symlink("ping", in("pong")), 0);
	ck_assert_int_eq(file_dir(in("ping")), 0);
	ck_assert_int_eq(mkfifo(in("fifo"), 0600), 0);
	ck_assert_int_eq(file_dir(in("fifo")), 0);
	/* A file in a parent's place is not replaced. */
	ck_assert_int_eq(file_replace(in("parent"), "x"), 0);
	ck_assert_int_eq(file_dir(in("parent/child")), -ENOTDIR);
	ck_assert(!is_dir("parent"));
	/* Links that expand without end fail. */
	ck_assert_int_eq(symlink("grow/x", in("grow")), 0);
	ck_assert_int_lt(file_dir(in("grow/y")), 0);
}
END_TEST

START_TEST(files_replace_links)
{
	_cleanup_free_ char *text = NULL, *kept = NULL;

	ck_assert_int_eq(file_replace(in("kept"), "kept"), 0);
	ck_assert_int_eq(symlink("kept", in("link")), 0);
	ck_assert_int_eq(file_replace(in("link"), "new"), 0);
	ck_assert_int_eq(file_read(in("link"), &text), 0);
	ck_assert_str_eq(text, "new");
	ck_assert_int_eq(file_read(in("kept"), &kept), 0);
	ck_assert_str_eq(kept, "kept");
	ck_assert_int_eq(mkdir(in("folder"), 0700), 0);
	ck_assert_int_lt(file_replace(in("folder"), "x"), 0);
}
END_TEST

START_TEST(files_are_read_without_waiting)
{
	char *text = NULL;
	_cleanup_close_ int fd = -EBADF;

	ck_assert_int_eq(file_read(in("none"), &text), 0);
	ck_assert_str_eq(text, "");
	free(text);
	ck_assert_int_eq(mkfifo(in("fifo"), 0600), 0);
	ck_assert_int_eq(file_read(in("fifo"), &text), -EINVAL);
	ck_assert_int_eq(file_read(dir, &text), -EINVAL);
	fd = open(in("huge"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(ftruncate(fd, (off_t)1 << 40), 0);
	ck_assert_int_eq(file_read(in("huge"), &text), 0);
	free(text);
}
END_TEST

/* device.c */

START_TEST(device_rules)
{
	static const struct {
		const char *name;
		bool block, any;
		enum device_group group;
		mode_t mode;
	} cases[] = {
		{ "vda", true, true, GROUP_DISK, 0660 },
		{ "sr0", true, true, GROUP_CDROM, 0660 },
		{ "loop7", true, true, GROUP_DISK, 0660 },
		{ "tty", false, true, GROUP_TTY, 0666 },
		{ "tty0", false, true, GROUP_TTY, 0620 },
		{ "ttyS0", false, true, GROUP_DIALOUT, 0660 },
		{ "ttyprintk", false, false, GROUP_ROOT, 0 },
		{ "ptmx", false, true, GROUP_TTY, 0666 },
		{ "vcsa1", false, true, GROUP_TTY, 0660 },
		{ "mem", false, true, GROUP_KMEM, 0640 },
		{ "input/event0", false, true, GROUP_INPUT, 0660 },
		{ "input/js0", false, true, GROUP_INPUT, 0664 },
		{ "dri/renderD128", false, true, GROUP_RENDER, 0660 },
		{ "dri/card0", false, true, GROUP_VIDEO, 0660 },
		{ "kvm", false, true, GROUP_KVM, 0660 },
		{ "fuse", false, true, GROUP_ROOT, 0666 },
		{ "net/tun", false, true, GROUP_ROOT, 0666 },
		{ "vsock", false, true, GROUP_ROOT, 0666 },
		{ "loop-control", false, true, GROUP_DISK, 0660 },
		{ "null", false, false, GROUP_ROOT, 0 },
		{ "", false, false, GROUP_ROOT, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		enum device_group group = GROUP_ROOT;
		mode_t mode = 0;
		ck_assert_msg(
			device_rule(cases[i].name, cases[i].block, &group, &mode) == cases[i].any,
			"%s", cases[i].name);
		ck_assert_msg(
			group == cases[i].group && mode == cases[i].mode, "%s", cases[i].name);
	}
}
END_TEST

#define PARSE(literal, e) device_parse(literal, sizeof(literal), e)

START_TEST(device_events)
{
	struct device_event e = { 0 };

	ck_assert(PARSE("add@/devices/virtual/misc/vsock\0ACTION=add\0DEVPATH=/x\0SUBSYSTEM=misc\0"
			"DEVNAME=vsock\0DEVMODE=0666",
		&e));
	ck_assert_str_eq(e.name, "vsock");
	ck_assert(!e.block && e.mode == 0666);
	ck_assert(PARSE("add@/x\0ACTION=add\0SUBSYSTEM=block\0DEVNAME=loop0", &e));
	ck_assert(e.block && e.mode == 0);
	ck_assert(!PARSE("remove@/x\0ACTION=remove\0DEVNAME=loop0", &e));
	ck_assert(!PARSE("add@/x\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=v0", &e));
	ck_assert(!PARSE("add@/x\0ACTION=add\0DEVNAME=/etc/passwd", &e));
	ck_assert(!PARSE("add@/x\0ACTION=add\0DEVNAME=../etc/passwd", &e));
	ck_assert(!PARSE("add@/x\0ACTION=add\0DEVNAME=", &e));
	ck_assert(!device_parse("ACTION=add", 5, &e));
	ck_assert(!device_parse("", 0, &e));
}
END_TEST

/* system.c */

START_TEST(memory_is_left)
{
	for (uint64_t mib = 16; mib <= 64 * 1024; mib *= 2) {
		struct system_sizes s;
		system_sizes(mib * MIB, &s);
		ck_assert_uint_le(s.shm + s.run + s.lock + s.dev, mib * MIB / 2);
		/* An inode takes a kilobyte. */
		ck_assert_uint_le((s.shm_inodes + 3 * s.run_inodes) * 1024, mib * MIB / 8);
		ck_assert(s.shm > 0 && s.run > 0 && s.lock > 0 && s.dev > 0);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guest-conf");
	TCase *tc = tcase_create("guest-conf");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, settings);
	tcase_add_test(tc, settings_stay_inside);
	tcase_add_test(tc, settings_are_bounded);
	tcase_add_test(tc, folders);
	tcase_add_test(tc, folders_behind_links);
	tcase_add_test(tc, folders_where_something_else_is);
	tcase_add_test(tc, files_replace_links);
	tcase_add_test(tc, files_are_read_without_waiting);
	tcase_add_test(tc, device_rules);
	tcase_add_test(tc, device_events);
	tcase_add_test(tc, memory_is_left);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
