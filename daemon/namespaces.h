/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * New namespaces for the calling process. Uses the kernel and libc only.
 */

#include "proto/base.h"

/* Called for a namespace that is not possible: its name, and a negative errno. */
typedef void (*namespaces_note_fn)(const char *what, int r, void *userdata);

/* Enters the namespaces of these CLONE_NEW* flags as far as possible, as a plain user in a user
 * namespace of its own. Returns the flags that succeeded. Must be called with one thread. */
int namespaces_enter(int flags, namespaces_note_fn note, void *userdata);
