/* SPDX-License-Identifier: MIT */
/*
 * Maps methods to handlers: one row per row of api.def. main.c passes it to the server, so that no
 * file between the socket and a handler depends on the handlers. A method without a handler does
 * not link.
 */

#include "daemon/rpc/server.h"

const call_handler_fn rpc_handlers[API_M_MAX] = {
#define API_METHOD(symbol, ...) [API_M_##symbol] = rpc_##symbol,
#include "proto/api.def"
#undef API_METHOD
};
