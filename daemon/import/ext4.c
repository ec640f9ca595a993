/* SPDX-License-Identifier: MIT */
/*
 * Writes a merged tree as an ext4 file system through libext2fs, which owns superblock, groups,
 * bitmaps, extents and attributes; this file owns sizes, inode numbers, directories and data.
 * Called by import-write.c.
 *
 * Must stay true: the bytes depend only on the tree and its data, so that a digest identifies
 * content. The times of the file system itself are fixed; UUID and hash seed come from a digest of
 * the metadata. Everything is counted before the file system is laid out, since it never grows. It
 * has no metadata_csum and no journal: the image is mounted read-only and has a digest of its own.
 */
#include "daemon/import/ext4.h"
#include "daemon/import/contract.h"
#include "proto/limits.h"
#include <fcntl.h>
#include <nettle/sha2.h>

#define FS_TIME       1 /* of the file system itself: bytes depend on content only */
#define FIRST_INO     11
#define EXTENT_BLOCKS 32768 /* of one extent at most */
#define LAYOUT_TRIES  64
#define FAST_SYMLINK  60
#define BLOCK_XATTRS  1
#define COPY_BYTES    (1024 * 1024)
#define BLOCKS_MAX    (UINT64_C(1) << 31)

struct writer {
	struct tree *tree; /* borrowed */
	struct tree_listing list;
	int spool_fd;   /* borrowed */
	int fd;         /* borrowed: the image */
	ext2_filsys fs; /* owned */
	blk64_t cursor; /* blocks below it are in use, unless libext2fs has freed them */
	uint32_t n_inodes, next_ino;
	uint64_t n_blocks; /* needed for data, directories, trees and attributes */
	uint8_t uuid[16];
};

int ext4_error(struct error *err, errcode_t code, const char *what, const char *path)
{
	initialize_ext2_error_table();
	if (code > 0 && code < 1024) /* an errno */
		return error_set_errno(err, error_code_for_errno(-(int)code), -(int)code, NULL,
			"cannot %s \"%s\"", what, path);
	if (code == EXT2_ET_NO_MEMORY)
		return error_no_memory(err, "no memory to %s \"%s\"", what, path);
	if (code == EXT2_ET_EA_NO_SPACE)
		return error_set(err, ERROR_SEED_REFUSED, error_message(code),
			"give that file fewer or shorter extended attributes", "cannot %s \"%s\"",
			what, path);
	return error_internal(err, error_message(code), "cannot %s \"%s\"", what, path);
}

static void writer_done(struct writer *w)
{
	if (w->fs)
		ext2fs_free(w->fs);
	tree_listing_done(&w->list);
}

/* Hashes a node's metadata; the order of entries within a directory does not matter. */
static void hash_node(struct sha256_ctx *h, const struct tree_node *n)
{
	uint64_t v[] = { n->mode, n->uid, n->gid, n->dev_major, n->dev_minor, n->size,
		(uint64_t)n->mtime.sec, n->mtime.nsec, n->ino };
	sha256_update(h, sizeof(v), (const uint8_t *)v);
	if (n->target)
		sha256_update(h, strlen(n->target) + 1, (const uint8_t *)n->target);
	for (const struct tree_xattr *x = n->xattrs; x; x = x->next) {
		sha256_update(h, strlen(x->name) + 1, (const uint8_t *)x->name);
		sha256_update(h, x->n, x->value);
	}
}

static void number_nodes(struct writer *w)
{
	w->next_ino = FIRST_INO;
	for (uint32_t i = 0; i < tree_n_nodes(w->tree); i++) {
		struct tree_node *n = tree_node(w->tree, i);
		n->ino = i == TREE_ROOT ? EXT2_ROOT_INO : n->nlink ? w->next_ino++ : 0;
	}
	w->n_inodes = w->next_ino - 1;
}

static void make_uuid(struct writer *w)
{
	struct sha256_ctx h;
	sha256_init(&h);
	for (uint32_t i = 0; i < tree_n_nodes(w->tree); i++)
		if (tree_node(w->tree, i)->nlink)
			hash_node(&h, tree_node(w->tree, i));
	for (size_t i = 0; i < w->list.n; i++)
		sha256_update(&h, w->list.entries[i]->n_name + 1,
			(const uint8_t *)w->list.entries[i]->name);
	sha256_digest(&h, sizeof(w->uuid), w->uuid);
	w->uuid[6] = (w->uuid[6] & 0x0f) | 0x80; /* RFC 9562 version 8: made by hash, custom */
	w->uuid[8] = (w->uuid[8] & 0x3f) | 0x80;
}

