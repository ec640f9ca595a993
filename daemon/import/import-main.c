/* SPDX-License-Identifier: MIT */
/*
 * main of pyro-import: finds the verb (`pyro-import unit ID SOCKET` is handed one: import-unit.c) and undoes half-done work when a signal ends it. Run by pyrod as a
 * job, or by hand. Must stay true: the signal handler uses async-signal-safe calls only, and what it
 * undoes is registered before it exists.
 */
#include "daemon/import/import.h"
#include "daemon/launch-msg.h"
#include <locale.h>
#include <signal.h>
#include <sys/wait.h>

static struct {
	const char *file, *folder;
	pid_t child; /* leads a process group */
} arg_undo;

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

/* The child cleans up after itself on SIGTERM; SIGALRM bounds the wait for it. */
static void on_signal(int sig)
{
	if (arg_undo.child > 0) {
		alarm(20);
		(void)kill(-arg_undo.child, SIGTERM);
		while (waitpid(arg_undo.child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (arg_undo.file)
		(void)unlink(arg_undo.file);
	if (arg_undo.folder)
		(void)rmdir(arg_undo.folder);
	_exit(128 + sig);
}

static void set_undo(const char *file, pid_t child, const char *folder)
{
	sigset_t all, old;
	sigfillset(&all);
	(void)sigprocmask(SIG_BLOCK, &all, &old);
	arg_undo.file = file;
	arg_undo.child = child;
	arg_undo.folder = folder;
	(void)sigprocmask(SIG_SETMASK, &old, NULL);
}

void import_undo_file(const char *file)
{
	set_undo(file, arg_undo.child, arg_undo.folder);
}

void import_undo_child(pid_t child, const char *folder)
{
	set_undo(arg_undo.file, child, folder);
}

static void set_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };
	sigfillset(&sa.sa_mask);
	sigdelset(&sa.sa_mask, SIGALRM);
	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGHUP, &sa, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

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
	/* libarchive converts the names of pax headers to the locale's charset: keep them bytes. */
	if (!setlocale(LC_CTYPE, "C.UTF-8"))
		(void)setlocale(LC_CTYPE, "");
	set_signals();
	if (argc < 2)
		return usage();
	if (!streq(argv[1], "unit"))
		return run(argc - 1, argv + 1);
	if (argc != 4 || import_unit_take(argv[3], &m, &argc, &argv) < 0)
		return EXIT_FAILURE;
	return run(argc, argv);
}
