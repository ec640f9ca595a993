/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The error that a person or a client reads: a code of contract.md section 4, what failed, why, and
 * the fix. Set once, at the origin; callers add context and never replace it. Functions return the
 * code's -errno beside it (error_code_errno).
 */

#include "base.h"

#define ERROR_CODES(X) \
	X(USAGE, "usage", EINVAL, false, \
		"The command line is not valid; only clients report this.") \
	X(INVALID_ARGUMENT, "invalid_argument", EINVAL, false, \
		"A parameter or the request is not valid; the message names it.") \
	X(ENVIRONMENT_UNKNOWN, "environment_unknown", ENOENT, false, \
		"The catalog has no such environment.") \
	X(PULL_FAILED, "pull_failed", EIO, true, \
		"The environment or its kernel could not be fetched or built.") \
	X(VM_NOT_FOUND, "vm_not_found", ENOENT, false, \
		"You have no such machine, or the prefix matches several.") \
	X(WORKSPACE_NOT_FOUND, "workspace_not_found", ENOENT, false, \
		"You have no such workspace, or the prefix matches several.") \
	X(WORKSPACE_EXPIRED, "workspace_expired", ENOENT, false, \
		"The workspace was deleted recently.") \
	X(SHELL_NOT_FOUND, "shell_not_found", ENOENT, false, "The workspace has no such shell.") \
	X(EXEC_NOT_FOUND, "exec_not_found", ENOENT, false, \
		"You have no such running command, or the prefix matches several.") \
	X(WRONG_STATE, "wrong_state", EBUSY, false, \
		"The state of the object does not allow this.") \
	X(NAME_TAKEN, "name_taken", EEXIST, false, "Another workspace of yours has this name.") \
	X(QUOTA_EXCEEDED, "quota_exceeded", EDQUOT, true, \
		"A limit of your uid or of the connection is reached.") \
	X(NO_SPACE, "no_space", ENOSPC, true, "A disk of the host is full, or would become full.") \
	X(NO_MEMORY, "no_memory", ENOMEM, true, "The host has too little free memory.") \
	X(VM_UNAVAILABLE, "vm_unavailable", ENODEV, false, \
		"This host cannot run a machine as it is configured.") \
	X(START_FAILED, "start_failed", EIO, true, "The machine could not be started.") \
	X(GUEST_UNRESPONSIVE, "guest_unresponsive", ETIMEDOUT, true, \
		"The machine did not answer in time.") \
	X(GUEST_DIED, "guest_died", ECONNRESET, true, \
		"The machine ended while the call waited for it.") \
	X(HOST_COMPAT_REFUSED, "host_compat_refused", EPERM, false, \
		"Running without a machine is not allowed.") \
	X(NETWORK_UNAVAILABLE, "network_unavailable", ENETDOWN, false, \
		"The machine cannot have a network here.") \
	X(SEED_REFUSED, "seed_refused", EINVAL, false, "The seed of the workspace was refused.") \
	X(PATH_OUTSIDE_PROJECT, "path_outside_project", EPERM, false, \
		"A path leaves the folder the client was given; only clients report this.") \
	X(CANCELLED, "cancelled", ECANCELED, false, \
		"The call was ended by `cancel`, a deletion or a stop.") \
	X(OUTCOME_UNKNOWN, "outcome_unknown", EIO, false, \
		"The call may have succeeded; the connection or the daemon was lost before the reply.") \
	X(PERMISSION_DENIED, "permission_denied", EACCES, false, \
		"The kernel or the daemon refuses access to your uid.") \
	X(DAEMON_UNREACHABLE, "daemon_unreachable", ECONNREFUSED, true, \
		"No daemon answers at the socket; only clients report this.") \
	X(DAEMON_TOO_OLD, "daemon_too_old", EPROTO, false, \
		"The daemon does not know the method or parameter; it is older than the client.") \
	X(UNSUPPORTED, "unsupported", EOPNOTSUPP, false, "This version does not support it.") \
	X(INTERNAL, "internal", EIO, false, \
		"A fault in the daemon; its log has the details under the id in `cause`.")

enum error_code {
#define X(sym, name, err, retry, help) ERROR_##sym,
	ERROR_CODES(X)
#undef X
		ERROR_MAX
};

struct error {
	bool set;
	enum error_code code;
	char *message; /* owned; one sentence: what failed, naming the value */
	char *cause;   /* owned or NULL: why */
	char *fix;     /* owned or NULL: a command or a next step */
};

#define ERROR_INIT \
	{ \
		.set = false \
	}
#define _cleanup_error_ _cleanup_(error_clear)

/*
 * Sets err (may be NULL) unless it is set already, and returns the code's -errno. cause may be
 * NULL. fix is a command to paste or a step to take; a command quotes its arguments (shell_quote).
 * A literal NULL for fix does not compile: use error_no_memory when out of memory, error_internal
 * for a fault in pyro, and error_cancelled when there is nothing to fix. message is
 * printf-formatted. The strings are copied; out of memory, the code is set without text.
 */
#define error_set(err, code, cause, fix, ...) \
	error_set_texts( \
		err, code, cause, _Generic((fix), char *: (fix), const char *: (fix)), __VA_ARGS__)
int error_set_texts(struct error *err, enum error_code code, const char *cause, const char *fix,
	const char *message, ...) _printf_(5, 6);

/* The same with a negative errno r, which is returned: cause is its strerror, and fix, if NULL,
 * error_errno_fix(r). */
int error_set_errno(struct error *err, enum error_code code, int r, const char *fix,
	const char *message, ...) _printf_(5, 6);

/* Sets no_memory; message says what could not be done, or "out of memory" alone. Returns
 * -ENOMEM. */
int error_no_memory(struct error *err, const char *message, ...) _printf_(2, 3);

/* Sets internal, for a fault in pyro: the client gets an id and the daemon logs the text under
 * it. */
int error_internal(struct error *err, const char *cause, const char *message, ...) _printf_(3, 4);

/* Sets cancelled, for an end that was asked for: there is no fix, so the cause says what became of
 * the work. */
int error_cancelled(struct error *err, const char *became, const char *message, ...) _printf_(3, 4);

/* Returns the fix that follows from a negative errno alone (a full disk, a limit); NULL for
 * most. */
const char *error_errno_fix(int r);

/* True if err has a fix, or, for cancelled, a cause. Every error that reaches a client must. */
bool error_is_complete(const struct error *err);

/* Puts "context: " before the message of a set error. Returns -errno of its code. */
int error_prefix(struct error *err, const char *context, ...) _printf_(2, 3);

/* Replaces the fix when there is none yet. */
void error_default_fix(struct error *err, const char *fix);

void error_clear(struct error *err);
void error_move(struct error *dst, struct error *src);
int error_copy(struct error *dst, const struct error *src);

/* Name ("invalid_argument") of a code and back (-EINVAL if unknown), and its positive errno. */
const char *error_code_name(enum error_code code);
int error_code_from_name(const char *name, enum error_code *ret);
int error_code_errno(enum error_code code);
bool error_code_retryable(enum error_code code);
/* Returns a sentence that explains the code; for documentation. */
const char *error_code_help(enum error_code code);

/* Returns the code for a bare -errno: ENOSPC -> no_space, ENOMEM -> no_memory, ... else
 * internal. */
enum error_code error_code_for_errno(int r);