static uint32_t dir_blocks(struct writer *w, uint32_t node)
{
	struct ext4_dir d;
	uint32_t n = 0;
	ext4_dir_init(&d, w->tree, &w->list, node);
	while (ext4_dir_block(&d, NULL))
		n++;
	return n;
}

/* Returns an upper bound of the blocks of one node, its extent tree included. */
static uint64_t node_blocks(struct writer *w, uint32_t i)
{
	const struct tree_node *n = tree_node(w->tree, i);
	uint64_t blocks = n->xattrs ? BLOCK_XATTRS : 0, data = 0, extents = 0;
	if (S_ISDIR(n->mode)) {
		data = dir_blocks(w, i);
		extents = 1;
	} else if (S_ISLNK(n->mode)) {
		data = n->size >= FAST_SYMLINK ? 1 : 0;
	} else if (S_ISREG(n->mode)) {
		for (uint32_t s = 0; s < n->n_segments; s++)
			data += n->segments[s].count;
		extents = n->n_segments;
	}
	/* A run may be cut by each group's own blocks; appending leaves tree blocks half full. */
	extents += 2 * (data / EXTENT_BLOCKS) + (data > 0 ? 1 : 0);
	if (extents > 3)
		blocks += extents / 128 + 4;
	return blocks + data;
}

static void fill_params(const struct writer *w, uint64_t blocks, struct ext2_super_block *p)
{
	memset(p, 0, sizeof(*p));
	ext2fs_blocks_count_set(p, blocks);
	p->s_inodes_count = w->n_inodes + 8;
	p->s_rev_level = EXT2_DYNAMIC_REV;
	p->s_inode_size = 256;
	p->s_min_extra_isize = p->s_want_extra_isize = 32;
	p->s_log_block_size = p->s_log_cluster_size = 2; /* 4 KiB */
	p->s_log_groups_per_flex = 8;
	p->s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR;
	p->s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
				EXT4_FEATURE_INCOMPAT_FLEX_BG;
	p->s_feature_ro_compat =
		EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
		EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
		EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE;
}

static void fill_super(const struct writer *w)
{
	struct ext2_super_block *s = w->fs->super;
	w->fs->now = FS_TIME;
	s->s_mkfs_time = s->s_wtime = s->s_lastcheck = FS_TIME;
	s->s_checkinterval = 0;
	s->s_max_mnt_count = -1;
	s->s_default_mount_opts = EXT2_DEFM_XATTR_USER | EXT2_DEFM_ACL;
	s->s_state = EXT2_VALID_FS;
	memcpy(s->s_uuid, w->uuid, sizeof(s->s_uuid));
	memcpy(s->s_hash_seed, w->uuid, sizeof(w->uuid));
	memcpy(s->s_volume_name, "pyro-env", 8);
}

/* Gives libext2fs a descriptor of its own, which it closes: the sandbox can open no path. */
static errcode_t initialize(struct writer *w, struct ext2_super_block *param)
{
	char name[16];
	int fd = dup(w->fd);
	if (fd < 0)
		return errno;
	(void)snprintf(name, sizeof(name), "%d", fd);
	return ext2fs_initialize(name, EXT2_FLAG_64BITS, param, unixfd_io_manager, &w->fs);
}

/* Lays the file system out with at least n_blocks free; in a few rounds, since overhead grows. */
static int lay_out(struct writer *w, struct error *err)
{
	uint64_t blocks = w->n_blocks + w->n_inodes / 16 + w->n_blocks / 8192 + 64;
	struct ext2_super_block param;
	for (unsigned i = 0; i < LAYOUT_TRIES && blocks < BLOCKS_MAX; i++) {
		fill_params(w, blocks, &param);
		errcode_t e = initialize(w, &param);
		if (e == 0)
			e = ext2fs_allocate_tables(w->fs);
		if (e && e != EXT2_ET_TOOSMALL && e != EXT2_ET_BLOCK_ALLOC_FAIL)
			return ext4_error(err, e, "lay out", IMPORT_IMAGE);
		uint64_t free_blocks = e ? 0 : ext2fs_free_blocks_count(w->fs->super);
		if (e == 0 && free_blocks >= w->n_blocks + 8) {
			fill_super(w);
			return 0;
		}
		if (w->fs)
			ext2fs_free(w->fs);
		w->fs = NULL;
		blocks += MAX_OF(w->n_blocks + 8 - MIN_OF(free_blocks, w->n_blocks), UINT64_C(64));
	}
	return error_set(err, ERROR_PULL_FAILED, "the image would be too large",
		"leave some of its files out of the archive", "cannot lay out \"%s\"",
		IMPORT_IMAGE);
}

