/* SPDX-License-Identifier: MIT */
#ifndef PYRO_H
#define PYRO_H

/*
 * libpyro: the C client of pyrod. One connection, JSON-RPC 2.0 calls, live streams. JSON travels as
 * text, so that callers may use any library. Not thread-safe per connection.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PYRO_EXPORT __attribute__((visibility("default")))

struct pyro; /* a connection */

/* An error of contract.md section 4. The error owns its strings; cause and fix may be NULL. */
struct pyro_error {
	char *code; /* "daemon_unreachable", ... */
	char *message;
	char *cause;
	char *fix;
	bool retryable;
};
PYRO_EXPORT void pyro_error_free(struct pyro_error *e);

enum pyro_mode {
	PYRO_AUTO, /* PYRO_SOCKET, else the system's, else the user's (started unless uid 0) */
	PYRO_SYSTEM,
	PYRO_USER, /* started when absent */
	PYRO_MODE_MASK = 0xf,
	PYRO_NO_START = 0x10, /* or-ed to one of the above: never start a daemon */
};

/*
 * Connects. socket: a path, whose server is trusted, or NULL to look as mode says, where another
 * user's server is an error (permission_denied). ENOENT leads to the next place. So does EACCES of
 * the system's socket if the user's own exists; otherwise it is an error (permission_denied) whose
 * fix names both ways: the group, and a daemon of the user's own. Waits at most 5 s for the
 * daemon's first answer (system.ping), so that a hung daemon is an error. A user's daemon is
 * started from pyro's installation directory, or from PYRO_DAEMON (a path), within 10 s; its output
 * goes to pyrod.log in its state directory. Returns 0, or -errno with *ret_error set (free with
 * pyro_error_free).
 */
PYRO_EXPORT int pyro_connect(
	const char *socket, enum pyro_mode mode, struct pyro **ret, struct pyro_error **ret_error);
/* Connects again to the place of a lost connection, and to no other. Else as pyro_connect. */
PYRO_EXPORT int pyro_connect_again(
	const struct pyro *lost, struct pyro **ret, struct pyro_error **ret_error);
PYRO_EXPORT void pyro_free(struct pyro *p);
/* Returns the path of the connection's socket. Borrowed. */
PYRO_EXPORT const char *pyro_socket_path(struct pyro *p);
/* Returns the daemon's system.ping result as JSON text. Borrowed. */
PYRO_EXPORT const char *pyro_daemon_info(struct pyro *p);
/* Returns the connection's descriptor, for poll(). */
PYRO_EXPORT int pyro_fd(struct pyro *p);

/* Progress of a running call: a JSON object as text {phase, percent, ...}. Borrowed. */
typedef void (*pyro_progress_fn)(const char *json, void *userdata);

/*
 * Calls method with params (a JSON object as text, or NULL) and waits at most timeout_ms for the
 * answer (negative: without a limit). Returns 0 with *ret_result (JSON text, free()), or -errno
 * with *ret_error.
 */
PYRO_EXPORT int pyro_call(struct pyro *p, const char *method, const char *params, int timeout_ms,
	pyro_progress_fn on_progress, void *userdata, char **ret_result,
	struct pyro_error **ret_error);

/*
 * Starts a call without waiting for its answer, for callers with a loop of their own. fds
 * (borrowed, at most 4) are sent with the request. Returns the call's id (> 0), or -errno with
 * *ret_error.
 */
PYRO_EXPORT int64_t pyro_call_start(struct pyro *p, const char *method, const char *params,
	const int *fds, size_t n_fds, struct pyro_error **ret_error);
/* Asks the daemon to cancel a call, which is still answered. Returns 0, -ENOENT (no such call) or
 * -errno. */
PYRO_EXPORT int pyro_call_cancel(struct pyro *p, int64_t id);

struct pyro_event {
	int64_t id; /* the call */
	bool done;
	char *progress;           /* owned: JSON text, when not done */
	char *result;             /* owned: JSON text, when done and successful */
	struct pyro_error *error; /* owned: when done and failed */
};
PYRO_EXPORT void pyro_event_done(struct pyro_event *e);
/* Handles received data without waiting, with at most one read. Returns 1 with *ret filled (call
 * again: poll() does not report data read before), 0 when poll() reports the next event, or -errno
 * with *ret_error when the connection is lost. */
PYRO_EXPORT int pyro_process(struct pyro *p, struct pyro_event *ret, struct pyro_error **ret_error);

PYRO_EXPORT const char *pyro_version(void);

#ifdef __cplusplus
}
#endif
#endif
