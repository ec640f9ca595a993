/* SPDX-License-Identifier: MIT */
/*
 * Reads and closes sockets of untrusted peers, and manages the receiver processes that do it when
 * descriptors are queued. Created by manager.c; called by rpc/ for connections and by agent/ for
 * stdio.
 *
 * What must stay true: nothing here blocks; pyrod never has a peer's descriptor in its table and is
 * never the last holder of a socket with one in its queue; a uid has one receiver, which does one
 * receipt at a time and is killed after TAKE_USEC without an answer; receivers that survive SIGKILL
 * are counted, and above STUCK_MAX their account's descriptors are refused; the number of receivers
 * is bounded.
 *
 * Observed on Linux 6.1 to 6.18: a peek without room for control data sets MSG_CTRUNC if
 * descriptors are next, and changes nothing. An out-of-band byte carries descriptors too; a peek
 * skips it and the next read drops it, unless SO_OOBINLINE is set. Descriptors dropped with a queue
 * were never installed, so the kernel sends no FLUSH: only SO_LINGER can block, and a signal
 * interrupts that (guard_begin).
 */

#include "daemon/receiver.h"

#include <signal.h>
#include <sys/pidfd.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "daemon/account.h"
#include "daemon/child.h"
#include "daemon/log.h"
#include "daemon/receiver-child.h"
#include "proto/fdpass.h"

#define TAKE_USEC  USEC_PER_SEC        /* per receipt, including close */
#define IDLE_USEC  (30 * USEC_PER_SEC) /* after which a receiver exits */
#define GUARD_NSEC 1000000             /* bounds pyrod's sleep in a peer's SO_LINGER */
#define NOBODY     ((uid_t)-1)         /* uid of the closer, which receives nothing */

enum { STUCK_MAX = 4 };

struct receipt {
	TAILQ_ENTRY(receipt) entry;
	struct receiver *receiver; /* borrowed: this receipt is in its queue */
	int fd;                    /* borrowed: the caller's */
	size_t max;
	received_fn fn; /* NULL: cancelled or already called */
	void *userdata;
};

TAILQ_HEAD(receipt_queue, receipt);

/* Of a receiver that was killed or is idle and exiting, only the pidfd is kept until it is
 * reaped. */
struct receiver {
	TAILQ_ENTRY(receiver) entry;
	struct receivers *all; /* borrowed */
	struct receiver_user user;
	int fd, pidfd;                           /* owned */
	sd_event_source *io, *exited, *deadline; /* owned */
	struct receipt_queue queue;              /* owned; the first is being processed */
	bool leaving, stuck;
};

struct receivers {
	sd_event *event; /* borrowed */
	TAILQ_HEAD(, receiver) list;
	size_t n; /* number of receivers not leaving */
	timer_t guard;
	bool has_guard;
};

static void start_next(struct receiver *v);

/* The guard: a timer signal, repeated until the thread no longer sleeps in close(). */
static void on_guard(int signo _unused_)
{
}

static int guard_signal(void)
{
	return SIGRTMIN + 1;
}

static int guard_make(struct receivers *rs)
{
	struct sigevent se = { .sigev_notify = SIGEV_THREAD_ID };
	struct sigaction sa = { .sa_handler = on_guard };

	se.sigev_signo = guard_signal();
	se._sigev_un._tid = (pid_t)syscall(SYS_gettid);
	if (sigaction(guard_signal(), &sa, NULL) < 0 ||
		timer_create(CLOCK_MONOTONIC, &se, &rs->guard) < 0)
		return -errno;
	rs->has_guard = true;
	return 0;
}

static void guard_set(struct receivers *rs, long nsec)
{
	const struct itimerspec t = { .it_interval.tv_nsec = nsec, .it_value.tv_nsec = nsec };

	(void)timer_settime(rs->guard, 0, &t, NULL); /* fails only for an invalid timer */
}

/* Lifetime of a receiver */

