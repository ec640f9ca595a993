/* SPDX-License-Identifier: MIT */
/*
 * libpyro: one connection to pyrod, its calls and their answers. The CLI, the MCP shim and other
 * programs link it. Input from the daemon is held to the limits of proto/limits.h and parsed
 * strictly; input that is not understood ends the connection. A call is answered exactly once: by
 * its reply, or by the error of the lost connection, which is final. If a call that changes state
 * was pending, that error is outcome_unknown, because the client cannot tell whether the call was
 * carried out.
 */
#include "client/pyro.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "client/dial.h"
#include "client/place.h"
#include "proto/api.h"
#include "proto/buf.h"
#include "proto/fdpass.h"
#include "proto/json.h"
#include "proto/limits.h"

#define READ_CHUNK        (64 * 1024)
#define SEND_TIMEOUT_MSEC 5000 /* for the daemon to take a request */

struct pending {
	int64_t id; /* 0: free */
	bool read_only;
	bool unwanted;  /* the answer is dropped: a cancel, or a call that was given up */
	bool workspace; /* on a workspace, not a machine */
};

struct queued {
	struct pyro_event event; /* owned */
	TAILQ_ENTRY(queued) entry;
};

struct pyro {
	struct dialled to; /* owned */
	char *info;        /* owned: the ping's result */
	struct buf in;     /* owned */
	size_t scanned;    /* bytes of `in` without a newline */
	int64_t last_id;
	struct pending pending[LIMIT_IN_FLIGHT];
	TAILQ_HEAD(, queued) queue; /* events of other calls, received in pyro_call() */
	struct error lost;          /* set: the connection is closed */
	bool refused;               /* lost holds the daemon's own error */
	bool closed;                /* lost: the other end closed the connection */
};

void pyro_error_free(struct pyro_error *e)
{
	if (!e)
		return;
	free(e->code);
	free(e->message);
	free(e->cause);
	free(e->fix);
	free(e);
}

/* Makes the public form; NULL when out of memory. Consumes err's texts. */
static struct pyro_error *public_error(struct error *err)
{
	struct pyro_error *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	if (err->code == ERROR_INTERNAL)
		error_default_fix(err, "pyro --version, and report the error with its output");
	e->code = strdup(error_code_name(err->set ? err->code : ERROR_INTERNAL));
	e->message = err->message ? TAKE_PTR(err->message) : strdup("out of memory");
	e->cause = TAKE_PTR(err->cause);
	e->fix = TAKE_PTR(err->fix);
	e->retryable = err->set && error_code_retryable(err->code);
	error_clear(err);
	if (!e->code || !e->message) {
		pyro_error_free(e);
		return NULL;
	}
	return e;
}

static int give_error(struct error *err, int r, struct pyro_error **ret)
{
	if (!err->set)
		error_set_errno(err, error_code_for_errno(r), r, NULL, "the call failed");
	if (ret)
		*ret = public_error(err);
	else
		error_clear(err);
	return r;
}

void pyro_event_done(struct pyro_event *e)
{
	free(TAKE_PTR(e->progress));
	free(TAKE_PTR(e->result));
	pyro_error_free(TAKE_PTR(e->error));
}

void pyro_free(struct pyro *p)
{
	struct queued *q;

	if (!p)
		return;
	while ((q = TAILQ_FIRST(&p->queue))) {
		TAILQ_REMOVE(&p->queue, q, entry);
		pyro_event_done(&q->event);
		free(q);
	}
	dialled_done(&p->to);
	free(p->info);
	buf_done(&p->in);
	error_clear(&p->lost);
	free(p);
}
DEFINE_CLEANUP(struct pyro *, pyro_free)

static struct pending *find_pending(struct pyro *p, int64_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(p->pending); i++)
		if (p->pending[i].id == id)
			return &p->pending[i];
	return NULL;
}

/* Ends the connection; the error stays for every later call. why: the error's cause. */
static int lose(struct pyro *p, const char *why)
{
	const struct pending *unknown = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(p->pending); i++)
		if (p->pending[i].id && !p->pending[i].read_only && !p->pending[i].unwanted)
			unknown = &p->pending[i];
	if (unknown)
		return error_set(&p->lost, ERROR_OUTCOME_UNKNOWN, why,
			unknown->workspace ? "pyro workspace list" : "pyro vm list",
			"the connection to pyrod at %s was lost; the call may or may not have "
			"been carried out",
			p->to.path);
	return error_set(&p->lost, ERROR_DAEMON_UNREACHABLE, why, "pyro doctor",
		"the connection to pyrod at %s was lost", p->to.path);
}

