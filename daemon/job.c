/* SPDX-License-Identifier: MIT */
/*
 * A child process that works for the loop. Subsystems start one for everything slow (copies, pulls,
 * hashing) and get its output lines and its end as callbacks. What must stay true: on_done is
 * called exactly once or, after job_cancel, never; the process group is killed before its leader is
 * reaped, so that its number cannot be reused; nothing waits for a pipe that a grandchild holds
 * open; the child is always reaped, by a watch that outlives a cancelled job.
 */

#include "daemon/job.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "daemon/service.h"

#define JOB_LINE_MAX    ((size_t)64 * 1024)
#define JOB_TAIL_MAX    ((size_t)4096)
#define JOB_ID_SIZE     (3 + 12 + 1)
#define JOB_SERVICE_FDS 2
#define JOB_READ_MAX    ((size_t)64 * 1024) /* in one iteration of the loop */

/* Waits for the pid. Owned by its event source, since it may outlive the job. */
struct watch {
	struct job *job; /* borrowed; NULL: cancelled, only reap */
	pid_t pid;
	int pidfd; /* owned */
};

struct job {
	char *name; /* owned */
	pid_t pid;
	struct service *service;       /* owned; set for a unit, then the two below are NULL */
	const struct error *error;     /* borrowed, during on_done */
	sd_event_source *watch_source; /* owned; its userdata owns the watch */
	struct watch *watch;           /* borrowed: watch_source */
	sd_event_source *out_source, *err_source, *timer_source; /* owned */
	int out_fd, err_fd;                                      /* owned */
	bool busy;      /* a callback is running: do not free the job */
	bool cancelled; /* free when no longer busy */
	bool timed_out, line_too_long;
	job_line_fn on_line;
	job_done_fn on_done;
	void *userdata;
	size_t line_n, tail_n;
	char tail[JOB_TAIL_MAX + 1];
	char line[JOB_LINE_MAX + 1]; /* a line and its newline or NUL */
};

static void watch_destroy(void *userdata)
{
	struct watch *w = userdata;

	fd_close(w->pidfd);
	free(w);
}

static struct job *job_free(struct job *j)
{
	if (!j)
		return NULL;
	service_free(j->service);
	sd_event_source_disable_unref(j->watch_source);
	sd_event_source_disable_unref(j->out_source);
	sd_event_source_disable_unref(j->err_source);
	sd_event_source_disable_unref(j->timer_source);
	fd_close(j->out_fd);
	fd_close(j->err_fd);
	free(j->name);
	free(j);
	return NULL;
}
DEFINE_CLEANUP(struct job *, job_free)

static void job_kill(struct job *j)
{
	/* Not reaped yet, so the number is still valid. A child that has not run yet leads no group
	 * and has no children. */
	if (j->watch && kill(-j->pid, SIGKILL) < 0 && errno == ESRCH)
		(void)kill(j->pid, SIGKILL);
	if (j->service)
		service_kill(j->service);
}

/* Keeps the last JOB_TAIL_MAX bytes, with NUL replaced, since it would end the text. */
static void tail_add(struct job *j, char *p, size_t n)
{
	for (char *nul = p; (nul = memchr(nul, '\0', n - (size_t)(nul - p)));)
		*nul = ' ';
	if (n > JOB_TAIL_MAX) {
		p += n - JOB_TAIL_MAX;
		n = JOB_TAIL_MAX;
	}
	size_t keep = MIN_OF(j->tail_n, JOB_TAIL_MAX - n);
	memmove(j->tail, j->tail + j->tail_n - keep, keep);
	memcpy(j->tail + keep, p, n);
	j->tail_n = keep + n;
	j->tail[j->tail_n] = '\0';
}

static void line_refuse(struct job *j)
{
	char text[] = "\na line of more than 64 KiB on its standard output";

	j->line_too_long = true;
	j->line_n = 0;
	tail_add(j, text, sizeof(text) - 1);
	job_kill(j);
}

/* Calls on_line for each complete line and moves the rest to the front. */
static void lines_split(struct job *j)
{
	char *at = j->line, *end = j->line + j->line_n, *newline;

	while (!j->cancelled && (newline = memchr(at, '\n', (size_t)(end - at)))) {
		*newline = '\0';
		if (j->on_line)
			j->on_line(j, at, (size_t)(newline - at), j->userdata);
		at = newline + 1;
	}
	j->line_n = (size_t)(end - at);
	memmove(j->line, at, j->line_n);
	if (!j->cancelled && j->line_n > JOB_LINE_MAX)
		line_refuse(j);
}

static void line_last(struct job *j)
{
	if (j->line_n == 0 || j->cancelled)
		return;
	j->line[j->line_n] = '\0';
	if (j->on_line)
		j->on_line(j, j->line, j->line_n, j->userdata);
	j->line_n = 0;
}

