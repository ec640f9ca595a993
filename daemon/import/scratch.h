/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A folder for the tools of one run of pyro-import, outside of what pyrod keeps to itself: they, and root of the
 * tree that mmdebstrap makes, can pass through it; nobody else can. Its lock says that the run still lives.
 */

#include "proto/base.h"
#include "proto/error.h"

struct scratch {
	char *path;  /* owned; absolute, NULL when there is none */
	int lock_fd; /* owned */
};

#define SCRATCH_INIT \
	{ \
		NULL, -EBADF \
	}

/* On the roomier of /var/tmp and /tmp, or where TMPDIR says; first removes what dead runs of this user
 * left there. */
int scratch_make(struct scratch *s, struct error *err);
/* Removes the folder and all in it; what cannot be removed is told on stderr and left to the next run. */
void scratch_done(struct scratch *s);