/* Takes the next free blocks, up to want of them in one run. */
static int take_run(struct writer *w, uint64_t want, blk64_t *ret_first, uint32_t *ret_n)
{
	blk64_t last = ext2fs_blocks_count(w->fs->super) - 1, first, end;
	if (ext2fs_find_first_zero_block_bitmap2(w->fs->block_map, w->cursor, last, &first))
		return -ENOSPC;
	want = MIN_OF(want, (uint64_t)EXTENT_BLOCKS);
	blk64_t limit = MIN_OF(first + want - 1, last);
	if (ext2fs_find_first_set_block_bitmap2(w->fs->block_map, first, limit, &end))
		end = limit + 1;
	ext2fs_block_alloc_stats_range(w->fs, first, (blk_t)(end - first), +1);
	w->cursor = end;
	*ret_first = first;
	*ret_n = (uint32_t)(end - first);
	return 0;
}

static int copy_slow(struct writer *w, off_t from, off_t to, size_t n)
{
	_cleanup_free_ uint8_t *bytes = malloc(COPY_BYTES);
	if (!bytes)
		return -ENOMEM;
	while (n > 0) {
		ssize_t k = pread(w->spool_fd, bytes, MIN_OF(n, (size_t)COPY_BYTES), from);
		if (k <= 0)
			return k < 0 ? -errno : -EIO;
		if (pwrite(w->fd, bytes, k, to) != k)
			return errno == ENOSPC ? -ENOSPC : -EIO;
		from += k;
		to += k;
		n -= k;
	}
	return 0;
}

static int copy_data(struct writer *w, uint64_t from_byte, uint64_t to_byte, size_t n)
{
	off_t from = (off_t)from_byte, to = (off_t)to_byte;
	while (n > 0) {
		ssize_t k = copy_file_range(w->spool_fd, &from, w->fd, &to, n, 0);
		if (k <= 0)
			return copy_slow(w, from, to, n);
		n -= k;
	}
	return 0;
}

/* The content of a run of blocks: part of a file's spool, a directory, a link's target. */
struct source {
	struct ext4_dir *dir;
	const char *target;
	uint64_t spool;
};

static int write_run(struct writer *w, const struct source *s, blk64_t block, uint32_t n)
{
	uint8_t bytes[TREE_BLOCK] = { 0 };
	if (!s->dir && !s->target)
		return copy_data(w, s->spool, block * TREE_BLOCK, (size_t)n * TREE_BLOCK);
	if (s->target)
		memcpy(bytes, s->target, strlen(s->target));
	for (uint32_t i = 0; i < n; i++) {
		if (s->dir)
			(void)ext4_dir_block(s->dir, bytes);
		errno = 0;
		if (pwrite(w->fd, bytes, sizeof(bytes), (off_t)(block + i) * TREE_BLOCK) !=
			sizeof(bytes))
			return errno ? -errno : -EIO;
	}
	return 0;
}

/* Maps blocks [first, first + count) of an inode and writes them. */
static int add_blocks(struct writer *w, ext2_extent_handle_t h, struct ext2_inode *inode,
	struct tree_segment seg, struct source src, struct error *err)
{
	while (seg.count > 0) {
		struct ext2fs_extent ext = { .e_lblk = seg.first };
		uint32_t n;
		int r = take_run(w, seg.count, &ext.e_pblk, &n);
		if (r >= 0)
			r = write_run(w, &src, ext.e_pblk, n);
		if (r < 0)
			return ext4_error(err, -r, "write", IMPORT_IMAGE);
		ext.e_len = n;
		errcode_t e = ext2fs_extent_insert(h, EXT2_EXTENT_INSERT_AFTER, &ext);
		if (e == 0)
			e = ext2fs_iblk_add_blocks(w->fs, inode, n);
		if (e)
			return ext4_error(err, e, "map blocks in", IMPORT_IMAGE);
		seg.first += n;
		seg.count -= n;
		src.spool += (uint64_t)n * TREE_BLOCK;
	}
	return 0;
}

