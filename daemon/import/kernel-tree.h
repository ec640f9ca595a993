/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A kernel's files: the boot image in memory, the modules in a private folder, below
 * ROOT/lib/modules/VERSION as depmod expects.
 */

#include "proto/base.h"
#include "proto/error.h"
#include "daemon/import/vmlinux.h"

struct kernel_tree {
	const char *root;                  /* borrowed; a private folder, empty at first */
	char version[IMPORT_VERSION_SIZE]; /* of the modules; "" when there are none */
	uint8_t *image;                    /* owned; /boot/vmlinuz-* of the package */
	size_t image_size;
	uint64_t bytes;   /* of module files written */
	unsigned entries; /* in all */
};
void kernel_tree_done(struct kernel_tree *t);

/* Reads the image and the modules from a Debian kernel package. */
int kernel_tree_from_deb(struct kernel_tree *t, const char *deb, struct error *err);

/* Copies the modules of a /lib/modules/VERSION folder. */
int kernel_tree_from_dir(struct kernel_tree *t, const char *dir, struct error *err);

/* Reads the image from a file. */
int kernel_tree_read_image(struct kernel_tree *t, const char *path, struct error *err);
