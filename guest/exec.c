/* SPDX-License-Identifier: MIT */
/*
 * The protocol side of commands: channels, incoming and outgoing frames. Owned and called by
 * serve.c.
 *
 * What must stay true: a command is kept until EXIT_ACK and sends nothing on a connection before
 * its START or RESUME there; DATA up to EXIT's totals precedes END, and END precedes EXIT; a
 * repeated message of the host has no second effect. After EXIT_ACK a command with running
 * processes keeps its pipes and cgroup, but no channel.
 */

#include "guest/exec-internal.h"

#include "guest/cgroup.h"

#include <fcntl.h>
#include <signal.h>

enum { LINGERING_MAX = 512 };

int execs_new(const struct execs_params *p, struct execs **ret)
{
	struct execs *xs = calloc(1, sizeof(*xs));
	int r;

	if (!xs)
		return -ENOMEM;
	xs->p = *p;
	TAILQ_INIT(&xs->list);
	xs->pids_max = p->cgroup_fd >= 0 ? cgroup_pids_max() : 0;
	/* An open descriptor: a later mount over the path does not hide the disk. */
	xs->disk_fd = open(p->workspace, O_PATH | O_DIRECTORY | O_CLOEXEC);
	r = logins_new(
		&(struct logins_params){
			.loop = p->loop,
			.cgroup_fd = p->cgroup_fd,
			.pids_max = xs->pids_max,
			.workspace = p->workspace,
			.disk_fd = xs->disk_fd,
		},
		&xs->logins);
	if (r < 0) {
		fd_close(xs->disk_fd);
		free(xs);
		return r;
	}
	*ret = xs;
	return 0;
}

static void exec_free(struct exec *x)
{
	struct execs *xs = x->execs;

	TAILQ_REMOVE(&xs->list, x, entry);
	if (x->forgotten)
		xs->n_lingering--;
	else
		xs->n_held--;
	exec_release(x);
	free(x);
}

void execs_kill_all(struct execs *xs)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		exec_kill_all(x);
}

struct execs *execs_free(struct execs *xs)
{
	struct exec *x;

	if (!xs)
		return NULL;
	while ((x = TAILQ_FIRST(&xs->list)))
		exec_free(x);
	logins_free(xs->logins);
	fd_close(xs->disk_fd);
	free(xs);
	return NULL;
}

/* Releases the channel; the rest of the command is kept for its processes. */
static void forget(struct exec *x)
{
	x->forgotten = true;
	x->execs->n_held--;
	x->execs->n_lingering++;
}

void exec_changed(struct exec *x)
{
	if (x->state == EXEC_FAILED && !x->started_due && !x->forgotten)
		forget(x);
	if (x->forgotten && x->state != EXEC_LOGIN && exec_is_released(x))
		exec_free(x);
}

static struct exec *find_channel(struct execs *xs, uint32_t channel)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		if (!x->forgotten && x->channel == channel)
			return x;
	return NULL;
}

static struct exec *find_id(struct execs *xs, const char *id)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		if (!(x->forgotten && x->state == EXEC_FAILED) && streq(x->start.exec_id, id))
			return x;
	return NULL;
}

static bool known_to_run(const struct exec *x)
{
	return x->state == EXEC_RUNNING || x->state == EXEC_DRAINING || x->state == EXEC_EXITED;
}

static struct exec *exec_new(struct execs *xs, uint32_t channel, struct msg_start *m)
{
	struct exec *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->execs = xs;
	x->channel = channel;
	x->start = *m;
	*m = (struct msg_start){ 0 };
	x->status_fd = x->cgroup_fd = x->events_fd = -EBADF;
	x->streams = start_streams(x->start.flags);
	for (size_t i = 0; i < STREAM_MAX; i++)
		x->out[i].fd = -EBADF;
	x->resumed = true;
	in_init(&x->in);
	TAILQ_INSERT_TAIL(&xs->list, x, entry);
	xs->n_held++;
	return x;
}

