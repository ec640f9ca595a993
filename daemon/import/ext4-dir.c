/* SPDX-License-Identifier: MIT */
/*
 * Packs the names of one directory into linear ext4 directory blocks. Called by ext4.c twice for
 * each directory: to count its blocks before the image has a size, and to write them. Must stay
 * true: a record never crosses a block, the last record of a block reaches its end, and both calls
 * pack in the same way. There is no checksum tail, since the image has no metadata_csum.
 */
#include "daemon/import/ext4.h"
#include <endian.h>

#define DIRENT_HEAD    8
#define DIRENT_SIZE(n) ((DIRENT_HEAD + (size_t)(n) + 3) & ~(size_t)3)

static uint8_t file_type(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: return EXT2_FT_REG_FILE;
	case S_IFDIR: return EXT2_FT_DIR;
	case S_IFCHR: return EXT2_FT_CHRDEV;
	case S_IFBLK: return EXT2_FT_BLKDEV;
	case S_IFIFO: return EXT2_FT_FIFO;
	case S_IFSOCK: return EXT2_FT_SOCK;
	case S_IFLNK: return EXT2_FT_SYMLINK;
	default: return EXT2_FT_UNKNOWN;
	}
}

void ext4_dir_init(struct ext4_dir *d, struct tree *t, const struct tree_listing *l, uint32_t node)
{
	const struct tree_node *dir = tree_node(t, node);
	*d = (struct ext4_dir){
		.tree = t, .ino = dir->ino, .parent_ino = tree_node(t, dir->parent)->ino
	};
	if (l->first[node] != TREE_NONE) {
		d->entries = l->entries + l->first[node];
		d->n = dir->n_children;
	}
}

static void set_length(uint8_t *record, size_t n)
{
	uint16_t v = htole16((uint16_t)n);
	memcpy(record + 4, &v, sizeof(v));
}

static size_t put_record(
	uint8_t *block, size_t at, uint32_t ino, const char *name, size_t n, uint8_t type)
{
	if (block) {
		uint32_t v = htole32(ino);
		memcpy(block + at, &v, sizeof(v));
		set_length(block + at, DIRENT_SIZE(n));
		block[at + 6] = (uint8_t)n;
		block[at + 7] = type;
		memcpy(block + at + DIRENT_HEAD, name, n);
	}
	return at + DIRENT_SIZE(n);
}

bool ext4_dir_block(struct ext4_dir *d, uint8_t *block)
{
	size_t at = 0, last = 0;
	if (d->started && d->next == d->n)
		return false;
	if (block)
		memset(block, 0, TREE_BLOCK);
	if (!d->started) {
		last = put_record(block, 0, d->ino, ".", 1, EXT2_FT_DIR);
		at = put_record(block, last, d->parent_ino, "..", 2, EXT2_FT_DIR);
		d->started = true;
	}
	for (; d->next < d->n; d->next++) {
		const struct tree_entry *e = d->entries[d->next];
		const struct tree_node *node = tree_node(d->tree, e->node);
		if (at + DIRENT_SIZE(e->n_name) > TREE_BLOCK)
			break;
		last = at;
		at = put_record(block, at, node->ino, e->name, e->n_name, file_type(node->mode));
	}
	if (block)
		set_length(block + last, TREE_BLOCK - last);
	return true;
}
