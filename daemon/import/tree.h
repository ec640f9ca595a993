/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The merged path tree of an environment image: the result of unpacking a tar into an empty root,
 * in memory. Later entries replace earlier ones as with GNU tar; symbolic links are resolved only
 * inside the root and only as parents; hard links become names of one node. File data is in a spool
 * file: a node has the offset of its data there and the list of written 4 KiB blocks; holes take no
 * space.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/stat.h>

#define TREE_BLOCK     4096
#define TREE_NONE      UINT32_MAX
#define TREE_ROOT      0                     /* node of the root directory */
#define TREE_LINK_MAX  65000                 /* of ext4 */
#define TREE_ARENA_MAX (UINT64_C(512) << 20) /* names, link targets, attributes, segments */

struct tree_time {
	int64_t sec;
	uint32_t nsec;
};

/* Blocks [first, first + count) of a file hold data; all others are holes. */
struct tree_segment {
	uint32_t first, count;
};

struct tree_xattr {
	struct tree_xattr *next; /* owned by the tree's arena */
	const char *name;        /* "user.x", "system.posix_acl_access" */
	const void *value;
	uint32_t n;
};

struct tree_node {
	uint32_t mode; /* type and permission bits as in stat */
	uint32_t uid, gid;
	uint32_t dev_major, dev_minor;
	uint32_t nlink;  /* number of names; of a directory 1, of a removed node 0 */
	uint32_t parent; /* of a directory: its parent's node */
	uint32_t n_children;
	struct tree_time mtime, atime;
	uint64_t size;
	uint64_t spool; /* offset of its segments in the spool file, a multiple of TREE_BLOCK */
	struct tree_segment *segments; /* owned */
	uint32_t n_segments, cap_segments;
	const char *target; /* of a symbolic link; in the arena */
	struct tree_xattr *xattrs;
	uint32_t ino; /* for the image writer */
};

/* One name. A removed one has node TREE_NONE. */
struct tree_entry {
	uint32_t parent, node;
	uint32_t n_name;
	const char *name; /* in the arena, NUL-terminated */
};

struct tree;

int tree_new(struct tree **ret);
struct tree *tree_free(struct tree *t);
DEFINE_CLEANUP(struct tree *, tree_free)

struct tree_node *tree_node(struct tree *t, uint32_t node);
uint32_t tree_n_nodes(const struct tree *t);

/*
 * Puts a node of the given mode at path, replaces what tar would replace, and makes missing
 * parents. A directory over a directory keeps the node and its children. On success *ret_node is a
 * node whose metadata and data are empty and to be filled in. seed_refused: the message names the
 * entry.
 */
int tree_put(
	struct tree *t, const char *path, uint32_t mode, uint32_t *ret_node, struct error *err);

/* Makes path another name of the node of target, which must exist and not be a directory. */
int tree_put_hardlink(struct tree *t, const char *path, const char *target, struct error *err);

/* Finds the node of a path without following a link at its end: -ENOENT, -ELOOP, -ENOTDIR. */
int tree_find(struct tree *t, const char *path, uint32_t *ret_node);

/*
 * Makes a path of a node, for an error; owned by the caller, NULL: no memory. Searches all names.
 */
char *tree_path(struct tree *t, uint32_t node);

int tree_set_target(struct tree *t, uint32_t node, const char *target, struct error *err);
int tree_add_xattr(struct tree *t, uint32_t node, const char *name, const void *value, size_t n,
	struct error *err);

/*
 * Records that bytes [offset, offset + n) of the file are in the spool. -EBADMSG when the offset is
 * below the beginning of the last segment.
 */
int tree_add_data(struct tree *t, uint32_t node, uint64_t offset, uint64_t n);

/* All names in use, sorted by parent node and name; those of one directory are adjacent. */
struct tree_listing {
	struct tree_entry **entries; /* owned array of borrowed entries */
	size_t n;
	uint32_t *first; /* owned; by node: where its run begins, TREE_NONE for none */
};
int tree_list(struct tree *t, struct tree_listing *ret);
void tree_listing_done(struct tree_listing *l);
