/* SPDX-License-Identifier: MIT */
/*
 * The part of QMP that pyrod uses: greeting, qmp_capabilities, commands with a reply callback,
 * events. Owned by the object of a driver. What must stay true: no command is sent before the
 * greeting; once closed, no command is accepted, every pending one has been answered with an error,
 * and on_closed has been called.
 */
#include "daemon/vmm/qmp.h"

#include <assert.h>
#include <sys/socket.h>

#include "daemon/log.h"
#include "proto/buf.h"
#include "proto/json.h"

enum {
	QMP_LINE_BYTES = 256 * 1024,
	QMP_OUT_BYTES = 64 * 1024,
	QMP_PENDING_MAX = 16,
	QMP_READ_BYTES = 64 * 1024, /* per iteration of the loop */
	QMP_DESC_BYTES = 256,
	QMP_VERSION_BYTES = 128,
};

/* A QEMU taken over by its guest must not block the loop: after this time no further message is
 * handled in an iteration. */
#define QMP_TURN_USEC 40

static const struct json_limits qmp_limits = {
	.max_bytes = QMP_LINE_BYTES,
	.max_depth = 16,
	.max_values = 10000,
};

struct qmp_pending {
	bool used;
	int32_t id;
	qmp_reply_fn fn;
	void *userdata;
};

enum qmp_state { QMP_GREETING, QMP_NEGOTIATING, QMP_READY, QMP_CLOSED, QMP_STATE_MAX };

struct qmp {
	enum qmp_state state;
	int fd;                         /* owned */
	sd_event_source *io_source;     /* owned */
	const struct qmp_callbacks *cb; /* borrowed: static of the driver */
	void *userdata;
	struct buf in, out;
	size_t scanned;         /* bytes of `in` without a newline */
	bool more;              /* `in` may hold complete lines to handle before reading */
	sd_event_source *again; /* owned; handles them in the next iteration */
	int32_t next_id;
	struct qmp_pending pending[QMP_PENDING_MAX];
	unsigned depth; /* callbacks on the stack */
	char version[QMP_VERSION_BYTES];
};

const char *qmp_str(json_object *o, const char *key, const char *dflt)
{
	json_object *v;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return dflt;
	return json_object_is_type(v, json_type_string) ? json_object_get_string(v) : dflt;
}

bool qmp_bool(json_object *o, const char *key, bool dflt)
{
	json_object *v;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return dflt;
	return json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) : dflt;
}

static json_object *member(json_object *o, const char *key, enum json_type type)
{
	json_object *v;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, type))
		return NULL;
	return v;
}

struct qmp *qmp_free(struct qmp *q)
{
	if (!q)
		return NULL;
	assert(q->depth == 0);
	sd_event_source_disable_unref(q->io_source);
	sd_event_source_disable_unref(q->again);
	buf_done(&q->in);
	buf_done(&q->out);
	(void)fd_close(q->fd);
	free(q);
	return NULL;
}

static void answer(struct qmp *q, struct qmp_pending *p, int r, json_object *ret, const char *desc)
{
	const struct qmp_pending call = *p;

	p->used = false;
	q->depth++;
	call.fn(q, r, ret, desc, call.userdata);
	q->depth--;
}

static void close_with(struct qmp *q, int r, const char *what)
{
	if (q->state == QMP_CLOSED)
		return;
	q->state = QMP_CLOSED;
	q->io_source = sd_event_source_disable_unref(q->io_source);
	q->again = sd_event_source_disable_unref(q->again);
	q->fd = fd_close(q->fd);
	for (size_t i = 0; i < QMP_PENDING_MAX; i++)
		if (q->pending[i].used)
			answer(q, &q->pending[i], -ECONNRESET, NULL, what);
	q->depth++;
	q->cb->on_closed(q, r, what, q->userdata);
	q->depth--;
}

