/* SPDX-License-Identifier: MIT */
/*
 * One client: splits bytes into lines, passes lines to the dispatcher, writes answers. Owned by the
 * server. Each run of work() handles the buffered lines and then writes what they and other calls
 * have queued, so that an idle socket costs three system calls a call: wait, read, write.
 *
 * What must stay true:
 * - both queues are bounded: no request is read while more than half of the out queue waits, and a
 *   client that reads nothing is dropped;
 * - the end of the requests does not close the connection, since the client may still read its
 *   answers; only EPOLLHUP or a failed write does;
 * - an error that ends the connection is delivered first;
 * - a connection is freed only as the last act of one of its own callbacks.
 */

#include "daemon/rpc/conn.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "daemon/log.h"
#include "proto/deadline.h"
#include "proto/limits.h"

#define READ_ROUND    (64 * 1024)
#define RUN_USEC      500 /* for the lines of all connections of a uid */
#define LINES_PER_RUN 64
#define LINGER_USEC   (5 * USEC_PER_SEC) /* for reading the last answer of a closing connection */
#define DISCARD_MAX   (64 * MIB)         /* input discarded while closing */
#define OUT_HALF      (LIMIT_CONN_OUT_BYTES / 2)
#define OUT_NOTIFY    (LIMIT_CONN_OUT_BYTES / 8) /* above it progress is dropped */

static void set_stall(struct conn *c, uint64_t usec)
{
	if (sd_event_source_set_time_relative(c->stall, usec) < 0 ||
		sd_event_source_set_enabled(c->stall, SD_EVENT_ONESHOT) < 0)
		c->broken = true;
}

/* Sets the epoll events for what this connection can do next. */
static void rearm(struct conn *c)
{
	uint32_t events = 0;
	/* Lines are left for the next run: wait for EPOLLOUT, which a socket with room reports at
	 * once, after the events of all other connections. A defer source would run before them,
	 * because sd-event counts it as the oldest. */
	if (buf_len(&c->out) > 0 || c->more)
		events |= EPOLLOUT;
	bool reads = c->state == CONN_CLOSING ||
		     (c->state == CONN_OPEN && buf_len(&c->in) <= LIMIT_REQUEST_BYTES &&
			     buf_len(&c->out) <= OUT_HALF);
	if (reads && !c->input_ended && !c->receipt)
		events |= EPOLLIN;
	int r = sd_event_source_set_io_events(c->io, events);
	if (r < 0) {
		log_uid(LOG_ERR, r, c->peer.uid, "cannot watch a client's socket");
		c->broken = true;
		conn_schedule(c);
	}
}

void conn_schedule(struct conn *c)
{
	/* work() checks everything itself before it ends. */
	if (!c->handling)
		(void)sd_event_source_set_enabled(c->work, SD_EVENT_ONESHOT);
}

int conn_send_text(struct conn *c, const struct iovec *parts, size_t n_parts)
{
	size_t n = 1;
	for (size_t i = 0; i < n_parts; i++)
		n += parts[i].iov_len;
	if (n > LIMIT_REPLY_BYTES)
		return -EMSGSIZE;
	uint8_t *p = buf_reserve(&c->out, n);
	if (!p)
		return -errno;
	for (size_t i = 0; i < n_parts; i++)
		p = mempcpy(p, parts[i].iov_base, parts[i].iov_len);
	*p = '\n';
	buf_commit(&c->out, n);
	conn_schedule(c);
	return 0;
}

int conn_send(struct conn *c, json_object *o)
{
	size_t n = 0;
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
	if (!text)
		return -ENOMEM;
	return conn_send_text(c, &(struct iovec){ (void *)(uintptr_t)text, n }, 1);
}

void conn_notify(struct conn *c, json_object *o)
{
	if (buf_len(&c->out) <= OUT_NOTIFY)
		(void)conn_send(c, o); /* a notification may be dropped */
}

