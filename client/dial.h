/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How libpyro finds the daemon's socket, and what it says when it cannot.
 */

#include "proto/base.h"
#include "proto/error.h"

#define DIAL_TIMEOUT_SEC  5  /* to be accepted, and again to be answered */
#define START_TIMEOUT_SEC 10 /* for a user's daemon to become ready */

/* Who has named the socket. */
enum dial_named {
	DIAL_FOUND,    /* nobody: it is a place of the daemon's own */
	DIAL_OPTION,   /* the caller: --socket */
	DIAL_VARIABLE, /* PYRO_SOCKET */
};

/* Where a connection went. */
struct dialled {
	int fd;      /* owned; non-blocking */
	char *path;  /* owned */
	bool system; /* the system daemon's place */
	bool user;   /* the user's own place; neither: a path that was given */
	enum dial_named named;
	bool start; /* the user's own, which may be started when absent */
};

/*
 * Connects to socket, or to the places that mode (enum pyro_mode) names. Errors are permission_denied and
 * daemon_unreachable.
 */
int dial(const char *socket, int mode, struct dialled *ret, struct error *err);
void dialled_done(struct dialled *d);

/* Connects to where `lost` was connected to, and to nowhere else. */
int dial_again(const struct dialled *lost, struct dialled *ret, struct error *err);

/* One connect, waiting at most DIAL_TIMEOUT_SEC to be accepted. Returns the descriptor or -errno. */
int dial_path(const char *path);

/* Starts `pyrod --user` detached and waits until it is ready at path (autostart.c). */
int autostart(const char *path, struct error *err);
