/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The error a person or a client reads: a code of contract.md section 4, what failed, why, and the
 * fix. Set once, at the origin; callers add context, never replace. The integer that travels beside
 * it is the code's -errno (error_errno).
 */

#include "base.h"

#define ERROR_CODES(X) \
	X(USAGE, "usage", EINVAL, false, \
		"The command line makes no sense; only clients make this one.") \
	X(INVALID_ARGUMENT, "invalid_argument", EINVAL, false, \
		"A parameter, or the request itself, is not what the table says; the message names it.") \
	X(ENVIRONMENT_UNKNOWN, "environment_unknown", ENOENT, false, \
		"The catalog has no such environment.") \
	X(PULL_FAILED, "pull_failed", EIO, true, \
		"The environment or its kernel could not be fetched or built.") \
	X(VM_NOT_FOUND, "vm_not_found", ENOENT, false, \
		"You have no such machine, or several begin so.") \
	X(WORKSPACE_NOT_FOUND, "workspace_not_found", ENOENT, false, \
		"You have no such workspace, or several begin so.") \
	X(WORKSPACE_EXPIRED, "workspace_expired", ENOENT, false, \
		"The workspace was deleted not long ago.") \
	X(SHELL_NOT_FOUND, "shell_not_found", ENOENT, false, "The workspace has no such shell.") \
	X(EXEC_NOT_FOUND, "exec_not_found", ENOENT, false, \
		"You have no such running command, or several begin so.") \
	X(WRONG_STATE, "wrong_state", EBUSY, false, "What it acts on cannot do this now.") \
	X(NAME_TAKEN, "name_taken", EEXIST, false, "Another workspace of yours has this name.") \
	X(QUOTA_EXCEEDED, "quota_exceeded", EDQUOT, true, \
		"A limit of your uid or of the connection is reached.") \
	X(NO_SPACE, "no_space", ENOSPC, true, "A disk of the host is full, or would be.") \
	X(NO_MEMORY, "no_memory", ENOMEM, true, "The host has no memory left for it.") \
	X(VM_UNAVAILABLE, "vm_unavailable", ENODEV, false, \
		"No machine can run on this host as it is.") \
	X(START_FAILED, "start_failed", EIO, true, "The machine could not be started.") \
	X(GUEST_UNRESPONSIVE, "guest_unresponsive", ETIMEDOUT, true, \
		"The machine did not answer in time.") \
	X(GUEST_DIED, "guest_died", ECONNRESET, true, \
		"The machine ended while the call waited for it.") \
	X(HOST_COMPAT_REFUSED, "host_compat_refused", EPERM, false, \
		"Running without a machine is not allowed.") \
	X(NETWORK_UNAVAILABLE, "network_unavailable", ENETDOWN, false, \
		"The machine cannot have a network here.") \
	X(SEED_REFUSED, "seed_refused", EINVAL, false, \
		"What the workspace should begin with was refused.") \
	X(PATH_OUTSIDE_PROJECT, "path_outside_project", EPERM, false, \
		"A path leaves the folder the client was given; only clients make this one.") \
	X(CANCELLED, "cancelled", ECANCELED, false, \
		"Somebody asked for the end: `cancel`, a deletion, a stop.") \
	X(OUTCOME_UNKNOWN, "outcome_unknown", EIO, false, \
		"It may have been carried out; the connection or the daemon was lost on the way.") \
	X(PERMISSION_DENIED, "permission_denied", EACCES, false, \
		"The kernel or the daemon refuses your uid.") \
	X(DAEMON_UNREACHABLE, "daemon_unreachable", ECONNREFUSED, true, \
		"Nobody answers at the socket; only clients make this one.") \
	X(DAEMON_TOO_OLD, "daemon_too_old", EPROTO, false, \
		"The daemon does not know what the client asks for.") \
	X(UNSUPPORTED, "unsupported", EOPNOTSUPP, false, "This version cannot do it.") \
	X(INTERNAL, "internal", EIO, false, \
		"A fault of the daemon's own; the journal has it under the id in `cause`.")

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
 * Sets err (which may be NULL) unless it is set already, and returns the code's -errno.
 * cause may be NULL. fix is a command that can be pasted or a step that can be taken; a command quotes what it
 * contains (shell_quote). A literal NULL for it does not compile: running out of memory is error_no_memory, a fault of
 * our own error_internal, and what nothing is to be done about error_cancelled. message is printf-formatted. The
 * strings are copied; running out of memory leaves the code without text.
 */
#define error_set(err, code, cause, fix, ...) \
	error_set_texts( \
		err, code, cause, _Generic((fix), char *: (fix), const char *: (fix)), __VA_ARGS__)
int error_set_texts(struct error *err, enum error_code code, const char *cause, const char *fix,
	const char *message, ...) _printf_(5, 6);

/* The same with the cause taken from a negative errno r, which is also returned, and so is the fix where it is NULL. */
int error_set_errno(struct error *err, enum error_code code, int r, const char *fix,
	const char *message, ...) _printf_(5, 6);

/* no_memory; what could not be done, or "out of memory" alone. Returns -ENOMEM. */
int error_no_memory(struct error *err, const char *message, ...) _printf_(2, 3);

/* A fault of our own, which nobody can fix but by reporting it: the daemon shows an id and logs the text. */
int error_internal(struct error *err, const char *cause, const char *message, ...) _printf_(3, 4);

/* The end that somebody asked for: there is nothing to fix, so the cause says what became of the work. */
int error_cancelled(struct error *err, const char *became, const char *message, ...) _printf_(3, 4);

/* The fix that follows from a negative errno alone (a full disk, a limit), NULL for most. */
const char *error_errno_fix(int r);

/* Whether it says what to do, or, cancelled, what became of the work. What a person or a client reads has to. */
bool error_is_complete(const struct error *err);

/* Puts "context: " before the message of a set error. Returns -errno of its code. */
int error_prefix(struct error *err, const char *context, ...) _printf_(2, 3);

/* Replaces the fix when there is none yet. */
void error_default_fix(struct error *err, const char *fix);

void error_clear(struct error *err);
void error_move(struct error *dst, struct error *src);
int error_copy(struct error *dst, const struct error *src);

/* "invalid_argument", and back (-EINVAL when unknown); errno is positive. */
const char *error_code_name(enum error_code code);
int error_code_from_name(const char *name, enum error_code *ret);
int error_code_errno(enum error_code code);
bool error_code_retryable(enum error_code code);
/* What the code means, in a sentence; for documentation. */
const char *error_code_help(enum error_code code);

/* The best code for a bare -errno: ENOSPC -> no_space, ENOMEM -> no_memory, ... else internal. */
enum error_code error_code_for_errno(int r);
