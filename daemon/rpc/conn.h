/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One client's connection: lines in, lines out, and the calls between. Private to rpc/.
 */

#include <sys/queue.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <systemd/sd-event.h>

#include "daemon/manager.h"
#include "daemon/receiver.h"
#include "daemon/rpc/call.h"
#include "proto/buf.h"
#include "proto/fdpass.h"

struct server;

enum conn_state {
	CONN_OPEN,
	CONN_EOF,     /* the client has closed its sending side; answers still go out */
	CONN_CLOSING, /* an error was answered: input is discarded until the client has read it */
};

/* The client's identity, read from the kernel at accept. */
struct peer {
	uid_t uid;
	uid_t account; /* whose limits count (account.h) */
	pid_t pid;     /* for logs only: another process may have it by now */
	bool admin;
};

TAILQ_HEAD(call_list, call);

struct conn {
	struct server *server; /* borrowed: owns this */
	enum conn_state state;
	int fd; /* owned */
	struct peer peer;
	size_t siblings;     /* connections of this account, including this one; set by server.c */
	uint64_t not_before; /* monotonic: no line is handled earlier; set by server.c */
	sd_event_source *io, *work, *stall; /* owned */
	struct buf in, out;
	struct fd_queue fds;     /* -EBADF: a refused one */
	struct receipt *receipt; /* owned or NULL: a receiver is reading the socket */
	size_t searched;         /* bytes of `in` without a newline */
	size_t discarded;        /* bytes discarded in CONN_CLOSING */
	struct call_list calls;  /* borrowed by the handlers that keep them */
	size_t n_calls;
	bool input_ended; /* recv returned 0: EPOLLIN would be reported for ever */
	bool handling;    /* buffered lines are being handled */
	bool more;        /* lines may be left for the next turn */
	bool stalled;     /* output waits for the client, the stall timer runs */
	bool broken;      /* an answer could not be queued: the next turn closes it */
	TAILQ_ENTRY(conn) entry;
};

/* Takes over fd on success. */
int conn_new(struct server *s, int fd, const struct peer *p, struct conn **ret);
/* Ends the calls and frees the connection. */
struct conn *conn_free(struct conn *c);
DEFINE_CLEANUP(struct conn *, conn_free)

/* Queues one line, {"jsonrpc", ...}, which is written at the end of this turn. Returns 0, -EMSGSIZE
 * when it is longer than LIMIT_REPLY_BYTES, or -errno. */
int conn_send(struct conn *c, json_object *o);
/* The same for a line in parts, without its newline. */
int conn_send_text(struct conn *c, const struct iovec *parts, size_t n_parts);
/* Queues a notification unless the client reads too slowly. */
void conn_notify(struct conn *c, json_object *o);
/* Answers with an error outside any call; id may be NULL. close: ends the connection once the
 * client has read it. */
void conn_refuse(struct conn *c, json_object *id, int number, const struct error *err, bool close);
/* Schedules a turn: after a call ended, there may be room for the next request. */
void conn_schedule(struct conn *c);

/* dispatch.c: handles one line, without its newline. */
void dispatch_line(struct conn *c, const char *line, size_t n);
/* Returns the running call with this id, or NULL. */
struct call *dispatch_find(struct conn *c, json_object *id);

/* server.c */
struct manager *server_manager(struct server *s);
const call_handler_fn *server_handlers(struct server *s);
struct json_parser *server_parser(struct server *s); /* for requests */
/* Returns the document of rpc.discover as JSON text; it is made once. */
int server_discover(struct server *s, const char **ret, size_t *ret_n);
/* Logs one line about a client, rate-limited for each uid. */
void server_log_client(uid_t uid, pid_t pid, const char *what, const char *why);
void server_add(struct server *s, struct conn *c);    /* called by conn_new */
void server_remove(struct server *s, struct conn *c); /* called by conn_free */
/* No connection of the account handles a line before then (monotonic). */
void server_rest(struct server *s, uid_t account, uint64_t until_usec);
struct call_list *server_detached(struct server *s); /* calls that go on without a connection */

/* The call, shared by dispatch.c and call.c. */
struct call {
	struct manager *manager; /* borrowed */
	struct server *server;   /* borrowed */
	struct conn *conn;       /* borrowed; NULL once it is closed */
	const struct api_method *method;
	json_object *id;     /* owned; NULL: a notification, never answered */
	json_object *params; /* owned */
	uid_t uid;
	bool admin;
	int fds[LIMIT_FDS_PER_LINE]; /* owned */
	size_t n_fds;
	void *object;            /* borrowed: of the method's kind, until the handler returns */
	struct command *command; /* borrowed: the object, if it is a workspace's command */
	bool kept, outlives, cancelled;
	bool *answered; /* borrowed: set when the call is freed while its handler runs */
	call_end_fn on_end;
	void *userdata;
	TAILQ_ENTRY(call) entry;
};

int call_new(struct conn *c, const struct api_method *method, json_object *id, struct call **ret);
void call_free(struct call *c);
DEFINE_CLEANUP(struct call *, call_free)
/* object.c: looks up the method's object, with the caller's rights. */
int call_look_up(struct call *c, struct error *err);
/* Notifies the handler, once, that the client cancelled. False when the call cannot be
 * cancelled. */
bool call_cancel(struct call *c);
/* The connection is closing: ends the call, or detaches it when its work goes on. */
void call_conn_closed(struct call *c);
