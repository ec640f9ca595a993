/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Reads one tar (plain, gzip, xz or zstd) into a merged tree and its spool. The archive is hostile:
 * see the limits in proto/limits.h; libarchive only parses, it never touches the file system.
 */

#include "daemon/import/tree.h"

/*
 * Sets *ret to the next bytes, borrowed until the next call; returns their number, 0 at the end,
 * -errno.
 */
typedef ssize_t (*tar_input_fn)(void *userdata, const void **ret);

struct tar_read {
	struct tree *tree;  /* borrowed */
	int spool_fd;       /* borrowed */
	uint64_t spool_end; /* a multiple of TREE_BLOCK */
	uint64_t total;     /* apparent bytes of all files so far */
	tar_input_fn input;
	void *userdata;
	int input_error; /* -errno of the first failed input call */
	char *last;      /* owned; path of the last entry that was begun */
};

/* Fails with no_space when the spool reaches its limit (EFBIG). */
int tar_read(struct tar_read *tr, struct error *err);