static void end_calls(struct conn *c)
{
	struct call *call;
	while ((call = TAILQ_FIRST(&c->calls)))
		call_conn_closed(call);
}

static struct receivers *receivers_of(struct conn *c)
{
	return server_manager(c->server)->receivers;
}

static void drop_fds(struct conn *c)
{
	for (size_t i = 0; i < c->fds.n; i++)
		receivers_close(receivers_of(c), c->fds.fds[i], true);
	fd_queue_init(&c->fds);
}

/* Discards input from now on, so that the client can finish writing and read the error. */
static void start_closing(struct conn *c)
{
	end_calls(c);
	c->state = CONN_CLOSING;
	buf_clear(&c->in);
	drop_fds(c);
	set_stall(c, LINGER_USEC);
	conn_schedule(c);
}

void conn_refuse(struct conn *c, json_object *id, int number, const struct error *err, bool close)
{
	_cleanup_json_ json_object *o = json_object_new_object(),
				   *e = json_error_object_as(err, number);
	if (!o || !e || json_add_str(o, "jsonrpc", "2.0") < 0 ||
		json_add(o, "id", json_object_get(id)) < 0 ||
		json_add(o, "error", TAKE_PTR(e)) < 0 || conn_send(c, o) < 0) {
		c->broken = true;
		conn_schedule(c);
		return;
	}
	if (close)
		start_closing(c);
}

static void refuse_line(struct conn *c, const char *what, const char *fix)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	(void)error_set(&err, ERROR_INVALID_ARGUMENT, NULL, fix, "%s", what);
	conn_refuse(c, NULL, JSON_RPC_INVALID_REQUEST, &err, true);
}

/* Refuses descriptors because the uid's receivers are stuck, or because all receivers are busy. */
static void refuse_descriptors(struct conn *c)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	(void)error_set(&err, ERROR_QUOTA_EXCEEDED,
		"descriptors sent earlier cannot be closed, or too many users send descriptors "
		"at once",
		"close the descriptors that you sent, and try again in a second",
		"uid %u can pass no descriptors now", c->peer.uid);
	conn_refuse(c, NULL, JSON_RPC_OTHER, &err, true);
}

/* Returns the length of the next line without its newline, -EAGAIN when it is incomplete, or
 * -EMSGSIZE when it is too long. */
static ssize_t next_line(struct conn *c)
{
	size_t n = buf_len(&c->in), limit = LIMIT_REQUEST_BYTES;
	const uint8_t *head = buf_head(&c->in), *newline = NULL;
	if (n > c->searched)
		newline = memchr(head + c->searched, '\n', n - c->searched);
	size_t line = newline ? (size_t)(newline - head) : n;
	if (line > limit)
		return -EMSGSIZE;
	if (newline || (c->state == CONN_EOF && n > 0))
		return (ssize_t)line;
	c->searched = n;
	return -EAGAIN;
}

/* Handles one line. False when there is none, or none may be handled now. */
static bool work_one(struct conn *c)
{
	if (c->broken || c->state == CONN_CLOSING || buf_len(&c->out) > OUT_HALF)
		return false;
	ssize_t n = next_line(c);
	if (n == -EMSGSIZE) {
		refuse_line(c, "a request line is longer than 1 MiB",
			"send bulk data through a descriptor");
		return false;
	}
	if (n < 0)
		return false;
	dispatch_line(c, (const char *)buf_head(&c->in), (size_t)n);
	if (c->state != CONN_CLOSING) {
		buf_consume(&c->in, MIN_OF((size_t)n + 1, buf_len(&c->in)));
		c->searched = 0;
	}
	return true;
}

/* True when nothing more can happen on this connection. */
static bool finished(struct conn *c)
{
	if (c->broken)
		return true;
	if (buf_len(&c->out) > 0)
		return false;
	if (c->state == CONN_CLOSING)
		return c->input_ended || c->discarded > DISCARD_MAX;
	return c->state == CONN_EOF && buf_len(&c->in) == 0 && c->n_calls == 0;
}