static int map_inode(struct writer *w, uint32_t i, ext2_extent_handle_t h, struct ext2_inode *inode,
	struct error *err)
{
	const struct tree_node *n = tree_node(w->tree, i);
	struct ext4_dir dir;
	int r = 0;
	if (S_ISDIR(n->mode)) {
		ext4_dir_init(&dir, w->tree, &w->list, i);
		return add_blocks(w, h, inode, (struct tree_segment){ 0, dir_blocks(w, i) },
			(struct source){ .dir = &dir }, err);
	}
	if (S_ISLNK(n->mode))
		return add_blocks(w, h, inode, (struct tree_segment){ 0, 1 },
			(struct source){ .target = n->target }, err);
	uint64_t spool = n->spool;
	for (uint32_t s = 0; s < n->n_segments && r >= 0; s++) {
		r = add_blocks(w, h, inode, n->segments[s], (struct source){ .spool = spool }, err);
		spool += (uint64_t)n->segments[s].count * TREE_BLOCK;
	}
	return r;
}

/*
 * Seconds and nanoseconds of an ext4 time: 34 bits from 1901 to 2446, clamped as the kernel does.
 */
static void split_time(const struct tree_time *t, uint32_t *ret_low, uint32_t *ret_extra)
{
	const int64_t min = INT32_MIN, max = (INT64_C(3) << 32) + INT32_MAX;
	int64_t sec = t->sec < min ? min : MIN_OF(t->sec, max);
	*ret_low = (uint32_t)sec;
	*ret_extra = (uint32_t)(((sec - (int32_t)sec) >> 32) & 3) | t->nsec << 2;
}

static uint32_t count_links(struct writer *w, uint32_t i)
{
	const struct tree_node *n = tree_node(w->tree, i);
	uint32_t links = 2;
	if (!S_ISDIR(n->mode))
		return n->nlink;
	for (uint32_t k = 0; k < n->n_children; k++)
		links += S_ISDIR(
			tree_node(w->tree, w->list.entries[w->list.first[i] + k]->node)->mode);
	return links > TREE_LINK_MAX ? 1 : links; /* dir_nlink: 1 says "many" */
}

static void fill_inode(struct writer *w, uint32_t i, struct ext2_inode_large *inode)
{
	const struct tree_node *n = tree_node(w->tree, i);
	uint64_t size = S_ISDIR(n->mode) ? (uint64_t)dir_blocks(w, i) * TREE_BLOCK : n->size;
	memset(inode, 0, sizeof(*inode));
	inode->i_mode = n->mode;
	inode->i_uid = n->uid & 0xffff;
	inode->osd2.linux2.l_i_uid_high = n->uid >> 16;
	inode->i_gid = n->gid & 0xffff;
	inode->osd2.linux2.l_i_gid_high = n->gid >> 16;
	inode->i_links_count = count_links(w, i);
	inode->i_extra_isize = 32;
	if (S_ISREG(n->mode) || S_ISDIR(n->mode) || S_ISLNK(n->mode)) {
		inode->i_size = (uint32_t)size;
		inode->i_size_high = size >> 32;
	}
	split_time(&n->mtime, &inode->i_mtime, &inode->i_mtime_extra);
	split_time(&n->atime, &inode->i_atime, &inode->i_atime_extra);
	inode->i_ctime = inode->i_crtime = inode->i_mtime;
	inode->i_ctime_extra = inode->i_crtime_extra = inode->i_mtime_extra;
}

static void fill_device(const struct tree_node *n, struct ext2_inode_large *inode)
{
	uint32_t major = n->dev_major, minor = n->dev_minor;
	if (major < 256 && minor < 256)
		inode->i_block[0] = major << 8 | minor;
	else
		inode->i_block[1] = (minor & 0xff) | major << 8 | (minor & ~UINT32_C(0xff)) << 12;
}

