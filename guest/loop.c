/* SPDX-License-Identifier: MIT */
/*
 * The event loop, used by every other file of the agent. As PID 1 (or a child subreaper) it reaps
 * every process, its own children and adopted orphans alike; a child's owner is notified once.
 *
 * What must stay true: a source unwatched or freed by an earlier callback of the same iteration is
 * never called; timers run in order of their deadlines; only epoll_wait blocks.
 */

#include "guest/loop.h"

#include <limits.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum { EVENTS_PER_RUN = 64 };

TAILQ_HEAD(timer_list, timer);
TAILQ_HEAD(child_list, child);

struct loop {
	int epoll_fd;  /* owned */
	int signal_fd; /* owned */
	struct source signals;
	struct timer_list timers;   /* borrowed from their owners, earliest first */
	struct child_list children; /* borrowed from their owners */
	struct epoll_event events[EVENTS_PER_RUN];
	int n_events; /* of this iteration */
	loop_step_fn on_step;
	void *step_userdata; /* borrowed */
	loop_signal_fn on_signal;
	void *signal_userdata; /* borrowed */
	void (*on_reaped)(void *userdata);
	void *reaped_userdata; /* borrowed */
	bool again, stopped;
};

int loop_new(struct loop **ret)
{
	_cleanup_loop_ struct loop *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->signal_fd = -EBADF;
	TAILQ_INIT(&l->timers);
	TAILQ_INIT(&l->children);
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd < 0)
		return -errno;
	*ret = TAKE_PTR(l);
	return 0;
}

struct loop *loop_free(struct loop *l)
{
	if (!l)
		return NULL;
	fd_close(l->signal_fd);
	fd_close(l->epoll_fd);
	free(l);
	return NULL;
}

void loop_set_step(struct loop *l, loop_step_fn fn, void *userdata)
{
	l->on_step = fn;
	l->step_userdata = userdata;
}

void loop_set_reaped(struct loop *l, void (*fn)(void *userdata), void *userdata)
{
	l->on_reaped = fn;
	l->reaped_userdata = userdata;
}

int loop_watch(struct loop *l, struct source *s, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events | EPOLLET, .data.ptr = s };

	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	s->fd = fd;
	s->watched = true;
	return 0;
}

void loop_unwatch(struct loop *l, struct source *s)
{
	if (!s->watched)
		return;
	(void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	s->watched = false;
	for (int i = 0; i < l->n_events; i++)
		if (l->events[i].data.ptr == s)
			l->events[i].data.ptr = NULL;
}

void loop_arm(struct loop *l, struct timer *t, uint64_t when)
{
	struct timer *other;

	loop_disarm(l, t);
	t->when = when;
	t->armed = true;
	TAILQ_FOREACH (other, &l->timers, entry)
		if (other->when > when) {
			TAILQ_INSERT_BEFORE(other, t, entry);
			return;
		}
	TAILQ_INSERT_TAIL(&l->timers, t, entry);
}

void loop_disarm(struct loop *l, struct timer *t)
{
	if (!t->armed)
		return;
	TAILQ_REMOVE(&l->timers, t, entry);
	t->armed = false;
}

void loop_own_child(struct loop *l, struct child *c, pid_t pid)
{
	c->pid = pid;
	TAILQ_INSERT_TAIL(&l->children, c, entry);
}

void loop_disown_child(struct loop *l, struct child *c)
{
	if (c->pid <= 0)
		return;
	TAILQ_REMOVE(&l->children, c, entry);
	c->pid = 0;
}

bool loop_has_children(struct loop *l _unused_)
{
	siginfo_t si = { 0 };

	return waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0;
}

void loop_again(struct loop *l)
{
	l->again = true;
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}

static void reap(struct loop *l)
{
	for (;;) {
		int status = 0;
		struct child *c;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid <= 0)
			return;
		TAILQ_FOREACH (c, &l->children, entry)
			if (c->pid == pid) {
				loop_disown_child(l, c);
				c->on_exit(c, status);
				break;
			}
	}
}

static void on_signals(struct source *s, uint32_t events _unused_)
{
	struct loop *l = s->userdata;
	struct signalfd_siginfo si;

	while (read(l->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo != SIGCHLD) {
			l->on_signal((int)si.ssi_signo, l->signal_userdata);
			continue;
		}
		reap(l);
		if (l->on_reaped)
			l->on_reaped(l->reaped_userdata);
	}
}

int loop_take_signals(struct loop *l, loop_signal_fn fn, void *userdata)
{
	static const int taken[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGPWR };
	sigset_t set;
	int r;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		sigaddset(&set, taken[i]);
	for (int n = SIGRTMIN; n <= SIGRTMAX; n++)
		sigaddset(&set, n);
	if (sigprocmask(SIG_SETMASK, &set, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return -errno;
	l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (l->signal_fd < 0)
		return -errno;
	l->on_signal = fn;
	l->signal_userdata = userdata;
	l->signals = (struct source){ .on_event = on_signals, .userdata = l };
	r = loop_watch(l, &l->signals, l->signal_fd, EPOLLIN);
	if (r < 0)
		return r;
	reap(l); /* children that exited before SIGCHLD was blocked */
	return 0;
}

/* Returns the milliseconds until the first deadline, rounded up so as not to wake early. */
static int wait_msec(const struct loop *l)
{
	const struct timer *t = TAILQ_FIRST(&l->timers);
	uint64_t now, msec;

	if (l->again)
		return 0;
	if (!t)
		return -1;
	now = now_usec();
	if (t->when <= now)
		return 0;
	msec = (t->when - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
	return (int)MIN_OF(msec, (uint64_t)INT_MAX);
}

static void run_timers(struct loop *l)
{
	uint64_t now = now_usec();
	struct timer *t;

	while ((t = TAILQ_FIRST(&l->timers)) && t->when <= now) {
		loop_disarm(l, t);
		t->on_timer(t);
	}
}

int loop_run(struct loop *l)
{
	while (!l->stopped) {
		int n = epoll_wait(l->epoll_fd, l->events, EVENTS_PER_RUN, wait_msec(l));
		if (n < 0 && errno != EINTR)
			return -errno;
		l->again = false;
		l->n_events = n < 0 ? 0 : n;
		for (int i = 0; i < l->n_events; i++) {
			struct source *s = l->events[i].data.ptr;
			if (s)
				s->on_event(s, l->events[i].events);
		}
		l->n_events = 0;
		run_timers(l);
		if (l->on_step && l->on_step(l->step_userdata))
			l->again = true;
	}
	return 0;
}
