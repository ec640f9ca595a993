/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Writes a merged tree as one read-only ext4 image: exact size, no journal, no reserved blocks,
 * every directory written whole from its sorted names. The same tree and data give the same bytes.
 */

#include "daemon/import/tree.h"
#include <ext2fs/ext2fs.h>

struct ext4_result {
	uint64_t size_bytes;
	uint64_t entries; /* names, the root included */
};

/*
 * Fills the empty file image_fd (open for reading and writing) from the tree; file data comes from
 * spool_fd. No path is opened. Synced when it returns 0.
 */
int ext4_write(
	struct tree *t, int spool_fd, int image_fd, struct ext4_result *ret, struct error *err);

/* The one mapping of libext2fs's error space: sets err and returns its -errno. */
int ext4_error(struct error *err, errcode_t code, const char *what, const char *path);

/*
 * Directory blocks (ext4-dir.c): names of one directory packed one block at a time, "." and ".."
 * first.
 */
struct ext4_dir {
	struct tree *tree;
	struct tree_entry **entries; /* borrowed run of the listing */
	size_t n, next;
	uint32_t ino, parent_ino;
	bool started;
};

void ext4_dir_init(struct ext4_dir *d, struct tree *t, const struct tree_listing *l, uint32_t node);
/* Packs the next block; returns false when there is none. block may be NULL, to count. */
bool ext4_dir_block(struct ext4_dir *d, uint8_t *block);
