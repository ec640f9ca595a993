/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Removes a file or a directory tree without following links. Makes async-signal-safe calls only,
 * so that a forked child of a process with threads may call it.
 */

#include "proto/base.h"

#define REMOVE_DEPTH_MAX 64

/* Returns 0 also if name does not exist; else the first error, after trying the rest. */
int remove_tree_at(int dir_fd, const char *name);