static size_t count_stuck(const struct receivers *rs, uid_t account)
{
	const struct receiver *v;
	size_t n = 0;

	TAILQ_FOREACH (v, &rs->list, entry)
		n += v->stuck && v->user.account == account;
	return n;
}

static void receiver_free(struct receiver *v)
{
	TAILQ_REMOVE(&v->all->list, v, entry);
	if (!v->leaving)
		v->all->n--;
	sd_event_source_disable_unref(v->io);
	sd_event_source_disable_unref(v->exited);
	sd_event_source_disable_unref(v->deadline);
	fd_close(v->fd);
	fd_close(v->pidfd);
	free(v);
}

/* Closes the pair, so that the receiver exits; on_exited reaps it. */
static void leave(struct receiver *v)
{
	v->leaving = true;
	v->all->n--;
	v->io = sd_event_source_disable_unref(v->io);
	v->deadline = sd_event_source_disable_unref(v->deadline);
	v->fd = fd_close(v->fd);
}

static void finish(struct receipt *rt, struct received *rc)
{
	struct receivers *all = rt->receiver->all;
	received_fn fn = rt->fn;

	rt->fn = NULL;
	if (fn)
		fn(rc, rt->userdata);
	for (size_t i = 0; i < rc->n_fds; i++)
		receivers_close(all, rc->fds[i], true);
}

static void fail_all(struct receiver *v, int error)
{
	struct receipt *rt;

	while ((rt = TAILQ_FIRST(&v->queue))) {
		struct received rc = { .error = error };

		TAILQ_REMOVE(&v->queue, rt, entry);
		finish(rt, &rc);
		free(rt);
	}
}

/* Kills a receiver that is stuck or has exited early, and fails its receipts. */
static void give_up(struct receiver *v, int error)
{
	if (v->leaving)
		return;
	leave(v);
	v->stuck = true;
	(void)pidfd_send_signal(v->pidfd, SIGKILL, NULL, 0);
	fail_all(v, error);
}

static int on_exited(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct receiver *v = userdata;
	siginfo_t si = { 0 };

	if (waitid(P_PIDFD, (id_t)v->pidfd, &si, WEXITED | WNOHANG) == 0 && si.si_pid == 0)
		return 0;
	give_up(v, -ECONNRESET);
	receiver_free(v);
	return 0;
}

static int on_deadline(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct receiver *v = userdata;

	if (TAILQ_EMPTY(&v->queue)) {
		leave(v);
		return 0;
	}
	log_uid(LOG_WARNING, 0, v->user.uid,
		"receiver of uid %u is blocked by a descriptor it received; killed", v->user.uid);
	give_up(v, -ETIMEDOUT);
	return 0;
}

static int set_deadline(struct receiver *v, uint64_t usec)
{
	int r = sd_event_source_set_time_relative(v->deadline, usec);

	return r < 0 ? r : sd_event_source_set_enabled(v->deadline, SD_EVENT_ONESHOT);
}

/* Puts the kept descriptors at their positions among the refused ones. */
static int place_fds(const struct receiver_reply *head, struct fd_queue *q, struct received *rc)
{
	size_t k = 0;

	if (head->n_fds > LIMIT_FDS_WAITING)
		return -EPROTO;
	for (size_t i = 0; i < head->n_fds; i++) {
		if (head->kept[i] && k == q->n)
			return -EPROTO;
		rc->fds[i] = head->kept[i] ? q->fds[k++] : -EBADF;
	}
	if (k != q->n)
		return -EPROTO;
	rc->n_fds = head->n_fds;
	q->n = 0;
	return 0;
}

