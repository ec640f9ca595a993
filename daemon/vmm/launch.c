/* SPDX-License-Identifier: MIT */
/*
 * Starts a VMM through pyro-vmm and watches it until its end. Called by the drivers. pyrod forks
 * pyro-vmm ID SOCKET; that connects to SOCKET (launch.sock in the machine's directory, 0600), must be the very
 * process that was forked (SO_PEERCRED against a child not yet reaped), and is answered with one
 * message: arguments and every descriptor. It then becomes the VMM by exec, so its pid, pidfd and
 * stderr are the VMM's. A systemd unit can start the same program; only who may connect differs.
 *
 * The child outlives pyrod's death on purpose. It is signalled by pidfd alone, and reaped here and
 * nowhere else, also when its owner has lost interest (struct reaper).
 */
#include "daemon/vmm/launch.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "daemon/child.h"
#include "daemon/log.h"
#include "daemon/vmm/console.h"
#include "daemon/vmm/launch-msg.h"
#include "daemon/vmm/sock.h"
#include "proto/fdpass.h"

enum { STDERR_KEEP = 4096, REPLIES_MAX = 32 };

struct launch {
	const struct launch_callbacks *cb; /* borrowed: static of the driver */
	void *userdata;
	sd_event *event;               /* borrowed: the manager's */
	char *id;                      /* owned */
	char *socket_path;             /* owned; unlinked once the launcher has connected */
	int listen_fd, conn_fd, pidfd; /* owned */
	sd_event_source *listen_source, *conn_source, *exit_source; /* owned */
	pid_t pid;
	uint64_t start_time;
	struct console *words; /* owned: stdout and stderr of pyro-vmm, then of the VMM */
	struct buf message;
	int fds[LAUNCH_FDS_MAX]; /* owned until sent */
	size_t n_fds;
	unsigned n_replies;
	char *failure; /* owned or NULL: why pyro-vmm did not execute the VMM */
	bool exited;
	bool adopted; /* of an earlier daemon: no child of ours, nothing to reap, no words */
};

struct reaper {
	sd_event_source *source; /* floating: the loop's own */
	int pidfd;               /* owned */
};

static void close_fds(struct launch *l)
{
	while (l->n_fds > 0)
		(void)fd_close(l->fds[--l->n_fds]);
	buf_done(&l->message);
}

static void close_listener(struct launch *l)
{
	l->listen_source = sd_event_source_disable_unref(l->listen_source);
	if (l->listen_fd >= 0)
		(void)unlink(l->socket_path);
	l->listen_fd = fd_close(l->listen_fd);
}

static void close_conn(struct launch *l)
{
	l->conn_source = sd_event_source_disable_unref(l->conn_source);
	l->conn_fd = fd_close(l->conn_fd);
}

/* Collects a process that is gone; 0 while it is not. */
static int reap(int pidfd, int *ret_status)
{
	siginfo_t si = {};

	if (waitid(P_PIDFD, (id_t)pidfd, &si, WEXITED | WNOHANG) < 0)
		return -errno;
	if (si.si_pid == 0)
		return 0;
	*ret_status = si.si_code == CLD_EXITED ? si.si_status : -si.si_status;
	return 1;
}

static void reaper_free(void *userdata)
{
	struct reaper *rp = userdata;

	(void)fd_close(rp->pidfd);
	free(rp);
}

static int on_reaper(sd_event_source *s, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct reaper *rp = userdata;
	int status;

	if (reap(rp->pidfd, &status) != 0)
		(void)sd_event_source_set_floating(s, false);
	return 0;
}

/* Leaves a killed child to the loop. */
static int reaper_start(sd_event *event, int *pidfd)
{
	struct reaper *rp = malloc(sizeof(*rp));
	int r;

	if (!rp)
		return -ENOMEM;
	rp->pidfd = *pidfd;
	r = sd_event_add_io(event, &rp->source, rp->pidfd, EPOLLIN, on_reaper, rp);
	if (r < 0) {
		free(rp);
		return r;
	}
	*pidfd = -EBADF;
	(void)sd_event_source_set_destroy_callback(rp->source, reaper_free);
	(void)sd_event_source_set_floating(rp->source, true);
	sd_event_source_unref(rp->source);
	return 0;
}

struct launch *launch_free(struct launch *l)
{
	int status;

