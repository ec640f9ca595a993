/* SPDX-License-Identifier: MIT */
/*
 * Turns libarchive's ACL entries into the attribute value of Linux's posix_acl_xattr.h: a version,
 * then {tag, permissions, id} sorted by tag and id, little-endian. Called by the tar reader for
 * each entry. Must stay true: the number of entries is bounded, and an id is never guessed from a
 * name.
 */
#include "daemon/import/tar-acl.h"
#include "proto/buf.h"
#include <archive.h>
#include <archive_entry.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>

#define ACL_ENTRIES_MAX 256

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

static uint16_t acl_tag(int tag)
{
	switch (tag) {
	case ARCHIVE_ENTRY_ACL_USER_OBJ: return ACL_USER_OBJ;
	case ARCHIVE_ENTRY_ACL_USER: return ACL_USER;
	case ARCHIVE_ENTRY_ACL_GROUP_OBJ: return ACL_GROUP_OBJ;
	case ARCHIVE_ENTRY_ACL_GROUP: return ACL_GROUP;
	case ARCHIVE_ENTRY_ACL_MASK: return ACL_MASK;
	case ARCHIVE_ENTRY_ACL_OTHER: return ACL_OTHER;
	default: return 0;
	}
}

static int compare_acl(const void *a, const void *b)
{
	const struct acl_entry *x = a, *y = b;
	if (x->tag != y->tag)
		return x->tag < y->tag ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Returns the number of entries, 0 when the ACL must be dropped. */
static size_t collect(struct archive_entry *e, int which, struct acl_entry *list)
{
	int type, perm, tag, id;
	const char *name;
	size_t n = 0;
	if (archive_entry_acl_reset(e, which) == 0)
		return 0;
	while (archive_entry_acl_next(e, which, &type, &perm, &tag, &id, &name) == ARCHIVE_OK) {
		bool named = tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP;
		if (n == ACL_ENTRIES_MAX || acl_tag(tag) == 0 || (named && id < 0)) {
			fprintf(stderr,
				"pyro-import: an ACL is dropped: too long, or with names only\n");
			return 0;
		}
		list[n++] = (struct acl_entry){ acl_tag(tag), (uint16_t)(perm & 7),
			named ? (uint32_t)id : ACL_UNDEFINED_ID };
	}
	qsort(list, n, sizeof(*list), compare_acl);
	return n;
}

static int add_acl(struct tree *t, uint32_t node, struct archive_entry *e, int which,
	const char *name, struct error *err)
{
	struct acl_entry list[ACL_ENTRIES_MAX];
	size_t n = collect(e, which, list);
	struct buf b;
	int r = 0;
	if (n == 0)
		return 0;
	buf_init(&b, 4 + n * 8);
	put_u32(&b, POSIX_ACL_XATTR_VERSION, &r);
	for (size_t i = 0; i < n; i++) {
		put_u16(&b, list[i].tag, &r);
		put_u16(&b, list[i].perm, &r);
		put_u32(&b, list[i].id, &r);
	}
	/* With a mask, the group bits of the mode are the mask, acl(5). */
	for (size_t i = 0; i < n && which == ARCHIVE_ENTRY_ACL_TYPE_ACCESS; i++)
		if (list[i].tag == ACL_MASK)
			tree_node(t, node)->mode =
				(tree_node(t, node)->mode & ~070U) | list[i].perm << 3;
	if (r < 0)
		r = error_no_memory(err, "no memory for an ACL");
	else
		r = tree_add_xattr(t, node, name, buf_head(&b), buf_len(&b), err);
	buf_done(&b);
	return r;
}

int tar_acl_read(struct tree *t, uint32_t node, struct archive_entry *e, struct error *err)
{
	if ((archive_entry_acl_types(e) & ARCHIVE_ENTRY_ACL_TYPE_POSIX1E) == 0)
		return 0;
	int r = add_acl(t, node, e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, "system.posix_acl_access", err);
	if (r < 0)
		return r;
	return add_acl(t, node, e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, "system.posix_acl_default", err);
}