static int take_reply(struct receiver *v, const struct receiver_reply *head, const uint8_t *bytes,
	size_t n, struct fd_queue *q)
{
	struct receipt *rt = TAILQ_FIRST(&v->queue);
	struct received rc = { .error = head->error, .bytes = bytes, .n = n };
	int r;

	if (!rt || n != head->n)
		return -EPROTO;
	if (head->kind == RECEIVER_TAKEN) {
		r = place_fds(head, q, &rc);
		if (r >= 0)
			finish(rt, &rc);
		return r;
	}
	TAILQ_REMOVE(&v->queue, rt, entry);
	free(rt);
	start_next(v);
	return 0;
}

static int read_reply(struct receiver *v)
{
	struct receiver_reply head;
	struct fd_queue q;
	struct buf b;
	ssize_t n;
	int r;

	fd_queue_init(&q);
	buf_init(&b, sizeof(head) + RECEIVER_BYTES_MAX);
	n = fd_recv(v->fd, &b, b.max, &q);
	if (n < (ssize_t)sizeof(head)) {
		r = n == -EAGAIN ? 0 : n < 0 ? (int)n : -EPROTO;
	} else {
		memcpy(&head, buf_head(&b), sizeof(head));
		r = take_reply(v, &head, buf_head(&b) + sizeof(head), (size_t)n - sizeof(head), &q);
	}
	for (size_t i = 0; i < q.n; i++)
		receivers_close(v->all, q.fds[i], true);
	buf_done(&b);
	return r;
}

static int on_reply(
	sd_event_source *s _unused_, int fd _unused_, uint32_t revents _unused_, void *userdata)
{
	struct receiver *v = userdata;
	int r = read_reply(v);

	if (r < 0 && !v->leaving) {
		log_uid(LOG_WARNING, r, v->user.uid, "receiver of uid %u failed", v->user.uid);
		give_up(v, r);
	}
	return 0;
}

static int send_request(struct receiver *v, enum receiver_op op, int fd, size_t max)
{
	const struct receiver_request q = { .op = op, .max = max };
	ssize_t n = fd_send(v->fd, &q, sizeof(q), &fd, 1, MSG_DONTWAIT);

	return n < 0 ? (int)n : 0;
}

static void start_next(struct receiver *v)
{
	struct receipt *rt;
	int r = 0;

	while ((rt = TAILQ_FIRST(&v->queue)) && !rt->fn) {
		TAILQ_REMOVE(&v->queue, rt, entry);
		free(rt);
	}
	if (rt)
		r = send_request(v, RECEIVER_TAKE, rt->fd, rt->max);
	if (r >= 0)
		r = set_deadline(v, rt ? TAKE_USEC : IDLE_USEC);
	if (r < 0)
		give_up(v, r);
}

static int fork_child(struct receiver *v)
{
	int pair[2], r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	v->fd = pair[0];
	const struct child_spec spec = {
		.fn = receiver_main,
		.arg = &v->user.uid,
		.stdin_fd = pair[1],
		.stdout_fd = -EBADF,
		.stderr_fd = -EBADF,
		.die_with_parent = true,
	};
	r = child_spawn(&spec, &pid, &v->pidfd);
	fd_close(pair[1]);
	return r;
}

static int watch_child(struct receiver *v)
{
	sd_event *event = v->all->event;
	int r;

	/* The last sockets are closed after the loop: nothing waits for an answer or for the
	 * process. */
	if (sd_event_get_state(event) == SD_EVENT_FINISHED)
		return 0;
	r = sd_event_add_io(event, &v->io, v->fd, EPOLLIN, on_reply, v);
	if (r >= 0)
		r = sd_event_add_io(event, &v->exited, v->pidfd, EPOLLIN, on_exited, v);
	if (r >= 0)
		r = sd_event_add_time_relative(event, &v->deadline, CLOCK_MONOTONIC, IDLE_USEC,
			USEC_PER_MSEC, on_deadline, v);
	return r;
}