static int write_xattrs(struct writer *w, uint32_t i, struct error *err)
{
	const struct tree_node *n = tree_node(w->tree, i);
	struct ext2_xattr_handle *h = NULL;
	errcode_t e = ext2fs_xattrs_open(w->fs, n->ino, &h);
	for (const struct tree_xattr *x = n->xattrs; x && e == 0; x = x->next)
		e = ext2fs_xattr_set(h, x->name, x->value, x->n);
	if (h)
		(void)ext2fs_xattrs_close(&h);
	if (e == 0)
		return 0;
	_cleanup_free_ char *path = tree_path(w->tree, i);
	return ext4_error(err, e, "store the extended attributes of", path ? path : "an entry");
}

static bool has_blocks(const struct tree_node *n)
{
	return S_ISDIR(n->mode) || S_ISREG(n->mode) ||
	       (S_ISLNK(n->mode) && n->size >= FAST_SYMLINK);
}

static int write_node(struct writer *w, uint32_t i, struct error *err)
{
	const struct tree_node *n = tree_node(w->tree, i);
	struct ext2_inode_large inode;
	struct ext2_inode *small = (struct ext2_inode *)&inode;
	ext2_extent_handle_t h = NULL;
	errcode_t e = 0;
	int r = 0;
	fill_inode(w, i, &inode);
	if (has_blocks(n)) {
		inode.i_flags |= EXT4_EXTENTS_FL;
		e = ext2fs_extent_open2(w->fs, n->ino, small, &h);
		if (e)
			return ext4_error(err, e, "begin an inode of", IMPORT_IMAGE);
		r = map_inode(w, i, h, small, err);
		ext2fs_extent_free(h);
	} else if (S_ISLNK(n->mode)) {
		memcpy(inode.i_block, n->target, n->size);
	} else if (S_ISCHR(n->mode) || S_ISBLK(n->mode)) {
		fill_device(n, &inode);
	}
	if (r < 0)
		return r;
	e = ext2fs_write_inode_full(w->fs, n->ino, small, sizeof(inode));
	if (e)
		return ext4_error(err, e, "write an inode of", IMPORT_IMAGE);
	ext2fs_inode_alloc_stats2(w->fs, n->ino, +1, S_ISDIR(n->mode));
	return n->xattrs ? write_xattrs(w, i, err) : 0;
}

static int write_all_nodes(struct writer *w, struct error *err)
{
	w->cursor = w->fs->super->s_first_data_block;
	for (uint32_t i = EXT2_BAD_INO; i < FIRST_INO; i++)
		if (i != EXT2_ROOT_INO)
			ext2fs_inode_alloc_stats2(w->fs, i, +1, 0);
	for (uint32_t i = 0; i < tree_n_nodes(w->tree); i++) {
		if (!tree_node(w->tree, i)->nlink)
			continue;
		int r = write_node(w, i, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int prepare(struct writer *w, struct error *err)
{
	int r = tree_list(w->tree, &w->list);
	if (r < 0)
		return ext4_error(err, -r, "list the entries for", IMPORT_IMAGE);
	number_nodes(w);
	make_uuid(w);
	for (uint32_t i = 0; i < tree_n_nodes(w->tree); i++)
		if (tree_node(w->tree, i)->nlink)
			w->n_blocks += node_blocks(w, i);
	return lay_out(w, err);
}

int ext4_write(
	struct tree *t, int spool_fd, int image_fd, struct ext4_result *ret, struct error *err)
{
	_cleanup_(
		writer_done) struct writer w = { .tree = t, .spool_fd = spool_fd, .fd = image_fd };
	int r = prepare(&w, err);
	if (r < 0)
		return r;
	uint64_t size = ext2fs_blocks_count(w.fs->super) * TREE_BLOCK;
	if (ftruncate(w.fd, (off_t)size) < 0)
		return ext4_error(err, errno, "size", IMPORT_IMAGE);
	r = write_all_nodes(&w, err);
	if (r < 0)
		return r;
	errcode_t e = ext2fs_close_free(&w.fs);
	if (e)
		return ext4_error(err, e, "finish", IMPORT_IMAGE);
	if (fsync(w.fd) < 0)
		return ext4_error(err, errno, "sync", IMPORT_IMAGE);
	*ret = (struct ext4_result){ .size_bytes = size, .entries = w.list.n + 1 };
	return 0;
}