static ssize_t read_some(int fd, void *p, size_t n)
{
	ssize_t got;

	do
		got = read(fd, p, n);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

/* Reads at most max bytes from stdout: > 0, 0 at EOF, -EAGAIN. */
static ssize_t out_read(struct job *j, size_t max)
{
	char discarded[4096];
	ssize_t n;

	if (j->line_too_long)
		return read_some(j->out_fd, discarded, MIN_OF(max, sizeof(discarded)));
	n = read_some(j->out_fd, j->line + j->line_n, MIN_OF(max, sizeof(j->line) - j->line_n));
	if (n > 0) {
		j->line_n += (size_t)n;
		lines_split(j);
	} else if (n != -EAGAIN) {
		line_last(j);
	}
	return n;
}

static ssize_t err_read(struct job *j, size_t max)
{
	char bytes[4096];

	ssize_t n = read_some(j->err_fd, bytes, MIN_OF(max, sizeof(bytes)));
	if (n > 0)
		tail_add(j, bytes, (size_t)n);
	return n;
}

static void out_close(struct job *j)
{
	j->out_source = sd_event_source_disable_unref(j->out_source);
	j->out_fd = fd_close(j->out_fd);
}

static void err_close(struct job *j)
{
	j->err_source = sd_event_source_disable_unref(j->err_source);
	j->err_fd = fd_close(j->err_fd);
}

/* Reads at most `left` bytes without blocking; closes the pipe at EOF or on an error. */
static void out_pump(struct job *j, size_t left)
{
	while (left > 0 && j->out_fd >= 0 && !j->cancelled) {
		ssize_t n = out_read(j, left);
		if (n == -EAGAIN)
			return;
		if (n <= 0)
			out_close(j);
		else
			left -= MIN_OF(left, (size_t)n);
	}
}

static void err_pump(struct job *j, size_t left)
{
	while (left > 0 && j->err_fd >= 0) {
		ssize_t n = err_read(j, left);
		if (n == -EAGAIN)
			return;
		if (n <= 0)
			err_close(j);
		else
			left -= MIN_OF(left, (size_t)n);
	}
}

static void job_leave(struct job *j)
{
	j->busy = false;
	if (j->cancelled)
		job_free(j);
}

static int on_out(
	sd_event_source *source _unused_, int fd _unused_, uint32_t events _unused_, void *userdata)
{
	struct job *j = userdata;

	j->busy = true;
	out_pump(j, JOB_READ_MAX);
	job_leave(j);
	return 0;
}

static int on_err(
	sd_event_source *source _unused_, int fd _unused_, uint32_t events _unused_, void *userdata)
{
	err_pump(userdata, JOB_READ_MAX);
	return 0;
}

static int on_timeout(sd_event_source *source _unused_, uint64_t usec _unused_, void *userdata)
{
	struct job *j = userdata;

	j->timed_out = true;
	job_kill(j);
	return 0;
}

/* Returns the number of bytes in the pipe: the child has exited, so later bytes come from other
 * processes. */
static size_t pipe_filled(int fd)
{
	int n = 0;

	/* One more, to read EOF too. */
	return fd >= 0 && ioctl(fd, FIONREAD, &n) == 0 && n >= 0 ? (size_t)n + 1 : 1;
}

static int reap(const struct watch *w, int *ret_status)
{
	siginfo_t si = { 0 };

	/* WNOWAIT: while the leader is a zombie its number is not reused, so the kill hits its
	 * group only. */
	if (waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED | WNOHANG | WNOWAIT) < 0)
		return -errno;
	if (si.si_pid == 0)
		return -EAGAIN;
	(void)kill(-w->pid, SIGKILL);
	if (waitid(P_PIDFD, (id_t)w->pidfd, &si, WEXITED | WNOHANG) < 0)
		return -errno;
	*ret_status = si.si_code == CLD_EXITED ? si.si_status : -si.si_status;
	return 0;
}

static void job_finish(struct job *j, int status)
{
	j->busy = true;
	out_pump(j, pipe_filled(j->out_fd));
	err_pump(j, pipe_filled(j->err_fd));
	line_last(j);
	if (!j->cancelled) {
		if (j->timed_out && (status == -SIGKILL || j->service)) /* a unit exits by itself */
			status = INT_MIN;
		else if (j->line_too_long && status >= 0)
			status = -SIGKILL;
		j->on_done(j, status, j->tail, j->userdata);
	}
	job_free(j);
}

