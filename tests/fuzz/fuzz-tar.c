/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the tar reader and the merged tree: names must stay inside the root, every entry
 * must be in a directory, link counts must be right and data must lie within its file. Mostly
 * uncompressed tar, since decompressors are not tested here. One byte after the last block makes
 * the read at the end fail, two bytes make the spool read-only.
 */

#include "daemon/import/tar-read.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "proto/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *p;
	size_t n;
	int end; /* result of a read at the end: 0, -errno */
};

static ssize_t on_input(void *userdata, const void **ret)
{
	struct input *in = userdata;
	size_t n = MIN_OF(in->n, (size_t)10240);

	if (n == 0)
		return in->end;
	*ret = in->p;
	in->p += n;
	in->n -= n;
	return (ssize_t)n;
}

static void check_node(struct tree *t, uint32_t node)
{
	const struct tree_node *n = tree_node(t, node);
	uint64_t end = 0;

	for (uint32_t i = 0; i < n->n_segments; i++) {
		if (n->segments[i].count == 0 || n->segments[i].first < end)
			abort();
		end = (uint64_t)n->segments[i].first + n->segments[i].count;
	}
	if (end > (n->size + TREE_BLOCK - 1) / TREE_BLOCK || (S_ISLNK(n->mode) && !n->target))
		abort();
	for (const struct tree_xattr *x = n->xattrs; x; x = x->next)
		if (!startswith(x->name, "user.") && !startswith(x->name, "security.capability") &&
			!startswith(x->name, "system.posix_acl_"))
			abort();
}

static void check_entry(struct tree *t, const struct tree_entry *e, uint32_t *links)
{
	if (e->node >= tree_n_nodes(t) || e->parent >= tree_n_nodes(t) || e->n_name == 0 ||
		e->n_name > 255 || strlen(e->name) != e->n_name || strchr(e->name, '/') ||
		streq(e->name, ".") || streq(e->name, "..") ||
		!S_ISDIR(tree_node(t, e->parent)->mode))
		abort();
	links[e->node]++;
	check_node(t, e->node);
}

/* The path of an entry, as in an error, must lead back to its directory. Checked for the first
 * entry only, since it searches all names. */
static void check_path(struct tree *t, uint32_t node)
{
	_cleanup_free_ char *path = tree_path(t, node);
	uint32_t found = TREE_NONE;

	if (!path || (strlen(path) <= LIMIT_IMAGE_PATH &&
			     (tree_find(t, path, &found) < 0 || found != node)))
		abort();
}

/* A refused archive leaves a half-made tree, which is not checked: it is freed unused. */
static void check_tree(struct tree *t)
{
	struct tree_listing list = { 0 };
	_cleanup_free_ uint32_t *links = calloc(tree_n_nodes(t), sizeof(*links));

	if (!links || tree_list(t, &list) < 0)
		abort();
	for (size_t i = 0; i < list.n; i++) {
		const struct tree_entry *e = list.entries[i], *before = i ? list.entries[i - 1] : e;

		check_entry(t, e, links);
		if (i < 16)
			check_path(t, e->parent);
		if (i > 0 &&
			(before->parent > e->parent || (before->parent == e->parent &&
							       strcmp(before->name, e->name) >= 0)))
			abort();
	}
	for (uint32_t i = 1; i < tree_n_nodes(t); i++)
		if (links[i] != tree_node(t, i)->nlink)
			abort();
	tree_listing_done(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_(tree_freep) struct tree *t = NULL;
	_cleanup_close_ int spool = memfd_create("spool", MFD_CLOEXEC);
	struct input in = { data, size, size % 512 == 1 ? -EIO : 0 };

	if (spool < 0 || tree_new(&t) < 0)
		abort();
	if (size % 512 == 2) {
		fd_close(spool);
		spool = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	struct tar_read tr = { .tree = t, .spool_fd = spool, .input = on_input, .userdata = &in };
	if (tar_read(&tr, &err) >= 0)
		check_tree(t);
	else if (!err.set || !err.message)
		abort();
	return 0;
}
