/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Whether a place where a daemon may listen is to be believed, and what is said when it cannot be used.
 */

#include "client/dial.h"

/*
 * Refuses a socket that nobody has named and that is another user's: before anything is sent there, place_check() by its
 * owner, before the connection is made; place_check_peer() by who listens. 0, or the error (permission_denied).
 */
int place_check(const struct dialled *d, struct error *err);
int place_check_peer(const struct dialled *d, struct error *err);

/* The error for a connect() to d->path that failed with r. other: what may be done as well as to get into the socket, or
 * NULL. */
int place_failed(const struct dialled *d, int r, const char *other, struct error *err);

/* The error for a daemon that accepted and does not answer. */
int place_hung(const struct dialled *d, struct error *err);
