/* SPDX-License-Identifier: MIT */
/*
 * From a line to a handler: scan, request, method, parameters, descriptors, the limit on detached
 * calls, the object and the right to use it, in that order. Called by the connection.
 *
 * What must stay true:
 * - a handler runs only after all of these, so it cannot forget a check;
 * - every line with an id gets exactly one answer;
 * - a line that leaves the stream in doubt (bad UTF-8, NUL, descriptors that do not match) ends the
 *   connection.
 */

#include "daemon/account.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/rpc/call.h"
#include "daemon/rpc/conn.h"
#include "proto/limits.h"
#include "proto/utf8.h"

#define REQUEST_ID_MAX   64 /* bytes of a string id */
#define METHOD_SHOWN_MAX 60 /* bytes of an unknown method */

/* A parsed line. All members but o are borrowed from it. */
struct request {
	json_object *o; /* owned */
	json_object *id, *params;
	bool has_id;
	const char *method;
	size_t n_fds;
};

static void request_done(struct request *q)
{
	json_object_put(q->o);
}

static void refuse(
	struct conn *c, struct request *q, int number, const struct error *err, bool close)
{
	if (q->o && !q->has_id && !close)
		return; /* a notification is never answered */
	conn_refuse(c, q->id, number, err, close);
}

/* -EBADMSG with err set when the id is neither a short string nor an integer. */
static int read_id(struct request *q, struct error *err)
{
	json_object *id = NULL;
	q->has_id = json_object_object_get_ex(q->o, "id", &id);
	if (!q->has_id)
		return 0;
	bool good = json_object_is_type(id, json_type_int) ||
		    (json_object_is_type(id, json_type_string) &&
			    json_object_get_string_len(id) <= REQUEST_ID_MAX);
	if (!good) {
		(void)error_set(err, ERROR_INVALID_ARGUMENT, NULL, "number the requests: \"id\":1",
			"a request's id is an integer or a string of at most 64 bytes");
		return -EBADMSG;
	}
	q->id = id;
	return 0;
}

static int bad_member(struct error *err, const char *what)
{
	(void)error_set(err, ERROR_INVALID_ARGUMENT, NULL,
		"send {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":...,\"params\":{...}}", "%s", what);
	return -EBADMSG;
}

static int read_member(struct request *q, const char *key, json_object *val, struct error *err)
{
	if (streq(key, "id"))
		return 0; /* handled by read_id */
	if (streq(key, "jsonrpc")) {
		if (!json_object_is_type(val, json_type_string) ||
			!streq(json_object_get_string(val), "2.0"))
			return bad_member(err, "jsonrpc must be \"2.0\"");
	} else if (streq(key, "method")) {
		if (!json_object_is_type(val, json_type_string))
			return bad_member(err, "method must be a string");
		q->method = json_object_get_string(val);
	} else if (streq(key, "params")) {
		if (!json_object_is_type(val, json_type_object))
			return bad_member(err, "params must be an object");
		q->params = val;
	} else if (streq(key, "fds")) {
		int64_t n =
			json_object_is_type(val, json_type_int) ? json_object_get_int64(val) : -1;
		if (n < 0 || n > LIMIT_FDS_PER_LINE)
			return bad_member(err, "fds must be an integer from 0 to 4");
		q->n_fds = (size_t)n;
	} else {
		return bad_member(
			err, "a request has only the members jsonrpc, id, method, params and fds");
	}
	return 0;
}

static int read_request(struct request *q, struct error *err)
{
	if (json_object_is_type(q->o, json_type_array))
		return bad_member(err, "batches are not supported: send one request per line");
	if (!json_object_is_type(q->o, json_type_object))
		return bad_member(err, "a request is an object");
	int r = read_id(q, err);
	if (r < 0)
		return r;
	json_object_object_foreach(q->o, key, val)
	{
		r = read_member(q, key, val, err);
		if (r < 0)
			return r;
	}
	if (!json_get(q->o, "jsonrpc"))
		return bad_member(err, "jsonrpc is missing");
	return q->method ? 0 : bad_member(err, "method is missing");
}

