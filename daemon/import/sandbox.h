/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a parser of hostile bytes does to itself before it reads the first one: afterwards it has its open
 * descriptors, its memory and nothing else of the machine.
 */

#include "proto/base.h"

/* A layer that could not be had: what, and a negative errno. */
typedef void (*sandbox_note_fn)(const char *what, int r, void *userdata);

struct sandbox_spec {
	uint64_t memory_bytes; /* of address space; not kept in builds with AddressSanitizer */
	uint64_t file_bytes;   /* the largest offset it may write at */
	unsigned cpu_seconds, open_files;
	sandbox_note_fn note;
	void *userdata;
};

/*
 * Called with one thread, by a process that another one started and waits for. Returns 0 in the process
 * that is confined, which may be a child of the caller's: the caller then only waits for it and ends as
 * it did, and both end when the process above them does. What can be missing is noted; without leaving
 * root, the limits, no_new_privs and the filter of system calls it fails: *ret_what says which (static).
 */
int sandbox_enter(const struct sandbox_spec *spec, const char **ret_what);

/* The filter alone (sandbox-filter.c): system calls of computing and of open descriptors, never of paths, other
 * processes or the network. After no_new_privs; for good. */
int sandbox_filter(void);
