/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How libpyro finds the daemon's socket, or makes the error when it cannot.
 */

#include "proto/base.h"
#include "proto/error.h"

#define DIAL_TIMEOUT_SEC  5  /* for connect(), and again for the first answer */
#define START_TIMEOUT_SEC 10 /* for a user's daemon to become ready */

/* Who named the socket. */
enum dial_named {
	DIAL_FOUND,    /* nobody: it is a default place */
	DIAL_OPTION,   /* the caller: --socket */
	DIAL_VARIABLE, /* PYRO_SOCKET */
};

/* A connection and its place. */
struct dialled {
	int fd;      /* owned; non-blocking */
	char *path;  /* owned */
	bool system; /* the system daemon's place */
	bool user;   /* the user's own place; neither: another path that was given */
	enum dial_named named;
	bool start; /* the user's own, and may be started when absent */
};

/*
 * Connects to socket, or to the places that mode (enum pyro_mode) names. Errors are
 * permission_denied and daemon_unreachable.
 */
int dial(const char *socket, int mode, struct dialled *ret, struct error *err);
void dialled_done(struct dialled *d);

/* Connects again to the place of `lost`, and to no other. */
int dial_again(const struct dialled *lost, struct dialled *ret, struct error *err);

/* Connects to path within DIAL_TIMEOUT_SEC. Returns the descriptor or -errno. */
int dial_path(const char *path);

/* Starts `pyrod --user` detached and waits until it is ready at path (autostart.c). */
int autostart(const char *path, struct error *err);