/* Reads into `in`. Returns the bytes read, 0 at the end, -EAGAIN (no data or no room) or -errno. */
static ssize_t read_some(struct pyro *p)
{
	ssize_t n;

	if (buf_len(&p->in) > LIMIT_REPLY_BYTES)
		return -EAGAIN;
	n = buf_read_fd(&p->in, p->to.fd, READ_CHUNK);
	return n == -EINTR ? -EAGAIN : n;
}

static char *json_text(json_object *o, size_t *ret_n)
{
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, ret_n);

	return text ? strndup(text, *ret_n) : NULL;
}

/* Converts the error member of a reply. */
static struct pyro_error *reply_error(json_object *o)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (json_error_parse(o, &err) < 0)
		error_internal(
			&err, "its error object cannot be read", "pyrod answered with an error");
	return public_error(&err);
}

static int64_t member_id(json_object *o, const char *key)
{
	json_object *v = json_get(o, key);

	return json_object_is_type(v, json_type_int) ? json_object_get_int64(v) : 0;
}

/* Returns 1 with *ret filled, 0 if the reply is unwanted, or the error of the lost connection. */
static int take_reply(struct pyro *p, json_object *o, struct pyro_event *ret)
{
	json_object *result = NULL, *error = json_get(o, "error");
	bool has_result = json_object_object_get_ex(o, "result", &result);
	int64_t id = member_id(o, "id");
	struct pending *call = id > 0 ? find_pending(p, id) : NULL;
	size_t n;

	if (!call && error && id == 0) {
		p->refused = json_error_parse(error, &p->lost) >= 0;
		return lose(p, "the daemon refused a request");
	}
	if (!call || has_result == (error != NULL))
		return lose(
			p, "the daemon answered a call that was not made, or violated JSON-RPC");
	call->id = 0;
	if (call->unwanted)
		return 0;
	*ret = (struct pyro_event){ .id = id, .done = true };
	if (error)
		ret->error = reply_error(error);
	else
		ret->result = json_text(result, &n);
	if (!ret->error && !ret->result)
		return -ENOMEM;
	return 1;
}

static int take_progress(struct pyro *p, json_object *params, struct pyro_event *ret)
{
	int64_t id = member_id(params, "call");
	struct pending *call = id > 0 ? find_pending(p, id) : NULL;
	size_t n;

	/* Progress may still arrive for a call that was answered or given up. */
	if (!call || call->unwanted)
		return 0;
	*ret = (struct pyro_event){ .id = id, .progress = json_text(params, &n) };
	return ret->progress ? 1 : -ENOMEM;
}

static int take_line(struct pyro *p, const char *line, size_t n, struct pyro_event *ret)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	json_object *method, *params;

	if (json_parse(line, n, &json_limits_reply, &o, &err) < 0)
		return lose(p, err.message ? err.message : "the daemon sent what is not JSON");
	if (!json_object_is_type(o, json_type_object))
		return lose(p, "the daemon sent what is not JSON-RPC");
	method = json_get(o, "method");
	if (!method)
		return take_reply(p, o, ret);
	params = json_get(o, "params");
	if (!json_object_is_type(method, json_type_string) ||
		!streq(json_object_get_string(method), "progress") ||
		!json_object_is_type(params, json_type_object))
		return 0;
	return take_progress(p, params, ret);
}

/* Parses the next event in `in`. Returns 1, 0 if there is none, or -errno. */
static int next_event(struct pyro *p, struct pyro_event *ret)
{
	for (;;) {
		const uint8_t *head = buf_head(&p->in), *end;
		size_t n = buf_len(&p->in);
		int r;

		end = n > p->scanned ? memchr(head + p->scanned, '\n', n - p->scanned) : NULL;
		if (!end) {
			p->scanned = n;
			return n > LIMIT_REPLY_BYTES ? lose(p, "the daemon's answer is too long")
						     : 0;
		}
		n = (size_t)(end - head);
		r = n > LIMIT_REPLY_BYTES ? lose(p, "the daemon's answer is too long")
					  : take_line(p, (const char *)head, n, ret);
		buf_consume(&p->in, n + 1);
		p->scanned = 0;
		if (r != 0)
			return r;
	}
}

