/* SPDX-License-Identifier: MIT */
/*
 * Removes the time of installation from a tree of installed packages, so that the same packages
 * give the same image whenever they are installed. Called by the image writer before the image is
 * laid out.
 *
 * What must stay true: the date comes from the packages (usr/share/doc/PACKAGE/changelog*), never
 * from a clock, and a file from a package keeps its date, unless that is later than all changelogs.
 * SOURCE_DATE_EPOCH is not set for the installation: it would have to be known before the packages
 * are, and Python would then check its byte code against the source at each import. debootstrap.c
 * corrects the one file whose content has the day.
 */
#include "daemon/import/epoch.h"

#define DOCS "usr/share/doc"

static bool is_later(const struct tree_time *a, const struct tree_time *b)
{
	return a->sec != b->sec ? a->sec > b->sec : a->nsec > b->nsec;
}

/* Finds the entries of a directory: the first is *ret_first; returns their number. */
static uint32_t children(struct tree *t, const struct tree_listing *l, uint32_t dir,
	struct tree_entry *const **ret_first)
{
	if (!S_ISDIR(tree_node(t, dir)->mode) || l->first[dir] == TREE_NONE)
		return 0;
	*ret_first = &l->entries[l->first[dir]];
	return tree_node(t, dir)->n_children;
}

/* Returns the time of the newest changelog in the tree; {0, 0} where it has none. */
static struct tree_time newest_changelog(struct tree *t, const struct tree_listing *l)
{
	struct tree_entry *const *packages = NULL, *const *files = NULL;
	struct tree_time newest = { 0 };
	uint32_t docs, n_packages, n_files;
	if (tree_find(t, DOCS, &docs) < 0)
		return newest;
	n_packages = children(t, l, docs, &packages);
	for (uint32_t i = 0; i < n_packages; i++) {
		n_files = children(t, l, packages[i]->node, &files);
		for (uint32_t k = 0; k < n_files; k++) {
			const struct tree_node *n = tree_node(t, files[k]->node);
			if (S_ISREG(n->mode) && startswith(files[k]->name, "changelog") &&
				is_later(&n->mtime, &newest))
				newest = n->mtime;
		}
	}
	return newest;
}

int epoch_apply(struct tree *t)
{
	struct tree_listing l = { 0 };
	struct tree_time epoch;
	int r = tree_list(t, &l);
	if (r < 0)
		return r;
	epoch = newest_changelog(t, &l);
	tree_listing_done(&l);
	if (epoch.sec == 0 && epoch.nsec == 0)
		return 0;
	for (uint32_t i = 0; i < tree_n_nodes(t); i++) {
		struct tree_node *n = tree_node(t, i);
		if (is_later(&n->mtime, &epoch))
			n->mtime = epoch;
		if (is_later(&n->atime, &epoch))
			n->atime = epoch;
	}
	return 0;
}
