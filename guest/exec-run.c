/* SPDX-License-Identifier: MIT */
/*
 * A command and its processes: environment, fork, pipes, timeout, exit. Called by exec.c; calls
 * exec_changed.
 *
 * What must stay true: a command ends when its process exits, never at EOF of its pipes. All that
 * the process had written is delivered, however slow the host; output of background children is
 * taken for a short time more (until idle for DRAIN_IDLE, at most DRAIN_MAX), then the totals are
 * final. After that the pipes are read and discarded, so that no child gets SIGPIPE.
 */

#include "guest/exec-internal.h"

#include "guest/cgroup.h"
#include "guest/command.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define DRAIN_IDLE_USEC (50 * USEC_PER_MSEC)
#define DRAIN_MAX_USEC  (500 * USEC_PER_MSEC)

void exec_fail(struct exec *x, int r, char *what)
{
	free(x->what);
	x->what = what;
	x->error = -r;
	x->state = EXEC_FAILED;
	x->started_due = true;
}

void exec_kill_all(struct exec *x)
{
	if (x->cgroup_fd >= 0)
		(void)cgroup_kill(x->cgroup_fd);
	/* Root in the guest may have moved the process out of the cgroup, and the process may have
	 * left its group. */
	if (x->child.pid > 0) {
		(void)kill(-x->child.pid, SIGKILL);
		(void)kill(x->child.pid, SIGKILL);
	}
}

static bool all_ended(const struct exec *x)
{
	EXEC_FOREACH_OUTPUT (x, i)
		if (x->out[i].fd >= 0)
			return false;
	return true;
}

/* True if processes of the command still run. Processes killed by the timeout may still be exiting,
 * so they do not count. Without a cgroup only a process with an open pipe is detected. */
static bool has_processes(struct exec *x)
{
	if (x->exit.timed_out)
		return false;
	return x->events_fd >= 0 ? cgroup_populated(x->events_fd) > 0 : !all_ended(x);
}

/* Ends the command: its totals are final. */
static void finish(struct exec *x)
{
	loop_disarm(x->execs->p.loop, &x->drain);
	EXEC_FOREACH_OUTPUT (x, i) {
		x->out[i].w.ended = true;
		x->exit.produced[i] = x->out[i].w.produced;
	}
	x->exit.produced[STREAM_STDIN] = x->in.w.received;
	if (has_processes(x))
		x->exit.ended.flags |= ENDED_LEFT;
	x->state = EXEC_EXITED;
}

static bool owes_output(const struct exec *x)
{
	EXEC_FOREACH_OUTPUT (x, i)
		if (x->out[i].fd >= 0 && x->out[i].w.produced < x->out[i].owed)
			return true;
	return false;
}

void exec_fill(struct exec *x)
{
	ssize_t got = 0;

	EXEC_FOREACH_OUTPUT (x, i) {
		struct out_stream *o = &x->out[i];
		ssize_t n = o->w.ended ? 0 : out_fill(x->execs->p.loop, o);
		got += n > 0 ? n : 0;
	}
	if (x->state != EXEC_DRAINING)
		return;
	if (all_ended(x))
		finish(x);
	else if (got > 0)
		loop_arm(x->execs->p.loop, &x->drain,
			MIN_OF(now_usec() + DRAIN_IDLE_USEC, x->drain_end));
}

static void on_drained(struct timer *t)
{
	struct exec *x = t->userdata;

	/* Output of the process is left until the host makes room; exec_fill arms the timer
	 * again. */
	if (owes_output(x))
		return;
	finish(x);
	exec_changed(x);
}

static void on_output(struct source *s, uint32_t events _unused_)
{
	struct out_stream *o = (struct out_stream *)s;
	struct exec *x = s->userdata;

	o->readable = true;
	exec_fill(x);
	exec_changed(x);
}

static void on_input(struct source *s, uint32_t events)
{
	struct exec *x = s->userdata;

	if (events & EPOLLERR)
		in_close(x->execs->p.loop, &x->in);
	else
		in_flush(x->execs->p.loop, &x->in);
}

static void on_events(struct source *s, uint32_t events _unused_)
{
	struct exec *x = s->userdata;

	/* Reading the file re-arms its notification. */
	(void)cgroup_populated(x->events_fd);
	exec_changed(x);
}

static void on_timeout(struct timer *t)
{
	struct exec *x = t->userdata;

	x->exit.timed_out = 1;
	exec_kill_all(x);
}

static struct spawn_params spawn_params(struct exec *x)
{
	return (struct spawn_params){
		.path = x->argv[0],
		.path_dirs = env_get(&x->env, "PATH"),
		.argv = x->argv,
		.env = x->env.v,
		.user = &x->user,
		.cwd = x->cwd,
		.fds = { -EBADF, -EBADF, -EBADF },
		.cgroup_fd = x->cgroup_fd,
	};
}

/* Reads the result of the fork: 0 if the program runs, -EAGAIN if unknown, else the error, which
 * STARTED reports after the child is reaped. */
