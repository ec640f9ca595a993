/* SPDX-License-Identifier: MIT */
/*
 * The call, from its line to its single answer. Made by the dispatcher, answered by a handler.
 *
 * What must stay true:
 * - a call is answered at most once and freed by its answer;
 * - a call ends with its connection, unless its work goes on: then it is listed until its answer,
 *   which is dropped (dispatch.c bounds the list);
 * - the details of an internal fault stay in the journal, and the client gets an id to find them.
 */

#include "daemon/rpc/call.h"

#include <assert.h>

#include "daemon/log.h"
#include "daemon/rpc/conn.h"

int call_new(struct conn *c, const struct api_method *method, json_object *id, struct call **ret)
{
	struct call *call = calloc(1, sizeof(*call));
	if (!call)
		return -ENOMEM;
	*call = (struct call){
		.manager = server_manager(c->server),
		.server = c->server,
		.conn = c,
		.method = method,
		.id = json_object_get(id),
		.uid = c->peer.uid,
		.admin = c->peer.admin,
	};
	for (size_t i = 0; i < LIMIT_FDS_PER_LINE; i++)
		call->fds[i] = -EBADF;
	TAILQ_INSERT_TAIL(&c->calls, call, entry);
	c->n_calls++;
	*ret = call;
	return 0;
}

static void call_unlink(struct call *c)
{
	if (c->conn) {
		TAILQ_REMOVE(&c->conn->calls, c, entry);
		c->conn->n_calls--;
		conn_schedule(c->conn);
	} else {
		TAILQ_REMOVE(server_detached(c->server), c, entry);
	}
}

void call_free(struct call *c)
{
	call_unlink(c);
	if (c->answered)
		*c->answered = true;
	for (size_t i = 0; i < LIMIT_FDS_PER_LINE; i++)
		receivers_close(c->manager->receivers, c->fds[i], true);
	json_object_put(c->id);
	json_object_put(c->params);
	free(c);
}

struct manager *call_manager(struct call *c)
{
	return c->manager;
}

/* Every parameter of the method is present: api_check_params fills in the missing ones. */
json_object *call_value(struct call *c, const char *param)
{
	json_object *value = NULL;
	bool has = json_object_object_get_ex(c->params, param, &value);

	assert(has);
	return value;
}

bool call_given(struct call *c, const char *param)
{
	return call_value(c, param) != NULL;
}

bool call_bool(struct call *c, const char *param)
{
	json_object *value = call_value(c, param);

	assert(json_object_is_type(value, json_type_boolean));
	return json_object_get_boolean(value);
}

int64_t call_int(struct call *c, const char *param)
{
	json_object *value = call_value(c, param);

	assert(json_object_is_type(value, json_type_int));
	return json_object_get_int64(value);
}

const char *call_str(struct call *c, const char *param)
{
	json_object *value = call_value(c, param);

	assert(!value || json_object_is_type(value, json_type_string));
	return value ? json_object_get_string(value) : NULL;
}

const char *call_str_if_any(struct call *c, const char *param)
{
	return json_get_str(c->params, param, NULL);
}

uid_t call_uid(struct call *c)
{
	return c->uid;
}

bool call_is_admin(struct call *c)
{
	return c->admin;
}

int call_require_admin(
	struct call *c, const char *what, const char *command, const char *cause, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	if (c->admin)
		return 0;
	fix = command ? str_printf("sudo %s", command) : NULL;
	return error_set(err, ERROR_PERMISSION_DENIED, cause,
		fix ? fix : "run it as root or as a member of group pyro-admin",
		"%s is not permitted for uid %u", what, c->uid);
}

static int *find_fd(struct call *c, const char *param)
{
	int64_t i = call_given(c, param) ? call_int(c, param) : -1;
	return i < 0 || (uint64_t)i >= c->n_fds ? NULL : &c->fds[i];
}

int call_fd(struct call *c, const char *param)
{
	const int *fd = find_fd(c, param);
	return fd ? *fd : -EBADF;
}

void call_give_fd(struct call *c, const char *param)
{
	int *fd = find_fd(c, param);
	if (fd)
		(void)TAKE_FD(*fd);
}

void call_keep(struct call *c, call_end_fn on_end, void *userdata)
{
	c->kept = true;
	c->on_end = on_end;
	c->userdata = userdata;
}

void call_keep_on(struct call *c, call_end_fn on_cancel, void *userdata)
{
	assert(c->method->life == API_KEPT);
	call_keep(c, on_cancel, userdata);
	c->outlives = true;
}

bool call_cancel(struct call *c)
{
	if (!c->on_end || c->cancelled)
		return c->cancelled;
	c->cancelled = true;
	c->on_end(c, CALL_CANCELLED, c->userdata);
	return true;
}

void call_conn_closed(struct call *c)
{
	if (!c->outlives) {
		c->on_end(c, CALL_GONE, c->userdata);
		call_free(c);
		return;
	}
	call_unlink(c);
	c->conn = NULL;
	TAILQ_INSERT_TAIL(server_detached(c->server), c, entry);
}