static int on_exit_event(
	sd_event_source *source, int fd _unused_, uint32_t events _unused_, void *userdata)
{
	struct watch *w = userdata;
	struct job *j = w->job;
	int status = -SIGKILL;

	int r = reap(w, &status);
	if (r == -EAGAIN)
		return 0;
	/* A child that does not exist (-ECHILD) counts as killed: its exit status is unknown. */
	if (j) {
		/* Reaped: a job_cancel from within the last callbacks has nothing to kill or
		 * reap. */
		w->job = NULL;
		j->watch = NULL;
		job_finish(j, status);
		return 0;
	}
	(void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
	(void)sd_event_source_set_floating(source, 0);
	return 0;
}

const struct error *job_error(const struct job *j)
{
	return j->error;
}

static void on_service_exited(
	struct service *s _unused_, int status, const struct error *err, void *userdata)
{
	struct job *j = userdata;

	j->error = err;
	job_finish(j, status == INT_MIN ? -SIGKILL : status);
}

struct job *job_cancel(struct job *j)
{
	if (!j || j->cancelled)
		return NULL;
	j->cancelled = true;
	if (j->watch) {
		job_kill(j);
		/* From now on the loop owns the source, and the source owns the watch. */
		j->watch->job = NULL;
		j->watch = NULL;
		(void)sd_event_source_set_floating(j->watch_source, 1);
		j->watch_source = sd_event_source_unref(j->watch_source);
	}
	return j->busy ? NULL : job_free(j);
}

/* Creates a pipe with a non-blocking reading end for us and a writing end for the child. */
static int pipe_for_child(int *ret_read, int *ret_write)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	if (fcntl(fds[0], F_SETFL, O_RDONLY | O_NONBLOCK) < 0) {
		int r = -errno;
		fd_close(fds[0]);
		fd_close(fds[1]);
		return r;
	}
	*ret_read = fds[0];
	*ret_write = fds[1];
	return 0;
}

/* Starts the job as a service, with descriptors in this order: stdout, those of the spec,
 * stderr. */
static int job_serve(struct job *j, const struct job_spec *spec, int out, int err)
{
	static const struct service_callbacks events = { .on_exited = on_service_exited };
	const struct child_spec *c = &spec->child;
	int fds[JOB_SERVICE_FDS + 2] = { out };
	struct service_spec service = {
		.template = spec->template, .args = c->argv, .fds = fds, .n_fds = c->n_fds + 2
	};
	char id[JOB_ID_SIZE];
	uint64_t random;

	if (c->n_fds > JOB_SERVICE_FDS)
		return -E2BIG;
	memcpy(fds + 1, c->fds, c->n_fds * sizeof(int));
	fds[1 + c->n_fds] = err;
	random_bytes(&random, sizeof(random));
	(void)snprintf(id, sizeof(id), "im-%012" PRIx64, random & UINT64_C(0xffffffffffff));
	service.id = id;
	return service_start(spec->launcher, &service, &events, j, &j->service, NULL);
}

static int job_spawn(struct job *j, const struct job_spec *spec)
{
	_cleanup_close_ int out = -EBADF, err = -EBADF;
	struct child_spec child = spec->child;

	int r = pipe_for_child(&j->out_fd, &out);
	if (r >= 0)
		r = pipe_for_child(&j->err_fd, &err);
	if (r < 0)
		return r;
	if (spec->launcher)
		return job_serve(j, spec, out, err);
	child.stdout_fd = out;
	child.stderr_fd = err;
	return child_spawn(&child, &j->pid, &j->watch->pidfd);
}

static int job_watch_pipes(struct job *j, sd_event *event, uint64_t timeout_usec)
{
	int r = sd_event_add_io(event, &j->out_source, j->out_fd, EPOLLIN, on_out, j);
	if (r >= 0)
		r = sd_event_add_io(event, &j->err_source, j->err_fd, EPOLLIN, on_err, j);
	if (r >= 0 && timeout_usec > 0)
		r = sd_event_add_time_relative(
			event, &j->timer_source, CLOCK_MONOTONIC, timeout_usec, 0, on_timeout, j);
	return r;
}

static int job_watch_pid(struct job *j, sd_event *event)
{
	struct watch *w = j->watch;

	int r = sd_event_add_io(event, &j->watch_source, w->pidfd, EPOLLIN, on_exit_event, w);
	if (r < 0)
		return r;
	w->job = j;
	w->pid = j->pid;
	(void)sd_event_source_set_destroy_callback(j->watch_source, watch_destroy);
	(void)sd_event_source_set_description(j->watch_source, j->name);
	return 0;
}

/* Kills and reaps a child that cannot be watched; SIGKILL ends it at once, so the wait is short. */
static void kill_unwatched(struct job *j)
{
	job_kill(j);
	while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int job_start(sd_event *event, const struct job_spec *spec, struct job **ret)
{
	_cleanup_(job_freep) struct job *j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->out_fd = j->err_fd = -EBADF;
	j->on_line = spec->on_line;
	j->on_done = spec->on_done;
	j->userdata = spec->userdata;
	j->name = strdup(spec->name);
	j->watch = calloc(1, sizeof(*j->watch));
	if (!j->name || !j->watch) {
		free(j->watch);
		return -ENOMEM;
	}
	j->watch->pidfd = -EBADF;
	int r = job_spawn(j, spec);
	if (r < 0) {
		free(j->watch);
		return r;
	}
	if (j->service)
		free(TAKE_PTR(j->watch)); /* the service watches its process */
	else
		r = job_watch_pid(j, event);
	if (r < 0) {
		kill_unwatched(j);
		watch_destroy(j->watch);
		return r;
	}
	r = job_watch_pipes(j, event, spec->timeout_usec);
	if (r < 0) {
		(void)job_cancel(TAKE_PTR(j));
		return r;
	}
	*ret = TAKE_PTR(j);
	return 0;
}
