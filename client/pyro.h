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

/* An error of contract.md section 4. All strings are owned by the error; cause and fix may be NULL. */
struct pyro_error {
	char *code; /* "daemon_unreachable", ... */
	char *message;
	char *cause;
	char *fix;
	bool retryable;
};
PYRO_EXPORT void pyro_error_free(struct pyro_error *e);

enum pyro_mode {
	PYRO_AUTO, /* PYRO_SOCKET, the system's socket, the user's (started when absent, unless uid 0) */
	PYRO_SYSTEM,
	PYRO_USER, /* started when absent */
	PYRO_MODE_MASK = 0xf,
	PYRO_NO_START = 0x10, /* or-ed to one of the above: never start a daemon */
};

/*
 * Connects. socket: a path, whose server is believed, or NULL to look as mode says, where a server of another user's is an
 * error (permission_denied): ENOENT goes on to the next place; so does EACCES of the
 * system's socket when the user's own is there, else it is an error (permission_denied) whose fix names both ways:
 * the group, and a daemon of the user's own. Waits at most 5 s for the daemon's first answer (system.ping), so that a
 * hung daemon is an error and not a hang. A user's daemon is started from where pyro is installed, or from
 * PYRO_DAEMON (a path), within 10 s; its output goes to pyrod.log in its state directory. Returns 0, or -errno with *ret_error set (free with pyro_error_free).
 */
PYRO_EXPORT int pyro_connect(
	const char *socket, enum pyro_mode mode, struct pyro **ret, struct pyro_error **ret_error);
/* Connects to the place of a connection that was lost, whatever is at other places by now. As pyro_connect. */
PYRO_EXPORT int pyro_connect_again(
	const struct pyro *lost, struct pyro **ret, struct pyro_error **ret_error);
PYRO_EXPORT void pyro_free(struct pyro *p);
/* The path that was used; the daemon's ping result as JSON text. Borrowed. */
PYRO_EXPORT const char *pyro_socket_path(struct pyro *p);
PYRO_EXPORT const char *pyro_daemon_info(struct pyro *p);
/* For poll(): the connection's descriptor. */
PYRO_EXPORT int pyro_fd(struct pyro *p);

/* Progress of a running call: a JSON object as text {phase, percent, ...}. Borrowed. */
typedef void (*pyro_progress_fn)(const char *json, void *userdata);

/*
 * Calls method with params (JSON object text or NULL) and waits for the answer (timeout_ms < 0: for
 * ever). Returns 0 with *ret_result (JSON text, free()), or -errno with *ret_error.
 */
PYRO_EXPORT int pyro_call(struct pyro *p, const char *method, const char *params, int timeout_ms,
	pyro_progress_fn on_progress, void *userdata, char **ret_result,
	struct pyro_error **ret_error);

/*
 * The same without waiting, for callers with a loop of their own. fds (borrowed, at most 4) go with the line.
 * Returns the call's id (> 0) or -errno.
 */
PYRO_EXPORT int64_t pyro_call_start(struct pyro *p, const char *method, const char *params,
	const int *fds, size_t n_fds, struct pyro_error **ret_error);
PYRO_EXPORT int pyro_call_cancel(struct pyro *p, int64_t id);

struct pyro_event {
	int64_t id; /* the call */
	bool done;
	char *progress;           /* owned: JSON text, when not done */
	char *result;             /* owned: JSON text, when done and it worked */
	struct pyro_error *error; /* owned: when done and it failed */
};
PYRO_EXPORT void pyro_event_done(struct pyro_event *e);
/* Handles what the socket has, without waiting and with one read at most. Returns 1 with *ret filled (call again:
 * there may be more that poll() does not tell of), 0 when poll() tells of the next, -errno when the connection is
 * lost (*ret_error says so). */
PYRO_EXPORT int pyro_process(struct pyro *p, struct pyro_event *ret, struct pyro_error **ret_error);

PYRO_EXPORT const char *pyro_version(void);

#ifdef __cplusplus
}
#endif
#endif
