/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The socket that clients connect to: accepts with SO_PEERCRED read once, with limits per uid and
 * in all, and hands connections to conn.c. Uses the listening descriptor of socket activation when
 * there is one. Otherwise binds path: a live socket there is an error, a dead one is replaced.
 */

#include "daemon/manager.h"
#include "daemon/rpc/call.h"

/* methods.c: by API_M_*. */
extern const call_handler_fn rpc_handlers[];

/* Listens at m->socket_path unless listen_fd is given. handlers: static. */
int server_new(struct manager *m, const call_handler_fn *handlers,
	int listen_fd /* taken over, or -EBADF */, struct server **ret, struct error *err);
/* Closes the socket and every connection. Detached calls are still answered by the objects that
 * work on them, so call this before freeing those, and server_free after. */
void server_stop(struct server *s);
struct server *server_free(struct server *s);
size_t server_connections(struct server *s);
/* Assigns each connection to its account again, after accounts have changed. */
void server_recount(struct server *s);
DEFINE_CLEANUP(struct server *, server_free)
