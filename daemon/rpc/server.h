/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The socket clients connect to: accept with SO_PEERCRED read once, limits per uid and in all,
 * connections (conn.c) that turn lines into calls. A listening descriptor from socket activation
 * is used when given, else one is bound at path (a live one there is an error, a dead one is
 * replaced).
 */

#include "daemon/manager.h"
#include "daemon/rpc/call.h"

/* methods.c: by API_M_*. */
extern const call_handler_fn rpc_handlers[];

/* Listens at m->socket_path unless it is given a socket. handlers: static. */
int server_new(struct manager *m, const call_handler_fn *handlers,
	int listen_fd /* taken over, or -EBADF */, struct server **ret, struct error *err);
/* Closes the socket and every connection; calls nobody waits for are left to whoever works on
 * them, so this comes before those are freed, and server_free after. */
void server_stop(struct server *s);
struct server *server_free(struct server *s);
size_t server_connections(struct server *s);
DEFINE_CLEANUP(struct server *, server_free)