static void watch(struct qmp *q)
{
	if (q->state == QMP_CLOSED)
		return;
	(void)sd_event_source_set_io_events(
		q->io_source, (q->more ? 0u : EPOLLIN) | (buf_len(&q->out) > 0 ? EPOLLOUT : 0u));
	(void)sd_event_source_set_enabled(q->again, q->more ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static void flush(struct qmp *q)
{
	ssize_t n = 0;

	while (q->state != QMP_CLOSED && buf_len(&q->out) > 0) {
		n = send(q->fd, buf_head(&q->out), buf_len(&q->out), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			close_with(q, -errno, "cannot write to QEMU's control socket");
			return;
		}
		buf_consume(&q->out, (size_t)n);
	}
	watch(q);
}

static int build_command(const char *command, json_object *args, int32_t id, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	int r;

	if (!o)
		return -ENOMEM;
	r = json_add_str(o, "execute", command);
	if (r >= 0 && args)
		r = json_add(o, "arguments", json_object_get(args));
	if (r >= 0)
		r = json_add_int(o, "id", id);
	if (r >= 0)
		*ret = TAKE_PTR(o);
	return r;
}

static int queue_command(struct qmp *q, json_object *o)
{
	size_t n;
	const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &n);
	int r;

	if (!text)
		return -ENOMEM;
	if (buf_len(&q->out) + n + 1 > QMP_OUT_BYTES)
		return -ENOBUFS;
	r = buf_append(&q->out, text, n);
	return r < 0 ? r : buf_append(&q->out, "\n", 1);
}

int qmp_execute(
	struct qmp *q, const char *command, json_object *args, qmp_reply_fn fn, void *userdata)
{
	_cleanup_json_ json_object *o = NULL;
	struct qmp_pending *p = NULL;
	int r;

	if (q->state == QMP_CLOSED)
		return -ENOTCONN;
	for (size_t i = 0; i < QMP_PENDING_MAX && !p; i++)
		if (!q->pending[i].used)
			p = &q->pending[i];
	if (!p)
		return -EBUSY;
	r = build_command(command, args, q->next_id, &o);
	if (r < 0)
		return r;
	r = queue_command(q, o);
	if (r < 0)
		return r;
	*p = (struct qmp_pending){ true, q->next_id, fn, userdata };
	q->next_id = q->next_id == INT32_MAX ? 1 : q->next_id + 1;
	flush(q);
	return 0;
}

static void on_capabilities(struct qmp *q, int r, json_object *ret _unused_,
	const char *desc _unused_, void *userdata _unused_)
{
	if (r == -EREMOTEIO)
		close_with(q, -EPROTO, "QEMU refused qmp_capabilities");
	else if (r >= 0)
		q->state = QMP_READY;
}

static int number(json_object *o, const char *key)
{
	return json_object_get_int(member(o, key, json_type_int));
}

/* {"qemu": {"major": 10, "minor": 0, "micro": 13}, "package": "Debian ..."}; both may be absent. */
static void keep_version(struct qmp *q, json_object *greeting)
{
	json_object *version = member(greeting, "version", json_type_object);
	json_object *n = version ? member(version, "qemu", json_type_object) : NULL;
	const char *package = qmp_str(version, "package", "");
	char text[QMP_VERSION_BYTES];

	if (!n)
		return;
	(void)snprintf(text, sizeof(text), package[0] ? "%d.%d.%d (%s)" : "%d.%d.%d",
		number(n, "major"), number(n, "minor"), number(n, "micro"), package);
	(void)log_escape(text, strlen(text), q->version, sizeof(q->version));
}

const char *qmp_version(const struct qmp *q)
{
	return q->version;
}

static void greeted(struct qmp *q, json_object *o)
{
	json_object *greeting = member(o, "QMP", json_type_object);
	int r;

	if (!greeting) {
		close_with(q, -EPROTO, "QEMU's control socket sent no greeting");
		return;
	}
	keep_version(q, greeting);
	q->state = QMP_NEGOTIATING;
	r = qmp_execute(q, "qmp_capabilities", NULL, on_capabilities, NULL);
	if (r < 0)
		close_with(q, r, "cannot use QEMU's control socket");
	if (q->state == QMP_CLOSED)
		return;
	q->depth++;
	q->cb->on_greeting(q, q->userdata);
	q->depth--;
}

static struct qmp_pending *find_pending(struct qmp *q, json_object *o)
{
	json_object *id = member(o, "id", json_type_int);

	for (size_t i = 0; id && i < QMP_PENDING_MAX; i++)
		if (q->pending[i].used && q->pending[i].id == json_object_get_int64(id))
			return &q->pending[i];
	return NULL;
}

/* Handles one message; ignores all but events and answers to pending commands. */
static void handle(struct qmp *q, json_object *o)
{
	const char *event = qmp_str(o, "event", NULL);
	json_object *value = NULL, *error;
	struct qmp_pending *p;
	char desc[QMP_DESC_BYTES];

	if (q->state == QMP_GREETING) {
		greeted(q, o);
		return;
	}
	if (event) {
		/* QEMU sends no events before it is ready: ignore them. */
		if (q->state != QMP_READY)
			return;
		q->depth++;
		q->cb->on_event(q, event, member(o, "data", json_type_object), q->userdata);
		q->depth--;
		return;
	}
	p = find_pending(q, o);
	if (!p)
		return;
	error = member(o, "error", json_type_object);
	if (error) {
		const char *text = qmp_str(error, "desc", "no description");

		(void)log_escape(text, strlen(text), desc, sizeof(desc));
		answer(q, p, -EREMOTEIO, NULL, desc);
	} else if (json_object_object_get_ex(o, "return", &value)) {
		answer(q, p, 0, value, NULL);
	}
}

static void handle_line(struct qmp *q, const char *line, size_t n)
{
	_cleanup_json_ json_object *o = NULL;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r;

	if (n > 0 && line[n - 1] == '\r')
		n--;
	r = json_parse(line, n, &qmp_limits, &o, &err);
	if (r >= 0 && !json_object_is_type(o, json_type_object))
		r = -EBADMSG;
	if (r < 0)
		close_with(q, r, "QEMU's control socket does not speak QMP");
	else
		handle(q, o);
}

/* Handles complete lines in the buffer until end_usec, at least one. */
static void handle_lines(struct qmp *q, uint64_t end_usec)
{
	q->more = false;
	while (q->state != QMP_CLOSED && !q->more) {
		const char *p = (const char *)buf_head(&q->in), *newline;
		size_t n = buf_len(&q->in);

		newline = n > q->scanned ? memchr(p + q->scanned, '\n', n - q->scanned) : NULL;
		if (!newline) {
			q->scanned = n;
			if (n >= QMP_LINE_BYTES)
				close_with(
					q, -EMSGSIZE, "QEMU's control socket sent an endless line");
			return;
		}
		n = (size_t)(newline - p);
		q->scanned = 0;
		handle_line(q, p, n);
		buf_consume(&q->in, n + 1);
		q->more = now_usec() >= end_usec;
	}
}

/* Reads once and handles lines until end_usec. Returns true if there may be more. */
static bool read_some(struct qmp *q, uint64_t end_usec)
{
	size_t room = QMP_LINE_BYTES - buf_len(&q->in);
	ssize_t n = buf_read_fd(&q->in, q->fd, MIN_OF(room, (size_t)QMP_READ_BYTES));

	if (n == -EAGAIN || n == -EINTR)
		return false;
	if (n <= 0) {
		close_with(q, n < 0 ? (int)n : -ECONNRESET, "QEMU closed its control socket");
		return false;
	}
	handle_lines(q, end_usec);
	return q->state != QMP_CLOSED;
}

void qmp_drain(struct qmp *q)
{
	/* No time limit: the socket's buffer bounds what a dead peer can have sent. */
	handle_lines(q, UINT64_MAX);
	while (q->state != QMP_CLOSED && read_some(q, UINT64_MAX))
		;
}

static int on_io(sd_event_source *s _unused_, int fd _unused_, uint32_t revents, void *userdata)
{
	struct qmp *q = userdata;

	if (revents & EPOLLOUT)
		flush(q);
	if (q->state != QMP_CLOSED && !q->more && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		(void)read_some(q, now_usec() + QMP_TURN_USEC);
	watch(q);
	return 0;
}

/* A timer, since a defer source that enables itself again would run before all other sources. */
static int on_again(sd_event_source *s _unused_, uint64_t usec _unused_, void *userdata)
{
	struct qmp *q = userdata;

	handle_lines(q, now_usec() + QMP_TURN_USEC);
	watch(q);
	return 0;
}

int qmp_new(
	sd_event *event, int fd, const struct qmp_callbacks *cb, void *userdata, struct qmp **ret)
{
	_cleanup_(qmp_freep) struct qmp *q = calloc(1, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	q->fd = -EBADF;
	q->cb = cb;
	q->userdata = userdata;
	q->next_id = 1;
	buf_init(&q->in, QMP_LINE_BYTES);
	buf_init(&q->out, QMP_OUT_BYTES);
	r = sd_event_add_io(event, &q->io_source, fd, EPOLLIN, on_io, q);
	if (r < 0)
		return r;
	r = sd_event_add_time(event, &q->again, CLOCK_MONOTONIC, 0, 1, on_again, q);
	if (r >= 0)
		r = sd_event_source_set_enabled(q->again, SD_EVENT_OFF);
	if (r < 0)
		return r;
	q->fd = fd;
	*ret = TAKE_PTR(q);
	return 0;
}
