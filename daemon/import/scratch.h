/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A folder for the tools of one run of pyro-import, outside of pyrod's private folders. Only the
 * tools, and root of the tree that mmdebstrap makes, can enter it. It is locked while the run
 * lasts.
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

/*
 * Makes the folder in TMPDIR, else in /var/tmp or /tmp, whichever has more free space. First
 * removes the folders that dead runs of this user left there.
 */
int scratch_make(struct scratch *s, struct error *err);
/* Removes the folder and its content. Reports on stderr what remains; the next run removes it. */
void scratch_done(struct scratch *s);