/* Copies the connection's error for one more caller. */
static int lost_error(struct pyro *p, struct pyro_error **ret)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = error_copy(&err, &p->lost);

	return give_error(&err, r < 0 ? r : -error_code_errno(p->lost.code), ret);
}

/* As pyro_process(), without the queue. Reads at most once, so that a flood of input does not keep
 * the caller from its deadlines. */
static int process(struct pyro *p, struct pyro_event *ret, struct pyro_error **ret_error)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = p->lost.set ? 0 : next_event(p, ret);

	if (r == 0 && !p->lost.set) {
		ssize_t n = read_some(p);

		if (n == -EAGAIN)
			return 0;
		p->closed = n <= 0;
		r = n > 0    ? next_event(p, ret)
		    : n == 0 ? lose(p, "the daemon closed it")
			     : lose(p, strerror((int)-n));
	}
	if (r > 0)
		return 1;
	if (p->lost.set)
		return lost_error(p, ret_error);
	return r < 0 ? give_error(&err, r, ret_error) : 0;
}

int pyro_process(struct pyro *p, struct pyro_event *ret, struct pyro_error **ret_error)
{
	struct queued *q = TAILQ_FIRST(&p->queue);

	if (!q)
		return process(p, ret, ret_error);
	TAILQ_REMOVE(&p->queue, q, entry);
	*ret = q->event;
	free(q);
	return 1;
}

/* Queues an event of another call for pyro_process(); drops progress. */
static int keep_event(struct pyro *p, struct pyro_event *e)
{
	struct queued *q;

	if (!e->done) {
		pyro_event_done(e);
		return 0;
	}
	q = calloc(1, sizeof(*q));
	if (!q) {
		pyro_event_done(e);
		return -ENOMEM;
	}
	q->event = *e;
	TAILQ_INSERT_TAIL(&p->queue, q, entry);
	return 0;
}

/* Handles a failed send. Reads what the daemon sent before, because that may name the reason. */
static int lose_sending(struct pyro *p, const char *why, struct error *err)
{
	struct pyro_event e;

	while (read_some(p) > 0)
		;
	while (!p->lost.set && next_event(p, &e) > 0)
		if (keep_event(p, &e) < 0)
			break;
	if (!p->lost.set)
		lose(p, why);
	return error_copy(err, &p->lost) < 0 ? -ENOMEM : -error_code_errno(p->lost.code);
}

/* Waits until the socket takes more. Reads meanwhile, since the daemon may wait for that. */
static int wait_writable(struct pyro *p, uint64_t deadline, struct error *err)
{
	for (;;) {
		struct pollfd pfd = { .fd = p->to.fd, .events = POLLOUT };
		uint64_t now = now_usec();
		ssize_t n = -EAGAIN;
		int r;

		if (buf_len(&p->in) <= LIMIT_REPLY_BYTES)
			pfd.events |= POLLIN;
		r = now >= deadline ? 0 : poll(&pfd, 1, (int)((deadline - now) / 1000) + 1);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return place_hung(&p->to, err);
		if (pfd.revents & POLLIN)
			n = read_some(p);
		if (n == 0)
			return lose_sending(p, "the daemon closed it", err);
		if (n < 0 && n != -EAGAIN)
			return lose_sending(p, strerror((int)-n), err);
		if (pfd.revents & (POLLOUT | POLLERR | POLLHUP))
			return 0;
	}
}

static int send_line(
	struct pyro *p, const char *line, size_t n, const int *fds, size_t n_fds, struct error *err)
{
	uint64_t deadline = now_usec() + SEND_TIMEOUT_MSEC * USEC_PER_MSEC;

	while (n > 0) {
		ssize_t sent = fd_send(p->to.fd, line, n, fds, n_fds, MSG_DONTWAIT);
		int r;

		if (sent > 0) {
			line += sent;
			n -= (size_t)sent;
			n_fds = 0;
			continue;
		}
		if (sent == -EINTR)
			continue;
		if (sent != -EAGAIN)
			return lose_sending(p, strerror((int)-sent), err);
		r = wait_writable(p, deadline, err);
		if (r < 0 || err->set) {
			/* Part of the line may be sent: the connection is unusable. */
			if (!p->lost.set)
				lose(p, "the daemon did not accept a request");
			return r < 0 ? r : -EPIPE;
		}
	}
	return 0;
}

