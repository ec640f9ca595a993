/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Installs a finished staging folder in a job: every file is checked, owned by pyrod and fsynced,
 * then one rename installs the folder as a whole.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/queue.h>
#include <systemd/sd-event.h>

struct install;
/* The installs of one owner that run, so that it can cancel them. LIST_INIT it first. */
LIST_HEAD(installs, install);
/* err NULL: installed and synced. Called exactly once, unless cancelled. */
typedef void (*install_done_fn)(const struct error *err, void *userdata);

struct install_spec {
	const char *dir;     /* the folder of staging and target */
	const char *staging; /* name below dir */
	const char *member;  /* NULL: all of staging; else this file only, and staging is removed */
	const char *target; /* name below dir (may be "HASH/initrd-…"); replaced when it exists */
	const char *meta;   /* text of STAGING/meta.json, or NULL */
	const char *note;   /* without member: name of one more small file in STAGING, or NULL */
	const char *note_text;
	const char *ref; /* name below dir of a small file that names the current one, or NULL */
	const char *ref_text;
	const char *sweep; /* with member: prefix of files in its folder to remove, or NULL */
};

int install_start(sd_event *event, struct installs *list, const struct install_spec *spec,
	install_done_fn done, void *userdata, struct error *err);

/* Removes these (absolute) paths in a job; done may be NULL. Paths are copied. */
int install_remove(sd_event *event, struct installs *list, const char *const *paths, size_t n,
	install_done_fn done, void *userdata, struct error *err);

/* Cancels all of the list without callbacks. Folders that are not renamed or removed yet stay. */
void install_cancel_all(struct installs *list);

/*
 * Returns names in dir that start with prefix, as absolute paths, to be freed with
 * install_paths_free. Reads a folder: only at start, or a folder of pyrod's own.
 */
int install_leftovers(const char *dir, const char *prefix, char ***ret, size_t *ret_n);
void install_paths_free(char **paths, size_t n);