	if (!l)
		return NULL;
	l->exit_source = sd_event_source_disable_unref(l->exit_source);
	close_listener(l);
	close_conn(l);
	close_fds(l);
	console_free(l->words);
	if (l->pidfd >= 0 && !l->exited) {
		launch_kill(l);
		if (!l->adopted && reap(l->pidfd, &status) == 0)
			(void)reaper_start(l->event, &l->pidfd);
	}
	(void)fd_close(l->pidfd);
	free(l->failure);
	free(l->socket_path);
	free(l->id);
	free(l);
	return NULL;
}

void launch_kill(struct launch *l)
{
	if (!l->exited)
		(void)pidfd_send_signal(l->pidfd, SIGKILL, NULL, 0);
}

pid_t launch_pid(const struct launch *l)
{
	return l->pid;
}

uint64_t launch_start_time(const struct launch *l)
{
	return l->start_time;
}

static void take_reply(struct launch *l, const char *p, size_t n)
{
	char text[4 * LAUNCH_REPLY_BYTES + 1];
	enum launch_reply_type type;
	const char *raw;
	size_t raw_n;

	if (launch_reply_get(p, n, &type, &raw, &raw_n) < 0) {
		log_warning("pyro-vmm of %s said something that is not a reply; ignored.", l->id);
		return;
	}
	(void)log_escape(raw, raw_n, text, sizeof(text));
	if (type == LAUNCH_NOTE)
		log_warning("VMM of %s runs less contained than it could: %s.", l->id, text);
	else if (!l->failure)
		l->failure = strdup(text);
}

/* Reads the replies there are. Ends the connection at its end, an error, or too many. */
static void read_replies(struct launch *l)
{
	char p[LAUNCH_REPLY_BYTES + 1];

	while (l->conn_fd >= 0) {
		ssize_t n = recv(l->conn_fd, p, sizeof(p), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0 || ++l->n_replies > REPLIES_MAX) {
			close_conn(l);
			return;
		}
		take_reply(l, p, (size_t)n);
	}
}

static int on_conn(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	read_replies(userdata);
	return 0;
}

/* True for the child itself: it is not reaped before l->exited, so its pid is nobody else's. */
static bool peer_is_child(const struct launch *l, int fd)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return false;
	return !l->exited && peer.pid == l->pid && pidfd_send_signal(l->pidfd, 0, NULL, 0) == 0;
}

static int hand_over(struct launch *l, int fd)
{
	ssize_t n;
	int r;

	n = fd_send(
		fd, buf_head(&l->message), buf_len(&l->message), l->fds, l->n_fds, MSG_DONTWAIT);
	if (n < 0)
		return (int)n;
	if ((size_t)n != buf_len(&l->message))
		return -EMSGSIZE;
	r = sd_event_add_io(l->event, &l->conn_source, fd, EPOLLIN, on_conn, l);
	return r < 0 ? r : 0;
}

static int on_listen(sd_event_source *s _unused_, int fd, uint32_t revents _unused_, void *userdata)
{
	_cleanup_close_ int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct launch *l = userdata;
	int r;

	if (conn < 0)
		return 0;
	if (!peer_is_child(l, conn)) {
		log_warning("Refused a connection to %s: not the launcher that was started.",
			l->socket_path);
		return 0;
	}
	r = hand_over(l, conn);
	close_listener(l);
	close_fds(l);
	if (r < 0) {
		(void)log_error_errno(r, "Cannot hand the VMM of %s its descriptors", l->id);
		launch_kill(l);
		return 0;
	}
	l->conn_fd = TAKE_FD(conn);
	return 0;
}

static int on_process_exit(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct launch *l = userdata;
	_cleanup_free_ char *reason = NULL;
	int r, status = 0;

	r = l->adopted ? -ECHILD : reap(l->pidfd, &status);
	if (r == 0)
		return 0;
	if (r < 0 && !l->adopted)
		(void)log_error_errno(r, "Cannot collect the VMM of %s", l->id);
	l->exit_source = sd_event_source_disable_unref(l->exit_source);
	l->exited = true;
	close_listener(l);
	read_replies(l);
	close_conn(l);
	close_fds(l);
	if (l->words)
		console_drain(l->words);
	if (!l->failure && l->words)
		(void)console_last_line(l->words, &reason);
	l->cb->on_exited(
		l, r < 0 ? INT_MIN : status, l->failure ? l->failure : reason, l->userdata);
	return 0;
}

/* Field 22; the second field may hold anything, blanks and brackets too, so count from its last ')'. */
static int read_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[64], *p, *save = NULL;
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	r = read_file_at(AT_FDCWD, path, 4096, &text, NULL);
	if (r < 0)
		return r;
	p = strrchr(text, ')');
	if (!p)
		return -EBADMSG;
	p = strtok_r(p + 1, " ", &save);
	for (unsigned field = 3; p && field < 22; field++)
		p = strtok_r(NULL, " ", &save);
	return p ? parse_u64(p, 0, UINT64_MAX, ret) : -EBADMSG;
}

