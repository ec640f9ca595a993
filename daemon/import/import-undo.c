/* SPDX-License-Identifier: MIT */
/*
 * Removes incomplete files and ends children when a signal ends pyro-import. Called by main and by
 * the verbs. Must stay true: the signal handler uses async-signal-safe calls only, and files and
 * children are registered before they exist.
 */
#include "daemon/import/import.h"
#include <signal.h>
#include <sys/wait.h>

/* Global, since the signal handler needs it. */
static struct {
	const char *file, *folder;
	pid_t child; /* leads a process group */
} arg_undo;

/* Ends the child, which cleans up on SIGTERM; SIGALRM limits the wait for it. */
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

void import_undo_on_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };
	sigfillset(&sa.sa_mask);
	sigdelset(&sa.sa_mask, SIGALRM);
	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGHUP, &sa, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}