static int check_spawned(struct exec *x)
{
	struct spawn_params p = spawn_params(x);
	_cleanup_free_ char *what = NULL;
	int r = spawn_status(x->status_fd, &p, &what);

	if (r == -EAGAIN)
		return r;
	loop_unwatch(x->execs->p.loop, &x->status_source);
	x->status_fd = fd_close(x->status_fd);
	if (r < 0) {
		exec_fail(x, r, TAKE_PTR(what));
		return r;
	}
	x->state = EXEC_RUNNING;
	x->started_due = true;
	return 0;
}

static void on_status(struct source *s, uint32_t events _unused_)
{
	struct exec *x = s->userdata;

	if (check_spawned(x) != -EAGAIN)
		exec_changed(x);
}

static bool disk_is_full(const struct exec *x)
{
	struct statvfs st;

	if (x->execs->disk_fd < 0 || fstatvfs(x->execs->disk_fd, &st) < 0)
		return false;
	return st.f_bavail == 0 || (st.f_files > 0 && st.f_favail == 0);
}

/* Records which limits the command reached; only after a failure, since the queries delay the
 * exit. */
static void note_limits(struct exec *x)
{
	if (x->exit.timed_out || (x->exit.signal == 0 && x->exit.code == 0))
		return;
	if (x->cgroup_fd >= 0 && cgroup_oom_killed(x->cgroup_fd))
		x->exit.ended.flags |= ENDED_OOM_KILL;
	if (x->cgroup_fd >= 0 && cgroup_pids_refused(x->cgroup_fd))
		x->exit.ended.flags |= ENDED_PIDS;
	if (disk_is_full(x))
		x->exit.ended.flags |= ENDED_DISK_FULL;
}

static void on_exit_(struct child *c, int status)
{
	struct exec *x = c->userdata;
	struct loop *l = x->execs->p.loop;

	loop_disarm(l, &x->timeout);
	if (x->state == EXEC_SPAWNED)
		(void)check_spawned(x);
	if (x->state == EXEC_SPAWNED)
		exec_fail(x, -EIO, strdup("start the command"));
	in_close(l, &x->in);
	if (x->state == EXEC_RUNNING) {
		x->exit.duration_usec = now_usec() - x->started_at;
		if (WIFSIGNALED(status))
			x->exit.signal = (uint8_t)WTERMSIG(status);
		else
			x->exit.code = (uint8_t)WEXITSTATUS(status);
		note_limits(x);
		x->state = EXEC_DRAINING;
		x->drain_end = now_usec() + DRAIN_MAX_USEC;
		EXEC_FOREACH_OUTPUT (x, i) {
			out_note_owed(&x->out[i]);
			x->out[i].readable = x->out[i].fd >= 0;
		}
		loop_arm(l, &x->drain, now_usec() + DRAIN_IDLE_USEC);
		exec_fill(x);
	}
	exec_changed(x);
}

/* Creates a pipe: the agent's end is non-blocking, the command's user owns it. */
static int make_pipe(const struct user *u, bool input, int *ret_ours, int *ret_theirs)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	ours = fds[input ? 1 : 0];
	theirs = fds[input ? 0 : 1];
	if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	/* A larger pipe saves context switches; the default size works too. */
	(void)fcntl(ours, F_SETPIPE_SZ, STREAM_WINDOW);
	if (geteuid() == 0 && fchown(theirs, u->uid, u->gid) < 0)
		return -errno;
	*ret_ours = TAKE_FD(ours);
	*ret_theirs = TAKE_FD(theirs);
	return 0;
}

static int open_output(struct exec *x, uint8_t stream, int *ret_theirs)
{
	struct out_stream *o = &x->out[stream];
	_cleanup_close_ int ours = -EBADF;
	int r;

	r = make_pipe(&x->user, false, &ours, ret_theirs);
	if (r >= 0)
		r = out_open(o, ours, x->start.limit[stream]);
	if (r < 0)
		return r;
	TAKE_FD(ours);
	o->source = (struct source){ .on_event = on_output, .userdata = x };
	return loop_watch(x->execs->p.loop, &o->source, o->fd, EPOLLIN);
}

static int open_input(struct exec *x, int *ret_theirs)
{
	int ours = -EBADF, r;

	if (!(x->streams & STREAM_BIT(STREAM_STDIN)))
		return 0;
	r = make_pipe(&x->user, true, &ours, ret_theirs);
	if (r < 0)
		return r;
	in_open(&x->in, ours);
	x->in.source = (struct source){ .on_event = on_input, .userdata = x };
	return loop_watch(x->execs->p.loop, &x->in.source, ours, EPOLLOUT);
}

static int open_cgroup(struct exec *x)
{
	int r;

	if (x->execs->p.cgroup_fd < 0)
		return 0;
	x->exit.ended.pids_max = x->execs->pids_max;
	r = cgroup_make(x->execs->p.cgroup_fd, x->start.exec_id, x->execs->pids_max, &x->cgroup_fd);
	if (r >= 0)
		r = cgroup_events(x->cgroup_fd, &x->events_fd);
	if (r < 0)
		return r;
	x->events_source = (struct source){ .on_event = on_events, .userdata = x };
	return loop_watch(x->execs->p.loop, &x->events_source, x->events_fd, EPOLLPRI);
}