/* {"jsonrpc":"2.0","id":…,"method":…,"params":…,"fds":…} and a newline. */
static int make_request(int64_t id, const char *method, const char *params, size_t n_fds,
	struct buf *out, struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *parsed = NULL;
	const char *text;
	size_t n;
	int r;

	if (!o)
		return -ENOMEM;
	if (params) {
		r = json_parse(params, strlen(params), &json_limits_request, &parsed, err);
		if (r < 0)
			return r;
	}
	if (json_add_str(o, "jsonrpc", "2.0") < 0 || json_add_int(o, "id", id) < 0 ||
		json_add_str(o, "method", method) < 0)
		return -ENOMEM;
	if (parsed && json_add(o, "params", TAKE_PTR(parsed)) < 0)
		return -ENOMEM;
	if (n_fds > 0 && json_add_int(o, "fds", (int64_t)n_fds) < 0)
		return -ENOMEM;
	text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
	if (!text)
		return -ENOMEM;
	if (n + 1 > LIMIT_REQUEST_BYTES)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"pass large data by standard input, or in several calls",
			"the request is %zu bytes long, the limit is %d", n + 1,
			LIMIT_REQUEST_BYTES);
	r = buf_append(out, text, n);
	return r < 0 ? r : buf_append(out, "\n", 1);
}

static int64_t start(struct pyro *p, const char *method, const char *params, const int *fds,
	size_t n_fds, struct error *err)
{
	_cleanup_(buf_done) struct buf out;
	struct pending *call = find_pending(p, 0);
	int index = api_find(method), r;

	buf_init(&out, LIMIT_REQUEST_BYTES + 1);
	if (p->lost.set) {
		r = error_copy(err, &p->lost);
		return r < 0 ? r : -error_code_errno(p->lost.code);
	}
	if (n_fds > LIMIT_FDS_PER_LINE)
		return -E2BIG;
	if (!call)
		return error_set(err, ERROR_QUOTA_EXCEEDED, NULL, "wait for an answer first",
			"%d calls are in progress on this connection", LIMIT_IN_FLIGHT);
	r = make_request(p->last_id + 1, method, params, n_fds, &out, err);
	if (r < 0)
		return r;
	*call = (struct pending){ .id = ++p->last_id,
		.read_only = index >= 0 && (api_methods[index].hints & API_READ_ONLY),
		.workspace = index >= 0 && (api_methods[index].object == API_OBJ_WORKSPACE ||
						   startswith(method, "workspace.")) };
	r = send_line(p, (const char *)buf_head(&out), buf_len(&out), fds, n_fds, err);
	if (r < 0) {
		call->id = 0;
		return r;
	}
	return p->last_id;
}

int64_t pyro_call_start(struct pyro *p, const char *method, const char *params, const int *fds,
	size_t n_fds, struct pyro_error **ret_error)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int64_t r = start(p, method, params, fds, n_fds, &err);

	return r < 0 ? give_error(&err, (int)r, ret_error) : r;
}

int pyro_call_cancel(struct pyro *p, int64_t id)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char params[64];
	struct pending *call;
	int64_t r;

	if (id <= 0 || !find_pending(p, id))
		return -ENOENT;
	(void)snprintf(params, sizeof(params), "{\"id\":%" PRId64 "}", id);
	r = start(p, "cancel", params, NULL, 0, &err);
	if (r < 0)
		return (int)r;
	call = find_pending(p, r);
	if (call)
		call->unwanted = true;
	return 0;
}

/* Waits for more bytes, at most until the deadline (UINT64_MAX: none). */
static int wait_readable(struct pyro *p, uint64_t deadline)
{
	struct pollfd pfd = { .fd = p->to.fd, .events = POLLIN };
	uint64_t now = now_usec();
	int timeout = -1;

	if (deadline != UINT64_MAX)
		timeout = now >= deadline
				  ? 0
				  : (int)MIN_OF((deadline - now) / 1000 + 1, (uint64_t)INT32_MAX);
	return poll(&pfd, 1, timeout) < 0 && errno != EINTR ? -errno : 0;
}