/* Writes until the client's socket is full. The client has DEADLINE_STALL to read when output is
 * left over, or when its next lines must wait for room in the socket. */
static void write_output(struct conn *c, bool lines_handled)
{
	ssize_t n = buf_len(&c->out) > 0 ? buf_write_fd(&c->out, c->fd) : 0;
	bool unread = buf_len(&c->out) > 0, waits = unread || c->more;
	bool moved = n > 0 || (!unread && lines_handled);

	if (n < 0 && n != -EAGAIN) {
		c->broken = true;
		return;
	}
	if (c->state == CONN_CLOSING)
		return; /* keep the linger deadline */
	if (waits && (moved || !c->stalled))
		set_stall(c, deadline_usec(DEADLINE_STALL));
	else if (!waits && c->stalled)
		(void)sd_event_source_set_enabled(c->stall, SD_EVENT_OFF);
	c->stalled = waits;
}

/* Handles the buffered lines and writes the answers. Frees the connection when it is finished. */
static void work(struct conn *c)
{
	/* The connections of a uid share the budget of one run, so that their number does not delay
	 * other uids. A slow line counts by the time that it takes: after one that takes more than a
	 * run has, all of them rest for as long, so that others wait for one such line at most. */
	size_t lines = 0, share = MAX_OF(LINES_PER_RUN / c->siblings, (size_t)1);
	uint64_t now = now_usec(), end = now + RUN_USEC / c->siblings, begin;

	if (now < c->not_before)
		share = 0;
	c->handling = true;
	while (lines < share && work_one(c)) {
		lines++;
		begin = now;
		now = now_usec();
		if (now >= end)
			share = lines;
		if (now - begin > RUN_USEC)
			server_rest(c->server, c->peer.account, 2 * now - begin);
	}
	if (c->state != CONN_CLOSING && buf_len(&c->in) == 0 && c->fds.n > 0)
		refuse_line(c, "descriptors came with a line that does not announce them",
			"put \"fds\": n into the line to which they belong");
	c->more = (lines == share || buf_len(&c->out) > OUT_HALF) && next_line(c) != -EAGAIN;
	if (!c->broken)
		write_output(c, lines > 0);
	c->handling = false;
	if (c->state == CONN_CLOSING && buf_len(&c->out) == 0)
		(void)shutdown(c->fd, SHUT_WR); /* fails only after EPOLLHUP */
	if (finished(c)) {
		conn_free(c);
		return;
	}
	rearm(c);
}

static int on_work(_unused_ sd_event_source *s, void *userdata)
{
	work(userdata);
	return 0;
}

static int on_stall(_unused_ sd_event_source *s, _unused_ uint64_t usec, void *userdata)
{
	struct conn *c = userdata;
	if (c->state != CONN_CLOSING)
		server_log_client(
			c->peer.uid, c->peer.pid, "dropped", "it does not read its replies");
	conn_free(c);
	return 0;
}

/* Discards input of a closing connection, up to the first descriptor. */
static void discard_input(struct conn *c)
{
	static uint8_t nowhere[READ_ROUND];
	ssize_t n = receivers_read(receivers_of(c), c->fd, false, nowhere, sizeof(nowhere));
	if (n > 0)
		c->discarded += (size_t)n;
	else if (n != -EAGAIN)
		c->input_ended = true;
}

/* Handles the result of a read by pyrod or by a receiver. The bytes are already queued. */
static void input_read(struct conn *c, ssize_t n)
{
	if (n > 0 || n == -EAGAIN)
		return;
	if (n == 0) {
		c->input_ended = true;
		c->state = CONN_EOF;
	} else if (n == -ETOOMANYREFS) {
		refuse_line(c, "too many descriptors at once", "send at most 4 with a line");
	} else if (n == -EBUSY || n == -ETIMEDOUT) {
		refuse_descriptors(c);
	} else {
		c->broken = true;
	}
}