static int start_process(struct exec *x)
{
	_cleanup_close_ int in = -EBADF, out = -EBADF, err = -EBADF;
	struct loop *l = x->execs->p.loop;
	struct spawn_params p;
	pid_t pid;
	int r;

	r = open_cgroup(x);
	if (r >= 0)
		r = open_input(x, &in);
	if (r >= 0)
		r = open_output(x, STREAM_STDOUT, &out);
	if (r >= 0)
		r = open_output(x, STREAM_STDERR, &err);
	if (r < 0)
		return r;
	p = spawn_params(x);
	p.fds[0] = in;
	p.fds[1] = out;
	p.fds[2] = err;
	r = spawn(&p, &pid, &x->status_fd);
	if (r < 0)
		return r;
	x->state = EXEC_SPAWNED;
	x->started_at = now_usec();
	x->child = (struct child){ .on_exit = on_exit_, .userdata = x };
	loop_own_child(l, &x->child, pid);
	x->timeout = (struct timer){ .on_timer = on_timeout, .userdata = x };
	if (x->start.timeout_usec > 0)
		loop_arm(l, &x->timeout,
			x->started_at + MIN_OF(x->start.timeout_usec,
						(uint64_t)TIMEOUT_SECONDS_MAX * USEC_PER_SEC));
	x->drain = (struct timer){ .on_timer = on_drained, .userdata = x };
	x->status_source = (struct source){ .on_event = on_status, .userdata = x };
	return loop_watch(l, &x->status_source, x->status_fd, EPOLLIN);
}

/* Builds the environment: base, captured login environment, variables of START. */
static int make_env(struct exec *x, const struct env *login)
{
	int r = command_base_env(&x->user, x->shell, &x->env);

	if (r >= 0 && login)
		r = env_merge(&x->env, login->v, login->n);
	if (r >= 0)
		r = env_merge(&x->env, x->start.env, x->start.n_env);
	return r;
}

static void run_in(struct exec *x, const struct env *login)
{
	struct env given = { .v = x->start.env, .n = x->start.n_env };
	int r = make_env(x, login);

	if (r >= 0)
		r = command_argv(
			x->shell, !login, x->start.command, env_get(&given, "PATH"), &x->argv);
	if (r == -ENOEXEC) {
		exec_fail(x, r, strdup("the environment has no /bin/sh to run a shell line"));
		return;
	}
	if (r >= 0)
		r = start_process(x);
	if (r >= 0)
		return;
	if (x->child.pid > 0)
		exec_kill_all(x);
	EXEC_FOREACH_OUTPUT (x, i)
		out_close(x->execs->p.loop, &x->out[i]);
	exec_fail(x, r, strdup("start the command"));
}

static void on_login(struct login_wait *w, const struct env *login)
{
	struct exec *x = w->userdata;

	run_in(x, login);
	exec_changed(x);
}

void exec_run(struct exec *x)
{
	const struct env *login = NULL;
	char *what = NULL;
	int r = user_find(x->start.user, &x->user, &what);

	if (r < 0) {
		exec_fail(x, r, what);
		return;
	}
	x->cwd = x->start.cwd[0] == '/' ? strdup(x->start.cwd)
					: str_printf("%s/%s", x->execs->p.workspace, x->start.cwd);
	if (!x->cwd) {
		exec_fail(x, -ENOMEM, NULL);
		return;
	}
	x->shell = command_shell();
	x->wait = (struct login_wait){ .on_login = on_login, .userdata = x };
	if (!(x->start.flags & START_LOGIN) || logins_known(x->execs->logins, &x->user)) {
		r = logins_get(x->execs->logins, &x->user, &x->wait, &login);
		if (r < 0)
			exec_fail(x, r, strdup("capture the login environment"));
		if (r <= 0)
			return;
	}
	run_in(x, login);
}

bool exec_is_released(struct exec *x)
{
	if (x->child.pid > 0 || !all_ended(x))
		return false;
	return x->events_fd < 0 || cgroup_populated(x->events_fd) <= 0;
}

void exec_release(struct exec *x)
{
	struct loop *l = x->execs->p.loop;

	logins_cancel(&x->wait);
	loop_unwatch(l, &x->status_source);
	loop_unwatch(l, &x->events_source);
	loop_disarm(l, &x->timeout);
	loop_disarm(l, &x->drain);
	loop_disown_child(l, &x->child);
	EXEC_FOREACH_OUTPUT (x, i)
		out_done(l, &x->out[i]);
	in_done(l, &x->in);
	fd_close(x->status_fd);
	fd_close(x->events_fd);
	if (x->cgroup_fd >= 0)
		(void)cgroup_remove(x->execs->p.cgroup_fd, x->start.exec_id);
	fd_close(x->cgroup_fd);
	command_free_argv(x->argv);
	env_done(&x->env);
	user_done(&x->user);
	msg_start_done(&x->start);
	free(x->cwd);
	free(x->what);
}