/* Makes {"jsonrpc":"2.0","id":ID, key: value}. Takes over value. */
static int answer_new(json_object *id, const char *key, json_object *value, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *val = value;
	if (!o)
		return -ENOMEM;
	int r = json_add_str(o, "jsonrpc", "2.0");
	if (r >= 0)
		r = json_add(o, "id", json_object_get(id));
	if (r >= 0)
		r = json_add(o, key, TAKE_PTR(val));
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}

static int answer_send(struct call *c, const char *key, json_object *value)
{
	_cleanup_json_ json_object *o = NULL;
	int r = answer_new(c->id, key, value, &o);
	return r < 0 ? r : conn_send(c->conn, o);
}

/* Drops the connection, since no answer can be made. */
static void answer_impossible(struct call *c, int r)
{
	log_uid(LOG_ERR, r, call_uid(c), "cannot send the reply to %s: connection closed",
		c->method->name);
	c->conn->broken = true;
	conn_schedule(c->conn);
}

#ifdef PYRO_CHECK_RESULTS
static void result_verify(struct call *c, json_object *result)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	if (api_check_result(c->method->result, result, &err) < 0)
		log_uid(LOG_ERR, 0, call_uid(c), "the result of %s is not as api.c says: %s",
			c->method->name, err.message ? err.message : "out of memory");
}
#else
static void result_verify(_unused_ struct call *c, _unused_ json_object *result)
{
}
#endif

void call_reply(struct call *c, json_object *result)
{
	_cleanup_json_ json_object *value = result;
	if (!c->conn || !c->id) {
		call_free(c);
		return;
	}
	result_verify(c, value);
	int r = answer_send(c, "result", TAKE_PTR(value));
	if (r == -EMSGSIZE) {
		_cleanup_error_ struct error err = ERROR_INIT;
		(void)error_set(&err, ERROR_UNSUPPORTED, NULL, "request less at once",
			"the answer to %s is longer than %d bytes", c->method->name,
			LIMIT_REPLY_BYTES);
		call_fail(c, &err);
		return;
	}
	if (r < 0)
		answer_impossible(c, r);
	call_free(c);
}

void call_reply_text(struct call *c, const char *json, size_t n)
{
	static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":", middle[] = ",\"result\":",
			  tail[] = "}";
	if (!c->conn || !c->id) {
		call_free(c);
		return;
	}
	const char *id = json_object_to_json_string_ext(c->id, JSON_C_TO_STRING_PLAIN);
	const struct iovec parts[] = {
		{ (void *)(uintptr_t)head, sizeof(head) - 1 },
		{ (void *)(uintptr_t)id, id ? strlen(id) : 0 },
		{ (void *)(uintptr_t)middle, sizeof(middle) - 1 },
		{ (void *)(uintptr_t)json, n },
		{ (void *)(uintptr_t)tail, sizeof(tail) - 1 },
	};
	int r = id ? conn_send_text(c->conn, parts, ARRAY_SIZE(parts)) : -ENOMEM;
	if (r < 0)
		answer_impossible(c, r);
	call_free(c);
}

/* Makes the error that a client may see of an internal fault. An error with a fix was written for
 * people and keeps its text. */
static void error_mask(struct call *c, const struct error *err, struct error *ret)
{
	uint32_t number;
	char id[16];
	random_bytes(&number, sizeof(number));
	(void)snprintf(id, sizeof(id), "%08x", number);
	log_uid(LOG_ERR, 0, call_uid(c), "internal error %s in %s: %s%s%s", id, c->method->name,
		err->message ? err->message : "no text", err->cause ? ": " : "",
		err->cause ? err->cause : "");
	_cleanup_free_ char *cause = str_printf("a fault in pyrod; its log has more under %s", id);
	_cleanup_free_ char *fix = log_search(c->manager->system, id);
	if (err->fix)
		(void)error_set(ret, ERROR_INTERNAL, cause, err->fix, "%s",
			err->message ? err->message : "internal error");
	else
		(void)error_set(ret, ERROR_INTERNAL, cause, fix, "internal error %s in %s", id,
			c->method->name);
}

void call_fail(struct call *c, const struct error *err)
{
	_cleanup_error_ struct error masked = ERROR_INIT;
	if (err->code == ERROR_INTERNAL || !err->set) {
		error_mask(c, err, &masked);
		err = &masked;
	}
	if (c->conn && c->id) {
		json_object *o = json_error_object(err);
		int r = o ? answer_send(c, "error", o) : -ENOMEM;
		if (r < 0)
			answer_impossible(c, r);
	}
	call_free(c);
}

void call_progress(struct call *c, json_object *params)
{
	_cleanup_json_ json_object *value = params, *o = NULL;
	if (!c->conn || !c->id || !value)
		return;
	o = json_object_new_object();
	if (!o || json_add(value, "call", json_object_get(c->id)) < 0 ||
		json_add_str(o, "jsonrpc", "2.0") < 0 ||
		json_add_str(o, "method", "progress") < 0 ||
		json_add(o, "params", TAKE_PTR(value)) < 0)
		return; /* out of memory: progress may be dropped */
	conn_notify(c->conn, o);
}
