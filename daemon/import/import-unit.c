/* SPDX-License-Identifier: MIT */
/*
 * pyro-import unit ID SOCKET: runs pyro-import as pyro-import@ID.service. It receives from pyrod's
 * launch socket what a child would inherit: the verb and its words, stdout, the working directory,
 * if any a folder to read, and stderr. Proxy variables come before the verb, as in a shell command.
 */
#include "daemon/import/import.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/handover.h"
#include "daemon/sock.h"
#include "proto/fdpass.h"

static int fail(const char *what, int r)
{
	fprintf(stderr, "pyro-import: cannot %s: %s\n", what, strerror(-r));
	return -1;
}

/* Moves the descriptors to the numbers that a child has; the last one is stderr. */
static int take_descriptors(size_t n_fds)
{
	const int err = LAUNCH_FIRST_FD + (int)n_fds - 2;

	if (n_fds < 3)
		return -EBADMSG;
	if (dup2(err, STDERR_FILENO) < 0 || close(err) < 0 || fchdir(LAUNCH_FIRST_FD) < 0)
		return -errno;
	for (int fd = LAUNCH_FIRST_FD; fd < err; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	return 0;
}

/* Moves leading NAME_proxy=VALUE words to the environment. */
static int take_variables(char ***words)
{
	for (char *equals; **words && (equals = strchr(**words, '=')); (*words)++) {
		*equals = '\0';
		if (equals - **words < 6 || strcasecmp(equals - 6, "_proxy") != 0)
			return -EBADMSG;
		if (setenv(**words, equals + 1, 1) < 0)
			return -errno;
	}
	return **words ? 0 : -EBADMSG;
}

int import_unit_take(const char *socket_path, struct launch_msg *m, int *ret_argc, char ***ret_argv)
{
	_cleanup_close_ int conn = sock_dial(socket_path, SOCK_SEQPACKET);
	struct fd_queue q;
	char **words;
	int r;

	if (conn < 0)
		return fail("connect to pyrod", conn);
	fd_queue_init(&q);
	r = handover_receive(conn, m, &q);
	if (r >= 0)
		r = handover_place(&q, &conn);
	if (r >= 0)
		r = take_descriptors(m->n_fds);
	if (r < 0)
		return fail("receive the hand-over", r);
	words = m->args + 1;
	r = take_variables(&words);
	if (r < 0)
		return fail("read the hand-over", r);
	*ret_argv = words;
	*ret_argc = 0;
	while (words[*ret_argc])
		(*ret_argc)++;
	return 0;
}
