/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Finds the owners of subordinate uids that a name service assigns (the line "subid:" of
 * nsswitch.conf). A name service may block, so a child process, pyro-subid, asks it; the caller
 * gets cached answers. Created and queried by account.c.
 */

#include "proto/base.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct subids;

struct subids_spec {
	sd_event *event;
	const char *program; /* absolute path of pyro-subid; copied */
	uid_t uid;           /* that the program runs as; 0: pyrod's own */
	gid_t gid;
	/* Called from the loop after each question: an owner may be known now, and a question that
	 * found the queue full can be asked again. */
	void (*on_answer)(void *userdata);
	void *userdata;
};

int subids_new(const struct subids_spec *spec, struct subids **ret);
/* Kills a running program. Accepts NULL. */
struct subids *subids_free(struct subids *s);
DEFINE_CLEANUP(struct subids *, subids_free)

enum { SUBID_SOURCE_SIZE = 50 + 1 }; /* libsubid accepts no longer name */

/* Finds the first source other than "files" of the line "subid:" in the text of nsswitch.conf(5).
 * True if there is one; ret is empty if its name is too long. */
bool subid_source(const char *text, char ret[SUBID_SOURCE_SIZE]);

/* Sets the source to ask. A change of it forgets all answers. NULL: ask nothing. */
void subids_set_source(struct subids *s, const char *source);

/* True if the owner is known, which is uid itself if nobody else owns it. Otherwise, or if the
 * answer is old, the program is asked. It never waits. */
bool subids_find(struct subids *s, uid_t uid, uid_t *ret_owner);
