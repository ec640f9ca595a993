/* SPDX-License-Identifier: MIT */
/*
 * The launch socket and the programs that connect to it. Created by manager.c; used by vmm/launch.c
 * for VMMs and by job.c for pyro-import.
 *
 * A peer is identified by the kernel and compared with what was started: a child is the process
 * that was forked and is not yet reaped; a unit's process is in the unit's cgroup and is its main
 * process according to systemd, both checked while a pidfd of it is held. Only pyrod may enter the
 * socket's directory, which is bind-mounted into those units alone.
 *
 * A child is reaped here and nowhere else, also after its service was freed (struct reaper). A
 * started process is meant to outlive pyrod. pyrod may not signal a unit's process of another uid,
 * so it stops the unit.
 */
#include "daemon/service.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-login.h>

#include "daemon/child.h"
#include "daemon/launch-msg.h"
#include "daemon/log.h"
#include "daemon/sock.h"
#include "daemon/unit.h"
#include "proto/fdpass.h"

#define STATUS_USEC (2 * USEC_PER_SEC) /* from a unit's exit to systemd's report of it */

enum {
	REPLIES_MAX = 32,
	LAUNCHERS_WAITING = 1024, /* backlog: all machines that start at the same time */
};

struct launcher {
	sd_event *event;                /* borrowed: the manager's */
	struct units *units;            /* borrowed or NULL */
	char *dir, *path;               /* owned; of the socket */
	int listen_fd;                  /* owned */
	int limits;                     /* launcher_limits */
	sd_event_source *listen_source; /* owned */
	LIST_HEAD(, service) waiting;   /* borrowed: services that have not connected yet */
};

struct service {
	LIST_ENTRY(service) entry;
	struct launcher *launcher;          /* borrowed */
	const struct service_callbacks *cb; /* borrowed: static of the owner */
	void *userdata;
	char *id; /* owned */
	uid_t owner_uid;
	struct unit *unit; /* owned or NULL: a child */
	struct unit_limits limits;
	bool limited;                                              /* limits must be set */
	int conn_fd, pidfd;                                        /* owned */
	sd_event_source *conn_source, *exit_source, *status_timer; /* owned */
	pid_t pid;
	uint64_t start_time;
	char invocation[UNIT_INVOCATION];
	struct buf message;
	int fds[LAUNCH_FDS_MAX]; /* owned until sent */
	size_t n_fds;
	unsigned n_replies;
	bool waiting, up;    /* waiting: in the list; up: the unit has started */
	bool killed;         /* its owner has ended it: send it nothing */
	bool process_exited; /* its process has exited */
	bool exited;         /* on_exited has been called */
	bool adopted;        /* of a previous daemon: not a child, nothing to reap */
	int status;
	struct error error;
};

struct reaper {
	sd_event_source *source; /* floating: owned by the loop */
	int pidfd;               /* owned */
};

static void close_fds(struct service *s)
{
	while (s->n_fds > 0)
		(void)fd_close(s->fds[--s->n_fds]);
	buf_done(&s->message);
}

static void wait_no_more(struct service *s)
{
	if (s->waiting)
		LIST_REMOVE(s, entry);
	s->waiting = false;
}

static void close_conn(struct service *s)
{
	s->conn_source = sd_event_source_disable_unref(s->conn_source);
	s->conn_fd = fd_close(s->conn_fd);
}

/* Reaps a process that has exited; returns 0 if it still runs. */
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

/* Lets the loop reap a killed child. */
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

void service_kill(struct service *s)
{
	if (s->exited)
		return;
	s->killed = true;
	if (s->pidfd >= 0)
		(void)pidfd_send_signal(
			s->pidfd, SIGKILL, NULL, 0); /* not permitted for another uid's process */
	if (s->unit)
		unit_stop(s->unit);
}

static struct service *destroy(struct service *s)
{
	wait_no_more(s);
	sd_event_source_disable_unref(s->exit_source);
	sd_event_source_disable_unref(s->status_timer);
	close_conn(s);
	close_fds(s);
	unit_free(s->unit);
	(void)fd_close(s->pidfd);
	error_clear(&s->error);
	free(s->id);
	free(s);
	return NULL;
}

struct service *service_free(struct service *s)
{
	int status;

	if (!s)
		return NULL;
	s->exit_source = sd_event_source_disable_unref(s->exit_source);
	service_kill(s);
	if (s->pidfd >= 0 && !s->exited && !s->adopted && !s->unit && reap(s->pidfd, &status) == 0)
		(void)reaper_start(s->launcher->event, &s->pidfd);
	return destroy(s);
}

struct service *service_detach(struct service *s)
{
	return s ? destroy(s) : NULL;
}

pid_t service_pid(const struct service *s)
{
	return s->pid;
}