static int receiver_start(
	struct receivers *rs, const struct receiver_user *user, struct receiver **ret)
{
	struct receiver *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	*v = (struct receiver){ .all = rs, .user = *user, .fd = -EBADF, .pidfd = -EBADF };
	TAILQ_INIT(&v->queue);
	TAILQ_INSERT_TAIL(&rs->list, v, entry);
	rs->n++;
	r = fork_child(v);
	if (r >= 0)
		r = watch_child(v);
	if (r < 0) {
		receiver_free(v); /* the forked child sees EOF on its pair */
		return r;
	}
	*ret = v;
	return 0;
}

static struct receiver *find(struct receivers *rs, uid_t uid)
{
	struct receiver *v;

	TAILQ_FOREACH (v, &rs->list, entry)
		if (!v->leaving && v->user.uid == uid)
			return v;
	return NULL;
}

/* Frees a place: ends the receiver that has been idle longest, of this account, or of any if
 * account is NOBODY. Returns false if all are busy. */
static bool evict_idle(struct receivers *rs, uid_t account)
{
	struct receiver *v;

	TAILQ_FOREACH (v, &rs->list, entry)
		if (!v->leaving && v->user.uid != NOBODY && TAILQ_EMPTY(&v->queue) &&
			(account == NOBODY || v->user.account == account)) {
			leave(v);
			return true;
		}
	return false;
}

static size_t count_serving(const struct receivers *rs, uid_t account)
{
	const struct receiver *v;
	size_t n = 0;

	TAILQ_FOREACH (v, &rs->list, entry)
		n += !v->leaving && v->user.account == account;
	return n;
}

/* True if another receiver may be created. A user has many uids; neither one account nor all
 * together can exhaust root's. */
static bool have_place(struct receivers *rs, const struct receiver_user *user)
{
	if (user->uid == NOBODY || user->uid == 0)
		return true;
	if (count_stuck(rs, user->account) >= STUCK_MAX)
		return false;
	if (count_serving(rs, user->account) >= LIMIT_RECEIVERS_ACCOUNT &&
		!evict_idle(rs, user->account))
		return false;
	return rs->n < LIMIT_RECEIVERS || evict_idle(rs, NOBODY);
}

void receivers_recount(struct receivers *rs, const struct accounts *a)
{
	struct receiver *v;

	TAILQ_FOREACH (v, &rs->list, entry)
		if (v->user.uid != NOBODY)
			v->user.account = accounts_find(a, v->user.uid);
}

static int receiver_for(
	struct receivers *rs, const struct receiver_user *user, struct receiver **ret)
{
	struct receiver *v = find(rs, user->uid);

	if (v) {
		/* The list is in order of use. */
		TAILQ_REMOVE(&rs->list, v, entry);
		TAILQ_INSERT_TAIL(&rs->list, v, entry);
		*ret = v;
		return 0;
	}
	if (!have_place(rs, user))
		return -EBUSY;
	return receiver_start(rs, user, ret);
}

int receipt_new(struct receivers *rs, const struct receiver_user *user, int fd, size_t max,
	received_fn fn, void *userdata, struct receipt **ret)
{
	struct receiver *v;
	struct receipt *rt;
	int r;

	if (user->uid == NOBODY)
		return -EINVAL;
	r = receiver_for(rs, user, &v);
	if (r < 0)
		return r;
	rt = calloc(1, sizeof(*rt));
	if (!rt)
		return -ENOMEM;
	*rt = (struct receipt){
		.receiver = v,
		.fd = fd,
		.max = MIN_OF(max, (size_t)RECEIVER_BYTES_MAX),
		.fn = fn,
		.userdata = userdata,
	};
	TAILQ_INSERT_TAIL(&v->queue, rt, entry);
	if (TAILQ_FIRST(&v->queue) == rt) {
		r = send_request(v, RECEIVER_TAKE, fd, rt->max);
		if (r >= 0)
			r = set_deadline(v, TAKE_USEC);
	}
	if (r < 0) {
		TAILQ_REMOVE(&v->queue, rt, entry);
		free(rt);
		give_up(v, r);
		return r;
	}
	*ret = rt;
	return 0;
}