/* Parses the line into a request. False when it was refused. */
static bool parse_line(struct conn *c, const char *line, size_t n, struct request *q)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	if (memchr(line, '\0', n) || !json_utf8_valid(line, n)) {
		(void)error_set(&err, ERROR_INVALID_ARGUMENT, "JSON is UTF-8 text",
			"write NUL as \\u0000, and send other bytes by stdio",
			"a request line holds NUL or is not UTF-8");
		conn_refuse(c, NULL, JSON_RPC_PARSE_ERROR, &err, true);
		return false;
	}
	/* A line that cannot be parsed does not say which descriptors belong to it. */
	bool in_doubt = c->fds.n > 0;
	if (json_parser_run(server_parser(c->server), line, n, &q->o, &err) < 0) {
		conn_refuse(c, NULL, JSON_RPC_PARSE_ERROR, &err, in_doubt);
		return false;
	}
	if (read_request(q, &err) < 0) {
		conn_refuse(c, q->id, JSON_RPC_INVALID_REQUEST, &err, in_doubt);
		return false;
	}
	return true;
}

struct call *dispatch_find(struct conn *c, json_object *id)
{
	struct call *call;
	TAILQ_FOREACH (call, &c->calls, entry)
		if (call->id && json_object_equal(call->id, id))
			return call;
	return NULL;
}

/* Accepts only stream sockets between the caller's own processes and pyrod, as checked by the
 * receiver. Otherwise pyrod would read with rights that the caller lacks, or lend the caller its
 * uid. */
static int check_fds(struct call *c, struct error *err)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (c->fds[i] < 0)
			return error_set(err, ERROR_INVALID_ARGUMENT,
				"it is not a UNIX stream socket whose other end is yours",
				"pass one end of a socketpair(AF_UNIX, SOCK_STREAM)",
				"descriptor %zu is refused", i);
	return 0;
}

/* Limits the calls that go on without a connection: clients that connect, call and disconnect must
 * not make the daemon hold ever more. */
static int check_detached(struct call *c, struct error *err)
{
	const struct accounts *a = c->manager->accounts;
	const struct call *other;
	unsigned n = 0;
	if (c->method->life != API_KEPT)
		return 0;
	TAILQ_FOREACH (other, server_detached(c->server), entry)
		n += accounts_find(a, other->uid) == accounts_find(a, c->uid);
	if (n < LIMIT_DETACHED_UID)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, "the operations that they started continue",
		"wait until they have ended, and disconnect only after a reply",
		"uid %u has %u calls whose connection is closed, the limit is %d", c->uid, n,
		LIMIT_DETACHED_UID);
}

static int authorise(struct call *c, struct error *err)
{
	struct manager *m = c->manager;
	if (m->degraded.set && !startswith(c->method->name, "system.") &&
		!streq(c->method->name, "cancel")) {
		if (error_copy(err, &m->degraded) < 0)
			return -ENOMEM;
		return -error_code_errno(m->degraded.code);
	}
	if (c->method->right == API_ADMIN) {
		int r = call_require_admin(c, c->method->name, NULL, NULL, err);
		if (r < 0)
			return r;
	}
	return call_look_up(c, err);
}

static bool has_param(const struct api_method *m, const char *name)
{
	for (const struct api_field *f = m->params; f->name; f++)
		if (streq(f->name, name))
			return true;
	return false;
}

/* Adds pyrod.conf's defaults for a machine's size, where the caller gives none. */
static int add_configured(struct call *c, json_object *given)
{
	const struct config *config = call_manager(c)->config;
	const struct {
		const char *name;
		int64_t value;
	} sizes[] = {
		{ "vcpu_count", config ? config->default_vcpu_count : 0 },
		{ "mem_mib", config ? config->default_mem_mib : 0 },
		{ "disk_mib", config ? config->default_disk_mib : 0 },
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes) && r >= 0; i++) {
		if (sizes[i].value == 0 || !has_param(c->method, sizes[i].name))
			continue;
		if (!json_object_is_type(given, json_type_object) || json_get(given, sizes[i].name))
			continue; /* not an object: refused next */
		json_object_object_del(given, sizes[i].name);
		r = json_add_int(given, sizes[i].name, sizes[i].value);
	}
	return r;
}