/* Handles a START that the host repeats because it missed the answer. */
static int start_again(struct exec *x, uint32_t channel)
{
	if (x->forgotten || x->channel != channel)
		return -EBADMSG;
	x->resumed = true;
	x->started_due = x->started_due || known_to_run(x);
	return 0;
}

int execs_start(struct execs *xs, uint32_t channel, struct msg_start *m)
{
	struct exec *x = find_id(xs, m->exec_id);

	if (x)
		return start_again(x, channel);
	/* Twice the limit: a command refused below is kept until its STARTED is sent. */
	if (channel == AGENT_CHANNEL_NONE || find_channel(xs, channel) ||
		xs->n_held >= (size_t)2 * LIMIT_AGENT_EXECS)
		return -EBADMSG;
	x = exec_new(xs, channel, m);
	if (!x)
		return -ENOMEM;
	if (x->start.flags & START_PTY)
		exec_fail(x, -EOPNOTSUPP, strdup("a terminal is not supported"));
	else if (xs->n_held > LIMIT_AGENT_EXECS)
		exec_fail(
			x, -EAGAIN, str_printf("more than %d commands at once", LIMIT_AGENT_EXECS));
	else if (xs->n_lingering >= LINGERING_MAX)
		exec_fail(x, -EAGAIN,
			str_printf("%d commands have left processes behind", LINGERING_MAX));
	else
		exec_run(x);
	return 0;
}

int execs_login(struct execs *xs)
{
	_cleanup_user_ struct user root = { 0 };
	_cleanup_free_ char *what = NULL;

	if (user_find("root", &root, &what) >= 0)
		(void)logins_begin(xs->logins, &root);
	return 0;
}

int execs_kill(struct execs *xs, uint32_t channel, const struct msg_kill *m)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	if (x->state == EXEC_LOGIN) {
		logins_cancel(&x->wait);
		exec_fail(x, -ECANCELED, strdup("killed before it started"));
		return 0;
	}
	if (m->all)
		exec_kill_all(x);
	else if (x->child.pid > 0 && kill(-x->child.pid, m->signal) < 0 && errno == ESRCH)
		(void)kill(x->child.pid, m->signal); /* forked, not yet a group leader */
	return 0;
}

int execs_resume(struct execs *xs, uint32_t channel, const struct msg_resume *m)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	EXEC_FOREACH_OUTPUT (x, i) {
		int r = out_resume(&x->out[i], m->upto[i], m->limit[i]);

		if (r < 0)
			return r;
	}
	x->resumed = true;
	x->exit_sent = false;
	x->started_due = x->started_due || known_to_run(x);
	x->in.ack_due = (x->streams & STREAM_BIT(STREAM_STDIN)) != 0;
	exec_fill(x);
	return 0;
}

int execs_exit_ack(struct execs *xs, uint32_t channel)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	if (x->state == EXEC_LOGIN) {
		exec_free(x);
		return 0;
	}
	if (x->state != EXEC_EXITED)
		exec_kill_all(x); /* the host does not know this command */
	EXEC_FOREACH_OUTPUT (x, i)
		x->out[i].w.ended = true;
	forget(x);
	exec_changed(x);
	return 0;
}

int execs_data(struct execs *xs, uint32_t channel, const struct frame_data *d)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_INPUT & STREAM_BIT(d->stream)))
		return -EBADMSG;
	return in_data(xs->p.loop, &x->in, *d);
}

int execs_ack(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t upto, uint64_t limit)
{
	struct exec *x = find_channel(xs, channel);
	int r;

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_OUTPUT & STREAM_BIT(stream)))
		return -EBADMSG;
	r = out_ack(&x->out[stream], upto, limit);
	if (r >= 0)
		exec_fill(x);
	return r;
}

int execs_end(struct execs *xs, uint32_t channel, uint8_t stream, uint64_t offset)
{
	struct exec *x = find_channel(xs, channel);

	if (!x)
		return 0;
	if (!(x->streams & STREAMS_INPUT & STREAM_BIT(stream)))
		return -EBADMSG;
	return in_end(xs->p.loop, &x->in, offset);
}

void execs_reconnected(struct execs *xs)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry)
		x->resumed = false;
}

