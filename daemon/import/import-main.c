/* SPDX-License-Identifier: MIT */
/*
 * main of pyro-import: finds the verb (`pyro-import unit ID SOCKET` receives one, import-unit.c).
 * Run by pyrod as a job, or by hand.
 */
#include "daemon/import/import.h"
#include "daemon/launch-msg.h"
#include <locale.h>

static const struct verb {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *usage;
} verbs[] = {
	{ "check", import_check_main, "sha256:HEX | HASH [INITRD sha256:HEX]" },
	{ "disk", import_disk_main, "--size-mib N --output FILE" },
	{ "environment", import_environment_main,
		"--suite SUITE --packages A,B,... [--mirror URL] --output DIR" },
	{ "initramfs", import_initramfs_main, "..." },
	{ "kernel", import_kernel_main, "..." },
	{ "sandbox", import_sandbox_main, "" },
	{ "tar", import_tar_main, "--input FILE|- --output DIR" },
	{ "write", import_write_main, "(run by the others)" },
};

static int usage(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(stderr, "%s pyro-import %s %s\n", i ? "      " : "usage:", verbs[i].name,
			verbs[i].usage);
	return 2;
}

static int run(int argc, char **argv)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (streq(argv[0], verbs[i].name))
			return verbs[i].main(argc, argv);
	return usage();
}

int main(int argc, char **argv)
{
	_cleanup_(launch_msg_done) struct launch_msg m = {};
	/* Keeps names of pax headers as bytes; libarchive converts them to the locale's charset. */
	if (!setlocale(LC_CTYPE, "C.UTF-8"))
		(void)setlocale(LC_CTYPE, "");
	import_undo_on_signals();
	if (argc < 2)
		return usage();
	if (!streq(argv[1], "unit"))
		return run(argc - 1, argv + 1);
	if (argc != 4 || import_unit_take(argv[3], &m, &argc, &argv) < 0)
		return EXIT_FAILURE;
	return run(argc, argv);
}