/* Forks pyro-vmm with its stdout and stderr on the pipe whose other end is l->words. */
static int spawn(struct launch *l, const char *program, int words_fd)
{
	const char *const argv[] = { program, l->id, l->socket_path, NULL };
	const struct child_spec child = {
		.argv = argv,
		.stdin_fd = -EBADF,
		.stdout_fd = words_fd,
		.stderr_fd = words_fd,
	};
	int r;

	r = child_spawn(&child, &l->pid, &l->pidfd);
	if (r < 0)
		return r;
	r = read_start_time(l->pid, &l->start_time);
	if (r < 0)
		return r;
	return sd_event_add_io(l->event, &l->exit_source, l->pidfd, EPOLLIN, on_process_exit, l);
}

/* The pipe: its reading end becomes l->words, its writing end the message's first descriptor. */
static int open_words(struct launch *l)
{
	int p[2], r;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	l->fds[l->n_fds++] = p[1];
	if (fcntl(p[0], F_SETFL, O_NONBLOCK) < 0)
		r = -errno;
	else
		r = console_new(l->event, p[0], STDERR_KEEP, &l->words);
	if (r < 0)
		(void)fd_close(p[0]);
	return r;
}

static int prepare(struct launch *l, const struct launch_spec *spec)
{
	int r;

	l->id = strdup(spec->id);
	l->socket_path = str_printf("%s/launch.sock", spec->dir);
	if (!l->id || !l->socket_path)
		return -ENOMEM;
	if (spec->n_fds + 1 > LAUNCH_FDS_MAX)
		return -E2BIG;
	r = open_words(l);
	if (r < 0)
		return r;
	for (size_t i = 0; i < spec->n_fds; i++) {
		int fd = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, LAUNCH_FIRST_FD);

		if (fd < 0)
			return -errno;
		l->fds[l->n_fds++] = fd;
	}
	r = launch_msg_put(&l->message, spec->flags, l->n_fds, spec->args);
	if (r < 0)
		return r;
	l->listen_fd = sock_listen(l->socket_path, SOCK_SEQPACKET);
	if (l->listen_fd < 0)
		return l->listen_fd;
	return sd_event_add_io(l->event, &l->listen_source, l->listen_fd, EPOLLIN, on_listen, l);
}

int launch_start(struct manager *m, const struct launch_spec *spec,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret, struct error *err)
{
	_cleanup_(launch_freep) struct launch *l = calloc(1, sizeof(*l));
	_cleanup_free_ char *program = str_printf("%s/pyro-vmm", m->libexec_dir);
	int r;

	if (!l || !program)
		return error_set_errno(err, ERROR_NO_MEMORY, -ENOMEM, NULL, "cannot start a VMM");
	l->event = m->event;
	l->cb = cb;
	l->userdata = userdata;
	l->listen_fd = l->conn_fd = l->pidfd = -EBADF;
	buf_init(&l->message, LAUNCH_BYTES);
	r = prepare(l, spec);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot prepare the launch of %s", spec->id);
	r = spawn(l, program, l->fds[0]);
	if (r == -ENOENT || r == -EACCES)
		return error_set_errno(err, ERROR_VM_UNAVAILABLE, r,
			"install pyro anew: meson install", "cannot execute %s", program);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot start %s", program);
	*ret = TAKE_PTR(l);
	return 0;
}

int launch_adopt(struct manager *m, const char *id, pid_t pid, uint64_t start_time, int pidfd,
	const struct launch_callbacks *cb, void *userdata, struct launch **ret)
{
	_cleanup_(launch_freep) struct launch *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->event = m->event;
	l->cb = cb;
	l->userdata = userdata;
	l->adopted = true;
	l->listen_fd = l->conn_fd = l->pidfd = -EBADF;
	l->pid = pid;
	l->start_time = start_time;
	l->id = strdup(id);
	if (!l->id)
		return -ENOMEM;
	r = sd_event_add_io(m->event, &l->exit_source, pidfd, EPOLLIN, on_process_exit, l);
	if (r < 0)
		return r;
	l->pidfd = pidfd;
	*ret = TAKE_PTR(l);
	return 0;
}

struct launch *launch_detach(struct launch *l)
{
	if (!l)
		return NULL;
	l->exit_source = sd_event_source_disable_unref(l->exit_source);
	l->pidfd = fd_close(l->pidfd);
	return launch_free(l);
}