/* Queues what a receiver has read. The limit on waiting descriptors keeps connections from using up
 * the daemon's. */
static ssize_t queue_received(struct conn *c, struct received *rc)
{
	int r = 0;
	if (rc->error < 0)
		return rc->error;
	if (rc->n_fds > LIMIT_FDS_WAITING - c->fds.n)
		return -ETOOMANYREFS;
	if (rc->n > 0)
		put_bytes(&c->in, rc->bytes, rc->n, &r);
	if (r < 0)
		return r;
	for (size_t i = 0; i < rc->n_fds; i++)
		c->fds.fds[c->fds.n++] = TAKE_FD(rc->fds[i]);
	return (ssize_t)rc->n;
}

static void on_received(struct received *rc, void *userdata)
{
	struct conn *c = userdata;
	c->receipt = NULL;
	if (c->state == CONN_OPEN)
		input_read(c, queue_received(c, rc));
	work(c);
}

static void read_input(struct conn *c)
{
	if (c->state == CONN_CLOSING) {
		discard_input(c);
		return;
	}
	uint8_t *at = buf_reserve(&c->in, READ_ROUND);
	ssize_t n = at ? receivers_read(receivers_of(c), c->fd, false, at, READ_ROUND) : -ENOMEM;
	if (n == RECEIVERS_FDS) {
		const struct receiver_user user = { c->peer.uid, c->peer.account };
		n = receipt_new(
			receivers_of(c), &user, c->fd, READ_ROUND, on_received, c, &c->receipt);
		n = n < 0 ? n : -EAGAIN;
	}
	if (n > 0)
		buf_commit(&c->in, (size_t)n);
	input_read(c, n);
}

static int on_io(_unused_ sd_event_source *s, _unused_ int fd, uint32_t revents, void *userdata)
{
	struct conn *c = userdata;
	if (revents & (EPOLLHUP | EPOLLERR)) {
		conn_free(c);
		return 0;
	}
	if (revents & EPOLLIN)
		read_input(c);
	work(c);
	return 0;
}

static int add_sources(struct conn *c, sd_event *event)
{
	int r = sd_event_add_io(event, &c->io, c->fd, EPOLLIN, on_io, c);
	if (r < 0)
		return r;
	r = sd_event_add_defer(event, &c->work, on_work, c);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(c->work, SD_EVENT_OFF);
	if (r < 0)
		return r;
	r = sd_event_add_time_relative(event, &c->stall, CLOCK_MONOTONIC,
		deadline_usec(DEADLINE_STALL), USEC_PER_SEC, on_stall, c);
	if (r < 0)
		return r;
	return sd_event_source_set_enabled(c->stall, SD_EVENT_OFF);
}

int conn_new(struct server *s, int fd, const struct peer *p, struct conn **ret)
{
	struct conn *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct conn){
		.server = s,
		.fd = fd,
		.peer = *p,
	};
	TAILQ_INIT(&c->calls);
	buf_init(&c->in, LIMIT_REQUEST_BYTES + READ_ROUND);
	buf_init(&c->out, LIMIT_CONN_OUT_BYTES);
	fd_queue_init(&c->fds);
	server_add(s, c);
	int r = add_sources(c, server_manager(s)->event);
	if (r < 0) {
		c->fd = -EBADF; /* stays owned by the caller */
		conn_free(c);
		return r;
	}
	*ret = c;
	return 0;
}

struct conn *conn_free(struct conn *c)
{
	if (!c)
		return NULL;
	server_remove(c->server, c);
	end_calls(c);
	sd_event_source_disable_unref(c->io);
	sd_event_source_disable_unref(c->work);
	sd_event_source_disable_unref(c->stall);
	c->receipt = receipt_free(c->receipt);
	buf_done(&c->in);
	buf_done(&c->out);
	drop_fds(c);
	receivers_close(receivers_of(c), TAKE_FD(c->fd), false);
	free(c);
	return NULL;
}
