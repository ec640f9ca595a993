/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A kernel's modules for a guest: their index (depmod), those that must be loaded before anything
 * can be mounted, in order, and a tar of all of them for /lib/modules.
 */

#include "proto/base.h"
#include "proto/error.h"

/* Runs depmod over ROOT/lib/modules/VERSION. */
int kernel_modules_index(const char *root, const char *version, struct error *err);

/*
 * Writes the modules that the initramfs loads to the new folder out, decompressed, and out/order:
 * their file names in load order, one per line. dir is an indexed lib/modules/VERSION, or NULL for
 * a kernel without modules (an empty order). A required module that is neither in dir nor built in
 * is an error.
 */
int kernel_modules_boot(const char *dir, const char *out, struct error *err);

/* Writes the content of ROOT/lib/modules as a tar to fd; root owns all entries. */
int kernel_modules_tar(const char *root, int fd, struct error *err);
