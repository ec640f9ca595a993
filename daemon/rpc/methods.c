/* SPDX-License-Identifier: MIT */
/*
 * Which function handles which method: one row per row of api.def. Given to the server by main.c, so that nothing of the
 * way from the socket to a handler knows the handlers. A method without a handler does not link.
 */

#include "daemon/rpc/server.h"

const call_handler_fn rpc_handlers[API_M_MAX] = {
#define API_METHOD(symbol, ...) [API_M_##symbol] = rpc_##symbol,
#include "proto/api.def"
#undef API_METHOD
};