/* Gives up a call whose answer is late: cancels it and drops its answer. */
static int give_up(struct pyro *p, int64_t id, int timeout_ms, struct pyro_error **ret_error)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct pending *call = find_pending(p, id);
	int r;

	if (call)
		call->unwanted = true;
	r = pyro_call_cancel(p, id);
	error_set(&err, ERROR_DAEMON_UNREACHABLE,
		r < 0 ? "the call could not be cancelled" : "the call was cancelled", "pyro doctor",
		"pyrod at %s did not answer within %d ms", p->to.path, timeout_ms);
	return give_error(&err, -ETIMEDOUT, ret_error);
}

int pyro_call(struct pyro *p, const char *method, const char *params, int timeout_ms,
	pyro_progress_fn on_progress, void *userdata, char **ret_result,
	struct pyro_error **ret_error)
{
	uint64_t deadline =
		timeout_ms < 0 ? UINT64_MAX : now_usec() + (uint64_t)timeout_ms * USEC_PER_MSEC;
	int64_t id = pyro_call_start(p, method, params, NULL, 0, ret_error);
	int r = id < 0 ? (int)id : 0;

	while (r >= 0) {
		struct pyro_event e = { 0 };

		r = process(p, &e, ret_error);
		if (r < 0)
			return r;
		if (r == 0) {
			r = wait_readable(p, deadline);
		} else if (e.id != id) {
			r = keep_event(p, &e);
		} else if (!e.done) {
			if (on_progress)
				on_progress(e.progress, userdata);
			pyro_event_done(&e);
		} else if (e.error) {
			r = -EIO;
			if (ret_error)
				*ret_error = TAKE_PTR(e.error);
			pyro_event_done(&e);
			return r;
		} else {
			*ret_result = TAKE_PTR(e.result);
			return 0;
		}
		if (r >= 0 && now_usec() >= deadline)
			return give_up(p, id, timeout_ms, ret_error);
	}
	return r;
}

/* Makes the first call of a connection, which shows that a daemon answers, and its version. An
 * error from the daemon itself is passed on. */
static int greet(struct pyro *p, struct error *err)
{
	struct pyro_error *e = NULL;
	enum error_code code = ERROR_DAEMON_UNREACHABLE;
	int r = pyro_call(
		p, "system.ping", NULL, DIAL_TIMEOUT_SEC * 1000, NULL, NULL, &p->info, &e);

	if (r < 0 && p->lost.set && !p->refused) {
		error_set(err, ERROR_DAEMON_UNREACHABLE, p->lost.cause, "pyro doctor",
			"the listener at %s %s", p->to.path,
			p->closed ? "closed the connection without an answer"
				  : "did not answer as pyrod does");
	} else if (r == -ETIMEDOUT && !p->refused) {
		place_hung(&p->to, err);
	} else if (r < 0) {
		if (e)
			(void)error_code_from_name(e->code, &code);
		error_set(err, code, e ? e->cause : NULL, e ? e->fix : NULL, "%s",
			e ? e->message : "pyrod did not answer");
	}
	pyro_error_free(e);
	return r;
}

static struct pyro *new_connection(void)
{
	struct pyro *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->to.fd = -EBADF;
	TAILQ_INIT(&p->queue);
	buf_init(&p->in, LIMIT_REPLY_BYTES + READ_CHUNK + 1);
	return p;
}

int pyro_connect(
	const char *socket, enum pyro_mode mode, struct pyro **ret, struct pyro_error **ret_error)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_(pyro_freep) struct pyro *p = new_connection();
	int r;

	if (!p)
		return give_error(&err, -ENOMEM, ret_error);
	r = dial(socket, (int)mode, &p->to, &err);
	if (r >= 0)
		r = greet(p, &err);
	if (r < 0)
		return give_error(&err, r, ret_error);
	*ret = TAKE_PTR(p);
	return 0;
}

int pyro_connect_again(const struct pyro *lost, struct pyro **ret, struct pyro_error **ret_error)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_(pyro_freep) struct pyro *p = new_connection();
	int r;

	if (!p)
		return give_error(&err, -ENOMEM, ret_error);
	r = dial_again(&lost->to, &p->to, &err);
	if (r >= 0)
		r = greet(p, &err);
	if (r < 0)
		return give_error(&err, r, ret_error);
	*ret = TAKE_PTR(p);
	return 0;
}

const char *pyro_socket_path(struct pyro *p)
{
	return p->to.path;
}

const char *pyro_daemon_info(struct pyro *p)
{
	return p->info;
}

int pyro_fd(struct pyro *p)
{
	return p->to.fd;
}

const char *pyro_version(void)
{
	return PYRO_VERSION;
}