uint64_t service_start_time(const struct service *s)
{
	return s->start_time;
}

const char *service_invocation(const struct service *s)
{
	return s->invocation;
}

/* Reads the available replies. Closes the connection at EOF, on an error, or after too many. */
static void read_replies(struct service *s)
{
	char p[LAUNCH_REPLY_BYTES + 1];

	while (s->conn_fd >= 0) {
		ssize_t n = recv(s->conn_fd, p, sizeof(p), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0 || ++s->n_replies > REPLIES_MAX) {
			close_conn(s);
			return;
		}
		if (s->cb->on_reply)
			s->cb->on_reply(s, p, (size_t)n, s->userdata);
	}
}

static void finish(struct service *s)
{
	if (s->exited)
		return;
	s->exit_source = sd_event_source_disable_unref(s->exit_source);
	s->status_timer = sd_event_source_disable_unref(s->status_timer);
	s->exited = true;
	wait_no_more(s);
	read_replies(s);
	close_conn(s);
	close_fds(s);
	s->cb->on_exited(s, s->status, s->error.set ? &s->error : NULL, s->userdata);
}

static int on_status_late(_unused_ sd_event_source *src, _unused_ uint64_t usec, void *userdata)
{
	finish(userdata);
	return 0;
}

/* systemd reports the exit status of a unit a moment after its process has exited. */
static void await_status(struct service *s)
{
	s->exit_source = sd_event_source_disable_unref(s->exit_source);
	if (sd_event_add_time_relative(s->launcher->event, &s->status_timer, CLOCK_MONOTONIC,
		    STATUS_USEC, 0, on_status_late, s) < 0)
		finish(s);
}

static int on_process_exit(
	sd_event_source *src _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct service *s = userdata;
	int r;

	if (s->unit) {
		s->process_exited = true;
		if (s->status != INT_MIN || s->error.set)
			finish(s);
		else
			await_status(s);
		return 0;
	}
	r = s->adopted ? -ECHILD : reap(s->pidfd, &s->status);
	if (r == 0)
		return 0;
	if (r < 0 && !s->adopted)
		log_uid(LOG_ERR, r, s->owner_uid, "Cannot reap the process of %s", s->id);
	finish(s);
	return 0;
}

/* Sending the message and the descriptors */

static int on_conn(
	sd_event_source *src _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	read_replies(userdata);
	return 0;
}

static int send_message(struct service *s)
{
	ssize_t n = fd_send(s->conn_fd, buf_head(&s->message), buf_len(&s->message), s->fds,
		s->n_fds, MSG_DONTWAIT);

	if (n < 0)
		return (int)n;
	if ((size_t)n != buf_len(&s->message))
		return -EMSGSIZE;
	return sd_event_add_io(
		s->launcher->event, &s->conn_source, s->conn_fd, EPOLLIN, on_conn, s);
}

static void hand_over(struct service *s)
{
	int r = s->killed ? 0 : send_message(s);

	close_fds(s);
	if (r < 0) {
		close_conn(s);
		(void)error_set_errno(&s->error, ERROR_START_FAILED, r,
			error_errno_fix(r) ? NULL : "pyro doctor", "cannot send %s its descriptors",
			s->id);
		service_kill(s);
	}
}

static void known(struct service *s)
{
	wait_no_more(s);
	if (s->cb->on_known)
		s->cb->on_known(s, s->userdata);
}

/* Continues a unit once it has connected and systemd reports that it started. */
static void meet(struct service *s)
{
	struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
	int r;

	if (!s->up || s->conn_fd < 0 || !s->waiting)
		return;
	if (!unit_owns(s->unit, s->pid) || poll(&p, 1, 0) != 0) {
		log_uid(LOG_WARNING, 0, s->owner_uid,
			"Refused a connection for %s: not the main process of its unit.", s->id);
		close_conn(s);
		s->pidfd = fd_close(s->pidfd);
		s->pid = 0;
		return;
	}
	(void)snprintf(s->invocation, sizeof(s->invocation), "%s", unit_invocation(s->unit));
	r = sd_event_add_io(
		s->launcher->event, &s->exit_source, s->pidfd, EPOLLIN, on_process_exit, s);
	if (r < 0) {
		(void)error_set_errno(&s->error, ERROR_START_FAILED, r,
			error_errno_fix(r) ? NULL : "pyro doctor", "cannot watch %s", s->id);
		service_kill(s);
		return;
	}
	known(s);
	if (s->limited)
		unit_limit(s->unit, &s->limits);
	else
		hand_over(s);
}

static void on_unit_started(_unused_ struct unit *u, const struct error *err, void *userdata)
{
	struct service *s = userdata;

	if (err) {
		(void)error_copy(&s->error, err);
		finish(s);
		return;
	}
	s->up = true;
	meet(s);
}

