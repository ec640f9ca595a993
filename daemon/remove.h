/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Removes a file or a folder with everything in it, without following a link. Only async-signal-safe
 * calls, so that a forked child of a process with threads may run it.
 */

#include "proto/base.h"

#define REMOVE_DEPTH_MAX 64

/* 0 also when there is nothing of that name; the first error otherwise, after trying the rest. */
int remove_tree_at(int dir_fd, const char *name);