int execs_held(struct execs *xs, struct msg_held **ret, uint32_t *ret_n)
{
	struct msg_held *held = calloc(MAX_OF(xs->n_held, (size_t)1), sizeof(*held));
	uint32_t n = 0;
	struct exec *x;

	if (!held)
		return -ENOMEM;
	TAILQ_FOREACH (x, &xs->list, entry) {
		if (x->forgotten || x->state == EXEC_FAILED)
			continue;
		memcpy(held[n].exec_id, x->start.exec_id, sizeof(held[n].exec_id));
		held[n].channel = x->channel;
		held[n].exited = x->state == EXEC_EXITED;
		held[n].stdin_accepted = x->in.w.received;
		held[n].stdin_ended = x->in.w.ended;
		EXEC_FOREACH_OUTPUT (x, i) {
			held[n].produced[i] = x->out[i].w.produced;
			held[n].kept[i] = x->out[i].w.acked;
		}
		n++;
	}
	*ret = held;
	*ret_n = n;
	return 0;
}

/* Returns true if a frame was appended; on a full buffer it is tried again later. */
static bool send_started(struct exec *x, uint16_t version, struct buf *out)
{
	struct msg_result m = { .error = (uint32_t)x->error, .what = x->what };

	if (!x->started_due || msg_send(out, version, result, FRAME_STARTED, x->channel, &m) < 0)
		return false;
	x->started_due = false;
	return true;
}

static bool send_stdin_ack(struct exec *x, struct buf *out)
{
	if (!x->in.ack_due || !known_to_run(x) ||
		window_receiver_put_ack(
			&x->in.w, out, x->channel, STREAM_STDIN, in_written(&x->in)) < 0)
		return false;
	x->in.ack_due = false;
	return true;
}

/* Sends END of each stream after its last byte, then EXIT. */
static bool send_exit(struct exec *x, uint16_t version, struct buf *out)
{
	bool any = false;

	if (x->state != EXEC_EXITED || x->exit_sent)
		return false;
	EXEC_FOREACH_OUTPUT (x, i) {
		any |= window_sender_put_end(&x->out[i].w, out, x->channel, i) > 0;
		if (!x->out[i].w.end_sent)
			return any;
	}
	x->exit_sent = msg_send(out, version, exit, FRAME_EXIT, x->channel, &x->exit) >= 0;
	return x->exit_sent || any;
}

bool execs_send_control(struct execs *xs, uint16_t version, struct buf *out)
{
	struct exec *x, *next;
	bool any = false;

	for (x = TAILQ_FIRST(&xs->list); x; x = next) {
		next = TAILQ_NEXT(x, entry);
		if (x->forgotten)
			continue;
		/* WELCOME omits a command that never ran: the host starts it again. */
		if (x->resumed) {
			any |= send_started(x, version, out);
			any |= send_stdin_ack(x, out);
			any |= send_exit(x, version, out);
		} else if (x->state == EXEC_FAILED) {
			x->started_due = false;
		}
		exec_changed(x);
	}
	return any;
}

bool execs_send_data(struct execs *xs, struct buf *out)
{
	struct exec *x;

	TAILQ_FOREACH (x, &xs->list, entry) {
		if (x->forgotten || !x->resumed || x->started_due || !known_to_run(x))
			continue;
		EXEC_FOREACH_OUTPUT (x, i) {
			if (window_sender_put_data(&x->out[i].w, out, x->channel, i) <= 0)
				continue;
			/* Round robin: the next frame is another command's. */
			TAILQ_REMOVE(&xs->list, x, entry);
			TAILQ_INSERT_TAIL(&xs->list, x, entry);
			return true;
		}
	}
	return false;
}

bool execs_step(struct execs *xs)
{
	struct exec *x, *next;
	bool more = false;

	for (x = TAILQ_FIRST(&xs->list); x; x = next) {
		next = TAILQ_NEXT(x, entry);
		EXEC_FOREACH_OUTPUT (x, i)
			if (x->out[i].w.ended)
				more |= out_discard(xs->p.loop, &x->out[i]);
		exec_changed(x);
	}
	return more;
}
