/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Decides whether to trust a place where a daemon may listen, and makes the errors about places.
 */

#include "client/dial.h"

/*
 * Refuse another user's socket at a place that the user did not name, before anything is sent:
 * place_check() by the socket's owner, before connecting; place_check_peer() by the uid of the
 * listener. Return 0, or -errno; a refusal sets err to permission_denied.
 */
int place_check(const struct dialled *d, struct error *err);
int place_check_peer(const struct dialled *d, struct error *err);

/* Makes the error for a connect() to d->path that failed with r (-errno). other: an alternative to
 * gaining access to the socket, or NULL. */
int place_failed(const struct dialled *d, int r, const char *other, struct error *err);

/* Makes the error for a daemon that accepted the connection and does not answer. */
int place_hung(const struct dialled *d, struct error *err);
