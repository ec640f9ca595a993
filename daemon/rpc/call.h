/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One request, from its line to its single answer. A handler answers at once, or keeps the call
 * (call_keep) and answers later. When it returns an error without an answer, the dispatcher sends
 * the error reply.
 */

#include "daemon/manager.h"
#include "proto/api.h"
#include "proto/json.h"

struct call;
struct command;
struct environment;
struct machine;
struct run;
struct workspace;

enum call_end { CALL_CANCELLED, CALL_GONE };
/* The client cancelled the call, or its connection is closed. CALL_CANCELLED: the call must still
 * be answered once. CALL_GONE: it must not be answered, and is freed after this returns. */
typedef void (*call_end_fn)(struct call *c, enum call_end why, void *userdata);

struct manager *call_manager(struct call *c);
uid_t call_uid(struct call *c);
/* Root, the daemon's own uid, or a member of group pyro-admin. */
bool call_is_admin(struct call *c);
/* Fails with permission_denied, "WHAT is not permitted for uid N", unless the caller is an
 * administrator. command: what an administrator types, or NULL. */
int call_require_admin(struct call *c, const char *what, const char *command, const char *cause,
	struct error *err);

/*
 * The parameters, checked and with the defaults of the method's table; a handler adds no defaults
 * of its own. Asking for a name that the table lacks, or as another type, is a programming error.
 * Strings and values are borrowed.
 */
bool call_given(struct call *c, const char *param); /* not null */
bool call_bool(struct call *c, const char *param);
int64_t call_int(struct call *c, const char *param);
const char *call_str(struct call *c, const char *param);    /* NULL for null */
json_object *call_value(struct call *c, const char *param); /* NULL for null */
/* Like call_str, for callbacks that several methods share: NULL when the method has no such
 * parameter. */
const char *call_str_if_any(struct call *c, const char *param);

/*
 * The object of the method (in api.def), looked up with the caller's rights before the handler
 * runs. Borrowed, and valid only until the handler returns. Handlers do no look-ups themselves.
 */
struct machine *call_machine(struct call *c);     /* API_OBJ_VM */
struct workspace *call_workspace(struct call *c); /* API_OBJ_WORKSPACE */
/* API_OBJ_EXEC: one of these is NULL. */
struct run *call_run(struct call *c);
struct command *call_command(struct call *c);         /* of a workspace */
struct environment *call_environment(struct call *c); /* API_OBJ_ENV */
/* For a callback of a kept call: looks up the object again by its full id. The functions above then
 * return it until the callback returns. Fails with the object's "not found" when it is deleted. */
int call_find_again(struct call *c, const char *id, struct error *err);

/* The stream socket that an FD parameter names; -EBADF when the parameter is null. The call owns it
 * and closes it as a foreign descriptor (receiver.h). */
int call_fd(struct call *c, const char *param);
/* Gives up the call's ownership of the descriptor. */
void call_give_fd(struct call *c, const char *param);

/* Keeps the call for a later answer. It ends with its connection, and on_end is called. */
void call_keep(struct call *c, call_end_fn on_end, void *userdata);
/* Keeps the call of a KEPT method. It goes on when its connection closes; it must still be answered
 * once, and the answer is dropped. on_cancel is called for CALL_CANCELLED only. NULL: the call
 * cannot be cancelled, and `cancel` answers false. */
void call_keep_on(struct call *c, call_end_fn on_cancel, void *userdata);

/* Each of these answers the call and frees it. Takes over result. */
void call_reply(struct call *c, json_object *result);
/* The same with a result of n bytes that is JSON text already; borrowed. */
void call_reply_text(struct call *c, const char *json, size_t n);
void call_fail(struct call *c, const struct error *err);

/* Sends {"jsonrpc":"2.0","method":"progress","params":{"call":ID, ...}}. Takes over params and adds
 * "call" to it. Dropped when the client reads too slowly. */
void call_progress(struct call *c, json_object *params);

/* The handlers, one per row of api.def: rpc_vm_run, ... They return 0 (answered or kept), or -errno
 * with err set. */
typedef int (*call_handler_fn)(struct call *c, struct error *err);
#define API_METHOD(symbol, ...) int rpc_##symbol(struct call *c, struct error *err);
#include "proto/api.def"
#undef API_METHOD