static void on_unit_limited(
	_unused_ struct unit *u, bool enforced, const struct error *err, void *userdata)
{
	struct service *s = userdata;

	if (s->exited || s->process_exited)
		return;
	if (err) {
		(void)error_copy(&s->error, err);
		service_kill(s);
		return;
	}
	if (!enforced && s->launcher->limits != 0)
		log_warning("Memory, CPU and task limits of units are not enforced: a cgroup v2 "
			    "controller is missing.");
	s->launcher->limits = enforced;
	hand_over(s);
}

static void on_unit_ended(_unused_ struct unit *u, int status, void *userdata)
{
	struct service *s = userdata;

	if (status != UNIT_UNKNOWN_EXIT)
		s->status = status;
	if (!s->exit_source || s->process_exited)
		finish(s); /* else on_process_exit follows at once */
}

/* For an adopted unit: the end of another invocation does not count, since the pidfd of ours is
 * watched. */
static void on_unit_looked(struct unit *u, int found, void *userdata)
{
	struct service *s = userdata;

	if (found > 0 && !streq(unit_invocation(u), s->invocation))
		log_uid(LOG_WARNING, 0, s->owner_uid,
			"%s runs with another invocation id: it was restarted.", unit_name(u));
}

static const struct unit_callbacks unit_events = {
	.on_started = on_unit_started,
	.on_limited = on_unit_limited,
	.on_looked = on_unit_looked,
	.on_ended = on_unit_ended,
};

/* The launch socket */

/* A child is not reaped before s->exited, so its pid is not reused. */
static bool is_child(const struct service *s, pid_t pid)
{
	return !s->unit && !s->exited && s->pid == pid &&
	       pidfd_send_signal(s->pidfd, 0, NULL, 0) == 0;
}

/* Finds the waiting service that pid belongs to; the caller holds a pidfd of it. */
static struct service *who_is(struct launcher *lr, pid_t pid)
{
	_cleanup_free_ char *unit = NULL;
	struct service *s;

	if (lr->units && sd_pid_get_unit(pid, &unit) < 0)
		(void)sd_pid_get_user_unit(pid, &unit);
	LIST_FOREACH (s, &lr->waiting, entry)
		if (is_child(s, pid) ||
			(s->unit && unit && s->conn_fd < 0 && streq(unit, unit_name(s->unit))))
			return s;
	return NULL;
}

static int on_listen(
	sd_event_source *src _unused_, int fd, uint32_t revents _unused_, void *userdata)
{
	_cleanup_close_ int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK),
			    pidfd = -EBADF;
	struct launcher *lr = userdata;
	struct ucred peer = {};
	socklen_t n = sizeof(peer);
	struct service *s = NULL;

	if (conn < 0)
		return 0;
	if (getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &peer, &n) >= 0 && peer.pid > 0)
		pidfd = pidfd_open(peer.pid, 0);
	if (pidfd >= 0)
		s = who_is(lr, peer.pid);
	if (!s) {
		log_warning(
			"Refused a connection to %s: not a process that pyrod started.", lr->path);
		return 0;
	}
	s->conn_fd = TAKE_FD(conn);
	if (s->unit) {
		s->pid = peer.pid;
		s->pidfd = TAKE_FD(pidfd);
		meet(s);
	} else {
		known(s);
		hand_over(s);
	}
	return 0;
}

