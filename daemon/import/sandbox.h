/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Confines a parser of hostile bytes before it reads the first one: afterwards it has access only
 * to its open descriptors and its memory.
 */

#include "daemon/namespaces.h"

struct sandbox_spec {
	uint64_t memory_bytes; /* of address space; not kept in builds with AddressSanitizer */
	uint64_t file_bytes;   /* the largest offset it may write at */
	unsigned cpu_seconds, open_files;
	namespaces_note_fn note; /* called for each layer that is not possible */
	void *userdata;
};

/*
 * Called with one thread, by a process whose parent waits for it. Returns 0 in the confined
 * process, which may be a child of the caller: the caller then only waits for it and exits with its
 * status; both end when the parent does. Optional layers that are missing are reported. It fails
 * when it cannot drop root rights, set the limits or no_new_privs, or install the filter of system
 * calls: *ret_what says which (static).
 */
int sandbox_enter(const struct sandbox_spec *spec, const char **ret_what);

/*
 * Installs only the filter (sandbox-filter.c): system calls for computing and open descriptors, not
 * for paths, other processes or the network. Needs no_new_privs; cannot be undone.
 */
int sandbox_filter(void);
