/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The sandbox that pyro-vmm enters before it executes a VMM. Only pyro-vmm links confine(); pyrod
 * recognises a VMM by its uid.
 */

#include "daemon/namespaces.h"

/* The uid of a VMM that root starts, by its pid as pyrod sees it. */
#define CONFINE_UID(pid) (0x70000000u + (uid_t)(pid))
/* Used where that uid is not mapped (in a container's user namespace): a uid of systemd's dynamic
 * users. Two VMMs may then share a uid. */
#define CONFINE_UID_SMALL(pid) (61184u + (uid_t)(pid) % 4336u)

struct confine_spec {
	const char *program; /* absolute path of the program to execute */
	int first_fd;        /* the descriptors it gets: first_fd ... first_fd + n_fds - 1 */
	unsigned n_fds;
	bool unit;               /* the systemd unit has set up the namespaces and the mount view */
	bool kvm;                /* the VMM opens /dev/kvm */
	namespaces_note_fn note; /* called for each step that failed */
	void *userdata;
};

/*
 * Applies, in this order: session, limits, namespaces, mount view, uid, no_new_privs, Landlock,
 * seccomp filter. A step that is not possible is reported and skipped. It fails, with the step's
 * name in *ret_what (static), if the process would stay root or lack no_new_privs or the filter.
 */
int confine(const struct confine_spec *spec, const char **ret_what);

/* confine-paths.c: the paths that a VMM opens. */
enum confine_kind {
	CONFINE_PROGRAM,
	CONFINE_LIBRARIES, /* a directory of libraries, for reading and executing */
	CONFINE_DATA,      /* a directory, for reading */
	CONFINE_FILE,      /* a file, for reading */
	CONFINE_DEVICE,
};

enum { CONFINE_PATHS_MAX = 20, CONFINE_PATH_BYTES = 512 };

struct confine_paths {
	struct {
		char path[CONFINE_PATH_BYTES];
		enum confine_kind kind;
	} list[CONFINE_PATHS_MAX];
	size_t n;
	bool known; /* the program's directory tells where its libraries and firmware are */
};

/* The first path is the program, which exists; the others may not exist on every host. */
int confine_paths_fill(struct confine_paths *ret, const struct confine_spec *spec);

/* confine-view.c: makes a file system with only these paths the root. The caller has entered a
 * mount namespace. */
int confine_view(const struct confine_paths *paths);

/* confine-filter.c: installs the filter, which cannot be removed. no_new_privs must be set. */
int confine_filter(void);
