/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What makes a finished staging folder an installed one, in a job: every file checked, owned by us and
 * fsynced, then one rename. Before the rename nothing is installed, after it everything is.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/queue.h>
#include <systemd/sd-event.h>

struct install;
/* Those under way for one owner, so that it can end them when it goes. LIST_INIT it first. */
LIST_HEAD(installs, install);
/* err NULL: installed, durably. Exactly once, unless cancelled. */
typedef void (*install_done_fn)(const struct error *err, void *userdata);

struct install_spec {
	const char *dir;     /* the folder both live in */
	const char *staging; /* name below dir */
	const char *
		member; /* NULL: the whole of staging; else this one file of it, and staging goes */
	const char *target; /* name below dir (may be "HASH/initrd-…"); replaced when it exists */
	const char *meta;   /* text of STAGING/meta.json, or NULL */
	const char *note;   /* without member: name of one more small file of STAGING's, or NULL */
	const char *note_text;
	const char *ref; /* name below dir of a small file that tells which is current, or NULL */
	const char *ref_text;
	const char *sweep; /* with member: others in its folder with this prefix go, or NULL */
};

int install_start(sd_event *event, struct installs *list, const struct install_spec *spec,
	install_done_fn done, void *userdata, struct error *err);

/* Removes these (absolute) paths in a job; done may be NULL. Paths are copied. */
int install_remove(sd_event *event, struct installs *list, const char *const *paths, size_t n,
	install_done_fn done, void *userdata, struct error *err);

/* Ends all of the list; nobody is told. What was not renamed stays aside, what was not removed stays. */
void install_cancel_all(struct installs *list);

/* Names in dir that start with prefix, as absolute paths, to be freed with install_paths_free. Reads a
 * folder: at start only, or of our own. */
int install_leftovers(const char *dir, const char *prefix, char ***ret, size_t *ret_n);
void install_paths_free(char **paths, size_t n);
