/* SPDX-License-Identifier: MIT */
/*
 * pyro-vmm ID SOCKET: launches one VMM, as pyro-vm@ID.service or as a child of pyrod (service.c).
 * It connects to pyrod's launch socket, receives in one message the VMM's arguments and every
 * descriptor, confines itself (confine.c) and executes the VMM in its place.
 *
 * It never runs a VMM as root, and never with a descriptor that was not in the message. A failure
 * before exec is reported on the launch connection, or on stderr before it exists.
 */
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "daemon/handover.h"
#include "daemon/launch-msg.h"
#include "daemon/sock.h"
#include "daemon/vmm/confine.h"
#include "proto/fdpass.h"

static void reply(int conn, enum launch_reply_type type, const char *text)
{
	char p[LAUNCH_REPLY_BYTES];
	size_t n = launch_reply_put(p, type, text);

	if (send(conn, p, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		fprintf(stderr, "pyro-vmm: %s\n", text);
}

static void on_note(const char *what, int r, void *userdata)
{
	char text[LAUNCH_REPLY_BYTES];

	(void)snprintf(text, sizeof(text), "no %s (%s)", what, strerror(-r));
	reply(*(const int *)userdata, LAUNCH_NOTE, text);
}

static int fail(int conn, const char *what, int r)
{
	char text[LAUNCH_REPLY_BYTES];

	(void)snprintf(text, sizeof(text), "pyro-vmm: cannot %s: %s", what, strerror(-r));
	if (conn >= 0)
		reply(conn, LAUNCH_FAILED, text);
	else
		fprintf(stderr, "%s\n", text);
	return EXIT_FAILURE;
}

static int become(int conn, const struct launch_msg *m)
{
	char path[] = "PATH=/usr/bin:/bin", lang[] = "LANG=C.UTF-8";
	char *const env[] = { path, lang, NULL };
	const struct confine_spec spec = {
		.program = m->args[0],
		.first_fd = LAUNCH_FIRST_FD,
		.n_fds = m->n_fds - 1u, /* the first is stdout */
		.kvm = m->flags & LAUNCH_KVM,
		.unit = m->flags & LAUNCH_UNIT,
		.note = on_note,
		.userdata = &conn,
	};
	const char *what = NULL;
	int r;

	r = confine(&spec, &what);
	if (r < 0)
		return fail(conn, what, r);
	execve(m->args[0], m->args, env);
	return fail(conn, "execute the VMM", -errno);
}

int main(int argc, char **argv)
{
	_cleanup_(launch_msg_done) struct launch_msg m = {};
	struct fd_queue q;
	int conn, r;

	if (argc != 3 || argv[1][0] == '-') {
		fprintf(stderr,
			"Usage: pyro-vmm ID SOCKET\nStarted by pyrod; not for use by hand.\n");
		return 2;
	}
	/* pyrod's umask is 0077, but the VMM's uid must pass the directories of its mount view. */
	(void)umask(0022);
	conn = sock_dial(argv[2], SOCK_SEQPACKET);
	if (conn < 0)
		return fail(conn, "connect to pyrod", conn);
	fd_queue_init(&q);
	r = handover_receive(conn, &m, &q);
	if (r < 0)
		return fail(conn, "receive the hand-over", r);
	r = handover_place(&q, &conn);
	if (r < 0)
		return fail(conn, "place the VMM's descriptors", r);
	return become(conn, &m);
}