static void run_handler(struct call *c, json_object *given)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	bool answered = false;
	c->answered = &answered;
	int r = add_configured(c, given);
	if (r >= 0)
		r = api_check_params(c->method->params, given, c->n_fds, &c->params, &err);
	if (r >= 0)
		r = check_fds(c, &err);
	if (r >= 0)
		r = check_detached(c, &err);
	if (r >= 0)
		r = authorise(c, &err);
	if (r >= 0)
		r = server_handlers(c->server)[c->method - api_methods](c, &err);
	if (answered)
		return;
	c->answered = NULL;
	c->object = NULL;
	if (r >= 0 && c->kept)
		return;
	if (r >= 0)
		r = -EPROTO; /* neither answered nor kept */
	if (!err.set)
		(void)error_set_errno(
			&err, error_code_for_errno(r), r, NULL, "%s failed", c->method->name);
	call_fail(c, &err);
}

static bool has_fd_field(const struct api_method *method)
{
	for (const struct api_field *f = method->params; f->name; f++)
		if (f->type == API_FD)
			return true;
	return false;
}

/* Checks whether this call may begin now. False when it was refused. */
static bool admit(struct conn *c, struct request *q, const struct api_method *method)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	if (q->n_fds > 0 && !has_fd_field(method)) {
		(void)error_set(&err, ERROR_INVALID_ARGUMENT, NULL, "send the line without fds",
			"%s takes no descriptors", method->name);
		refuse(c, q, JSON_RPC_INVALID_PARAMS, &err, true);
		return false;
	}
	if (q->has_id && dispatch_find(c, q->id)) {
		(void)error_set(&err, ERROR_INVALID_ARGUMENT, NULL, "give each call a unique id",
			"a call with this id is still running");
		refuse(c, q, JSON_RPC_INVALID_REQUEST, &err, true);
		return false;
	}
	if (c->n_calls >= LIMIT_IN_FLIGHT && !streq(method->name, "cancel")) {
		(void)error_set(&err, ERROR_QUOTA_EXCEEDED, NULL, "wait for an answer first",
			"%d calls are running on this connection", LIMIT_IN_FLIGHT);
		refuse(c, q, JSON_RPC_OTHER, &err, q->n_fds > 0);
		return false;
	}
	return true;
}

static const struct api_method *find_method(struct conn *c, struct request *q)
{
	int i = api_find(q->method);
	if (i >= 0)
		return &api_methods[i];
	_cleanup_error_ struct error err = ERROR_INIT;
	(void)error_set(&err, ERROR_UNSUPPORTED, NULL, "update pyrod if a newer one has it",
		"unknown method %.*s", utf8_cut(q->method, METHOD_SHOWN_MAX), q->method);
	refuse(c, q, JSON_RPC_UNKNOWN_METHOD, &err, q->n_fds > 0);
	return NULL;
}

void dispatch_line(struct conn *c, const char *line, size_t n)
{
	_cleanup_(request_done) struct request q = { .o = NULL };
	_cleanup_error_ struct error err = ERROR_INIT;
	if (!parse_line(c, line, n, &q))
		return;
	const struct api_method *method = find_method(c, &q);
	if (!method || !admit(c, &q, method))
		return;

	struct call *call;
	if (call_new(c, method, q.id, &call) < 0) {
		(void)error_no_memory(&err, "out of memory");
		refuse(c, &q, JSON_RPC_OTHER, &err, q.n_fds > 0);
		return;
	}
	if (fd_queue_take(&c->fds, q.n_fds, call->fds) < 0) {
		call_free(call);
		(void)error_set(&err, ERROR_INVALID_ARGUMENT, NULL,
			"send the descriptors and the line in one sendmsg",
			"the line says fds: %zu, but they did not come with it", q.n_fds);
		refuse(c, &q, JSON_RPC_INVALID_REQUEST, &err, true);
		return;
	}
	call->n_fds = q.n_fds;
	run_handler(call, q.params);
}
