/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One request from its line to its single answer. A handler answers at once, or keeps the call
 * (call_keep) and answers later; returning an error without having answered makes the error reply.
 */

#include "daemon/manager.h"
#include "proto/api.h"
#include "proto/json.h"

struct call;
struct environment;
struct machine;
struct run;

enum call_end { CALL_CANCELLED, CALL_GONE };
/* cancel was asked for, or the connection is gone. For CALL_GONE the call must not be answered any
 * more (it is freed after this returns); for CALL_CANCELLED it must still be answered once. */
typedef void (*call_end_fn)(struct call *c, enum call_end why, void *userdata);

struct manager *call_manager(struct call *c);
uid_t call_uid(struct call *c);
/* Root, the daemon's own uid, or a member of group pyro-admin. */
bool call_is_admin(struct call *c);
/* permission_denied for everybody else: "WHAT is not for uid N". command is what an administrator types, or NULL. */
int call_require_admin(struct call *c, const char *what, const char *command, const char *cause,
	struct error *err);

/*
 * The parameters: checked, and with the defaults of the method's table, so that no handler has one of its own. A name that
 * the table does not have, or as another type, is a fault of the program. Strings and values are borrowed.
 */
bool call_given(struct call *c, const char *param); /* it is not null */
bool call_bool(struct call *c, const char *param);
int64_t call_int(struct call *c, const char *param);
const char *call_str(struct call *c, const char *param);    /* NULL for null */
json_object *call_value(struct call *c, const char *param); /* NULL for null */
/* The same for callbacks that several methods share: NULL also where the method has no such parameter. */
const char *call_str_if_any(struct call *c, const char *param);

/*
 * What the method acts on (its object in api.def), found with the caller's rights before the handler ran; borrowed, and
 * valid only until the handler returns. A handler finds nothing itself.
 */
struct machine *call_machine(struct call *c);         /* API_OBJ_VM */
struct run *call_run(struct call *c);                 /* API_OBJ_EXEC */
struct environment *call_environment(struct call *c); /* API_OBJ_ENV */
/* In a callback of a kept call: finds the object again by its whole id, for the functions above until the callback
 * returns. Its "not found" when it is gone. */
int call_find_again(struct call *c, const char *id, struct error *err);

/* The descriptor that an FD parameter names, a stream socket: the call's, which closes it as a stranger's must
 * be (receiver.h); -EBADF when the parameter is null. */
int call_fd(struct call *c, const char *param);
/* It belongs to whom it was handed over to. */
void call_give_fd(struct call *c, const char *param);

/* The call ends with its connection, as on_end is told. */
void call_keep(struct call *c, call_end_fn on_end, void *userdata);
/* The call of a KEPT method goes on when its connection is gone, and its answer is dropped: it is still
 * answered once. on_cancel hears of CALL_CANCELLED alone; NULL: it cannot be, and cancel says false. */
void call_keep_on(struct call *c, call_end_fn on_cancel, void *userdata);

/* Each answers the call and frees it. result is taken over. */
void call_reply(struct call *c, json_object *result);
/* The same with a result that is JSON text already, n bytes; borrowed. */
void call_reply_text(struct call *c, const char *json, size_t n);
void call_fail(struct call *c, const struct error *err);

/* {"jsonrpc":"2.0","method":"progress","params":{"call":ID, ...}}: params is taken over; "call" is
 * added. Dropped when the client reads too slowly. */
void call_progress(struct call *c, json_object *params);

/* Handlers, one per row of api.def: rpc_vm_run, ... Return 0 (answered or kept) or -errno with
 * err set. */
typedef int (*call_handler_fn)(struct call *c, struct error *err);
#define API_METHOD(symbol, ...) int rpc_##symbol(struct call *c, struct error *err);
#include "proto/api.def"
#undef API_METHOD