static int listen_at(struct launcher *lr, const char *runtime_dir)
{
	lr->dir = str_printf("%s/launch", runtime_dir);
	lr->path = str_printf("%s/launch/launch.sock", runtime_dir);
	if (!lr->dir || !lr->path)
		return -ENOMEM;
	if (mkdir(lr->dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	lr->listen_fd = sock_listen(lr->path, SOCK_SEQPACKET, LAUNCHERS_WAITING);
	if (lr->listen_fd < 0)
		return lr->listen_fd;
	/* A unit of another uid must be able to connect; the directory's mode keeps others out. */
	return chmod(lr->path, 0666) < 0 ? -errno : 0;
}

int launcher_new(
	sd_event *event, const char *runtime_dir, struct units *units, struct launcher **ret)
{
	_cleanup_(launcher_freep) struct launcher *lr = calloc(1, sizeof(*lr));
	int r;

	if (!lr)
		return -ENOMEM;
	lr->event = event;
	lr->units = units;
	lr->listen_fd = -EBADF;
	lr->limits = -ENODATA;
	LIST_INIT(&lr->waiting);
	r = listen_at(lr, runtime_dir);
	if (r >= 0)
		r = sd_event_add_io(
			event, &lr->listen_source, lr->listen_fd, EPOLLIN, on_listen, lr);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(lr);
	return 0;
}

struct launcher *launcher_free(struct launcher *lr)
{
	if (!lr)
		return NULL;
	sd_event_source_disable_unref(lr->listen_source);
	if (lr->listen_fd >= 0) {
		(void)unlink(lr->path);
		(void)rmdir(lr->dir);
	}
	(void)fd_close(lr->listen_fd);
	free(lr->path);
	free(lr->dir);
	free(lr);
	return NULL;
}

int launcher_limits(const struct launcher *lr)
{
	return lr->limits;
}

/* Starting */

/* Reads field 22; the second field may contain blanks and brackets, so count from its last ')'. */
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

static int spawn(struct service *s, const struct service_spec *spec)
{
	const char *const argv[] = { spec->program, s->id, s->launcher->path, NULL };
	const struct child_spec child = {
		.argv = argv,
		.stdin_fd = -EBADF,
		.stdout_fd = s->fds[0],
		.stderr_fd = s->fds[0],
		.pid_namespace = spec->pid_namespace,
	};
	int r;

	r = child_spawn(&child, &s->pid, &s->pidfd);
	if (r < 0)
		return r;
	r = read_start_time(s->pid, &s->start_time);
	if (r < 0)
		return r;
	return sd_event_add_io(
		s->launcher->event, &s->exit_source, s->pidfd, EPOLLIN, on_process_exit, s);
}

static int make_unit(struct service *s, const char *template)
{
	_cleanup_free_ char *name = str_printf("%s@%s.service", template, s->id);

	return name ? unit_new(s->launcher->units, name, &unit_events, s, &s->unit) : -ENOMEM;
}

static struct service *new_service(
	struct launcher *lr, const char *id, const struct service_callbacks *cb, void *userdata)
{
	struct service *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->launcher = lr;
	s->cb = cb;
	s->userdata = userdata;
	s->conn_fd = s->pidfd = -EBADF;
	s->status = INT_MIN;
	buf_init(&s->message, LAUNCH_BYTES);
	s->id = strdup(id);
	return s->id ? s : destroy(s);
}

static int prepare(struct service *s, const struct service_spec *spec)
{
	const bool sandboxed = s->launcher->units && units_sandbox(s->launcher->units);

	if (spec->n_fds > LAUNCH_FDS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < spec->n_fds; i++) {
		int fd = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, LAUNCH_FIRST_FD);

		if (fd < 0)
			return -errno;
		s->fds[s->n_fds++] = fd;
	}
	s->limited = spec->limits != NULL;
	if (spec->limits)
		s->limits = *spec->limits;
	return launch_msg_put(
		&s->message, spec->flags | (sandboxed ? LAUNCH_UNIT : 0), s->n_fds, spec->args);
}

int service_start(struct launcher *lr, const struct service_spec *spec,
	const struct service_callbacks *cb, void *userdata, struct service **ret, struct error *err)
{
	_cleanup_(service_freep) struct service *s = new_service(lr, spec->id, cb, userdata);
	int r = s ? prepare(s, spec) : -ENOMEM;

	if (s)
		s->owner_uid = spec->owner_uid;
	if (r >= 0 && lr->units)
		r = make_unit(s, spec->template);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"cannot prepare the launch of %s", spec->id);
	if (!lr->units)
		r = spawn(s, spec);
	if (r == -ENOENT || r == -EACCES)
		return error_set_errno(err, ERROR_VM_UNAVAILABLE, r,
			"install pyro again: its launcher cannot be executed", "cannot execute %s",
			spec->program);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot start %s", spec->program);
	LIST_INSERT_HEAD(&lr->waiting, s, entry);
	s->waiting = true;
	if (s->unit)
		unit_start(s->unit);
	*ret = TAKE_PTR(s);
	return 0;
}

int service_adopt(struct launcher *lr, const struct service_adoption *a,
	const struct service_callbacks *cb, void *userdata, struct service **ret)
{
	struct service *s = new_service(lr, a->id, cb, userdata);
	int r = s ? 0 : -ENOMEM;

	if (r >= 0) {
		s->adopted = true;
		s->owner_uid = a->owner_uid;
		s->pid = a->pid;
		s->start_time = a->start_time;
		(void)snprintf(s->invocation, sizeof(s->invocation), "%s", a->invocation);
	}
	if (r >= 0 && a->invocation[0])
		r = lr->units ? make_unit(s, a->template) : -ENOTCONN;
	if (r >= 0)
		r = sd_event_add_io(
			lr->event, &s->exit_source, a->pidfd, EPOLLIN, on_process_exit, s);
	if (r < 0) {
		if (s)
			(void)destroy(s);
		return r;
	}
	s->pidfd = a->pidfd;
	if (s->unit)
		unit_look(s->unit);
	*ret = s;
	return 0;
}
