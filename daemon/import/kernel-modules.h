/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a guest needs of a kernel's modules: their index (depmod), the few that must be loaded before
 * anything can be mounted, in order, and all of them as a file system image for /lib/modules.
 */

#include "proto/base.h"
#include "proto/error.h"

/* Runs depmod over ROOT/lib/modules/VERSION. */
int kernel_modules_index(const char *root, const char *version, struct error *err);

/*
 * Writes the modules the initramfs loads to the new folder out, decompressed, and out/order: their
 * file names in load order, one a line. dir is an indexed lib/modules/VERSION, or NULL for a kernel
 * without modules (an empty order). A module that every machine needs and that is neither there nor
 * built in is an error.
 */
int kernel_modules_boot(const char *dir, const char *out, struct error *err);

/* Writes ROOT/lib/modules as a tar to fd, its root being the contents of lib/modules, all owned by root. */
int kernel_modules_tar(const char *root, int fd, struct error *err);
