/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * UNIX sockets by path, of any length: a path that does not fit sun_path is reached through its opened
 * directory. Nothing here waits.
 */

#include "proto/base.h"

/* Binds (an older socket at path is replaced) with mode 0600 and listens; backlog: who may wait to be accepted, beyond
 * that sock_dial is refused. Owned fd or -errno. */
int sock_listen(const char *path, int type, int backlog);

/* Connects; non-blocking. Owned fd or -errno (-EAGAIN: the listener's queue is full). */
int sock_dial(const char *path, int type);
