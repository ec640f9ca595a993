/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * UNIX sockets by a path of any length: one that does not fit sun_path is reached through its open
 * directory. Nothing here blocks.
 */

#include "proto/base.h"

/* Binds with mode 0600, replacing an older socket at path, and listens. Above backlog pending
 * connections sock_dial is refused. Returns an owned fd or -errno. */
int sock_listen(const char *path, int type, int backlog);

/* Connects without blocking. Returns an owned fd or -errno (-EAGAIN: the listener's queue is
 * full). */
int sock_dial(const char *path, int type);