struct receipt *receipt_free(struct receipt *rt)
{
	if (!rt)
		return NULL;
	rt->fn = NULL;
	if (rt != TAILQ_FIRST(&rt->receiver->queue)) {
		TAILQ_REMOVE(&rt->receiver->queue, rt, entry);
		free(rt);
	}
	return NULL;
}

/* Sockets of untrusted peers */

int receivers_prepare(int fd)
{
	const int on = 1;

	return setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)) < 0 ? -errno : 0;
}

/* Returns how many bytes may be read before the next descriptor; 0 at EOF. */
static ssize_t peek(int fd, void *p, size_t n)
{
	struct iovec iov = { .iov_base = p, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t got;

	do
		got = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	return msg.msg_flags & MSG_CTRUNC ? RECEIVERS_FDS : got;
}

ssize_t receivers_read(struct receivers *rs, int fd, bool shared, void *p, size_t n)
{
	ssize_t got = peek(fd, p, n);

	if (got <= 0)
		return got;
	if (shared)
		guard_set(rs, GUARD_NSEC);
	got = recv(fd, p, (size_t)got, MSG_DONTWAIT);
	if (got < 0)
		got = errno == EINTR ? -EAGAIN : -errno;
	if (shared)
		guard_set(rs, 0);
	return got;
}

/* True if nothing is queued on fd, so that closing it drops no descriptor. */
static bool is_empty(int fd)
{
	uint8_t byte;
	ssize_t n = peek(fd, &byte, sizeof(byte));

	return n == 0 || n == -EAGAIN || n == -ENOTCONN || n == -ECONNRESET;
}

/* Sends a copy of fd to the closer, which then closes the socket last. */
static int pass_to_closer(struct receivers *rs, int fd)
{
	static const struct receiver_user closer = { NOBODY, NOBODY };
	struct receiver *v;
	int r = -EBUSY;

	/* Tries a second closer: the first may be blocked in a close. */
	for (int i = 0; i < 2 && r < 0; i++) {
		r = receiver_for(rs, &closer, &v);
		if (r < 0)
			return r;
		r = send_request(v, RECEIVER_CLOSE, fd, 0);
		if (r < 0)
			give_up(v, r);
	}
	return r;
}

void receivers_close_listener(struct receivers *rs, int fd)
{
	int r;

	if (fd < 0)
		return;
	r = pass_to_closer(rs, fd);
	if (r < 0)
		log_error_errno(r,
			"cannot pass a client's socket to the process that closes it: pyrod "
			"closes it");
	guard_set(rs, GUARD_NSEC);
	fd_close(fd);
	guard_set(rs, 0);
}

void receivers_close(struct receivers *rs, int fd, bool shared)
{
	if (fd < 0)
		return;
	/* After this nothing more can be queued. Fails if the other end is closed already. */
	(void)shutdown(fd, SHUT_RDWR);
	if (shared || !is_empty(fd))
		receivers_close_listener(rs, fd);
	else
		fd_close(fd);
}

int receivers_new(sd_event *event, struct receivers **ret)
{
	_cleanup_(receivers_freep) struct receivers *rs = calloc(1, sizeof(*rs));
	int r;

	if (!rs)
		return -ENOMEM;
	rs->event = event;
	TAILQ_INIT(&rs->list);
	r = guard_make(rs);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(rs);
	return 0;
}

struct receivers *receivers_free(struct receivers *rs)
{
	struct receiver *v;

	if (!rs)
		return NULL;
	while ((v = TAILQ_FIRST(&rs->list))) {
		struct receipt *rt;

		while ((rt = TAILQ_FIRST(&v->queue))) {
			TAILQ_REMOVE(&v->queue, rt, entry);
			free(rt);
		}
		receiver_free(v);
	}
	if (rs->has_guard)
		(void)timer_delete(rs->guard);
	free(rs);
	return NULL;
}
