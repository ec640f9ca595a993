/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What pyro-vmm does to itself before it becomes a VMM. Part of pyro-vmm alone.
 */

#include "proto/base.h"

/* A containment that could not be had: what, and a negative errno. */
typedef void (*confine_note_fn)(const char *what, int r, void *userdata);

struct confine_spec {
	const char *program; /* absolute path of what will be executed */
	int first_fd;        /* what it is handed: first_fd ... first_fd + n_fds - 1 */
	unsigned n_fds;
	bool unit; /* systemd has confined us: no namespaces and no mount view of our own */
	bool kvm;  /* it opens /dev/kvm */
	confine_note_fn note;
	void *userdata;
};

/*
 * Session, limits, namespaces, mount view, identity, no_new_privs, Landlock, filter: in this order. What cannot be had is noted and
 * left out; staying root, keeping the way to new privileges or being without the filter is a failure: *ret_what says
 * which step (static).
 */
int confine(const struct confine_spec *spec, const char **ret_what);

/* confine-paths.c: what a VMM opens by a path. */
enum confine_kind {
	CONFINE_PROGRAM,
	CONFINE_LIBRARIES, /* a directory that programs are loaded from */
	CONFINE_DATA,      /* a directory that is only read */
	CONFINE_FILE,      /* the same, a file */
	CONFINE_DEVICE,
};

enum { CONFINE_PATHS_MAX = 20, CONFINE_PATH_BYTES = 512 };

struct confine_paths {
	struct {
		char path[CONFINE_PATH_BYTES];
		enum confine_kind kind;
	} list[CONFINE_PATHS_MAX];
	size_t n;
	bool known; /* the program lies where its libraries and firmware can be told from */
};

/* Not all of them exist on every host, but the first, the program. */
int confine_paths_fill(struct confine_paths *ret, const struct confine_spec *spec);

/* confine-view.c: makes a file system of these paths alone the root. In a mount namespace of its own. */
int confine_view(const struct confine_paths *paths);

/* confine-filter.c. After no_new_privs; for good. */
int confine_filter(void);
