/* SPDX-License-Identifier: MIT */
/*
 * The tar reader: makes nodes of the merged tree and bytes of the spool from libarchive's headers
 * and data. Called by the import verbs. Must stay true: apparent sizes count (a sparse file cannot
 * exceed LIMIT_IMAGE_BYTES), data stays within its entry's size and its offsets only grow, only
 * extended attributes of a short list are kept, and an archive without its end mark is refused,
 * since it may be truncated.
 */
#include "daemon/import/tar-read.h"
#include "daemon/import/tar-acl.h"
#include "proto/limits.h"
#include <archive.h>
#include <archive_entry.h>

static void archive_freep(struct archive **a)
{
	if (*a)
		(void)archive_read_free(*a);
}

static la_ssize_t on_input(struct archive *a, void *userdata, const void **ret)
{
	struct tar_read *tr = userdata;
	ssize_t n = tr->input(tr->userdata, ret);
	if (n >= 0)
		return n;
	tr->input_error = (int)n;
	archive_set_error(a, (int)-n, "cannot read the archive");
	return ARCHIVE_FATAL;
}

static int damaged(struct tar_read *tr, struct archive *a, struct error *err)
{
	const char *why = archive_error_string(a);
	if (tr->input_error)
		return error_set_errno(
			err, ERROR_PULL_FAILED, tr->input_error, NULL, "cannot read the archive");
	return error_set(err, ERROR_PULL_FAILED, why ? why : "it is not a tar archive",
		"make the archive again", "the archive is damaged%s%s%s",
		tr->last ? " after its entry \"" : "", tr->last ? tr->last : "",
		tr->last ? "\"" : "");
}

static int refused(struct archive_entry *e, const char *cause, struct error *err)
{
	return error_set(err, ERROR_SEED_REFUSED, cause, "leave this entry out of the archive",
		"the archive's entry \"%s\" is refused", archive_entry_pathname(e));
}

/* Refuses a decompression bomb. */
static int check_ratio(struct archive *a, struct archive_entry *e, struct error *err)
{
	uint64_t unpacked = (uint64_t)archive_filter_bytes(a, 0),
		 sent = (uint64_t)archive_filter_bytes(a, -1);
	if (unpacked <= LIMIT_IMAGE_RATIO_FROM || unpacked / LIMIT_IMAGE_RATIO <= sent)
		return 0;
	return refused(e, "with it the archive unpacks to more than 200 times its size", err);
}

static bool xattr_kept(const char *name)
{
	return streq(name, "security.capability") || startswith(name, "user.");
}

static int read_xattrs(
	struct tar_read *tr, struct archive_entry *e, uint32_t node, struct error *err)
{
	const char *name;
	const void *value;
	size_t n, total = 0;
	(void)archive_entry_xattr_reset(e);
	while (archive_entry_xattr_next(e, &name, &value, &n) == ARCHIVE_OK) {
		if (!name || !xattr_kept(name))
			continue;
		total += n + strlen(name) + 16;
		if (total > LIMIT_IMAGE_XATTR)
			return refused(e, "its extended attributes are larger than 64 KiB", err);
		int r = tree_add_xattr(tr->tree, node, name, value, n, err);
		if (r < 0)
			return error_prefix(err, "%s", archive_entry_pathname(e));
	}
	return tar_acl_read(tr->tree, node, e, err);
}

/*
 * Corrects negative times: libarchive returns -1.5 s as {-1, 500000000}. Between -1 s and 0 it
 * loses the sign, which cannot be restored here.
 */
static struct tree_time make_time(int64_t sec, long nsec)
{
	if (nsec < 0 || nsec > 999999999)
		nsec = 0;
	if (sec < 0 && nsec > 0)
		return (struct tree_time){ sec - 1, (uint32_t)(1000000000 - nsec) };
	return (struct tree_time){ sec, (uint32_t)nsec };
}

static int read_metadata(
	struct tar_read *tr, struct archive_entry *e, uint32_t node, struct error *err)
{
	struct tree_node *n = tree_node(tr->tree, node);
	int64_t uid = archive_entry_uid(e), gid = archive_entry_gid(e);
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX)
		return refused(e, "its owner is out of range", err);
	n->uid = (uint32_t)uid;
	n->gid = (uint32_t)gid;
	n->mtime = make_time(archive_entry_mtime(e), archive_entry_mtime_nsec(e));
	n->atime = archive_entry_atime_is_set(e)
			   ? make_time(archive_entry_atime(e), archive_entry_atime_nsec(e))
			   : n->mtime;
	if (S_ISCHR(n->mode) || S_ISBLK(n->mode)) {
		dev_t major = archive_entry_rdevmajor(e), minor = archive_entry_rdevminor(e);
		if (major >= 1 << 12 || minor >= 1 << 20)
			return refused(e, "its device number is out of range", err);
		n->dev_major = major;
		n->dev_minor = minor;
	}
	return read_xattrs(tr, e, node, err);
}

static int spool_write(int fd, const uint8_t *p, size_t n, uint64_t at)
{
	while (n > 0) {
		ssize_t k = pwrite(fd, p, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EIO;
		p += k;
		n -= k;
		at += k;
	}
	return 0;
}

/* The position of a file's data in the spool, where its segments follow each other. */
struct spooled {
	uint64_t base, before; /* offset of the file; bytes of all its segments but the last */
	uint32_t n_segments;
};

static int put_data(struct tar_read *tr, struct spooled *s, uint32_t node, uint64_t offset,
	const void *p, size_t n)
{
	int r = tree_add_data(tr->tree, node, offset, n);
	if (r < 0 || n == 0)
		return r;
	const struct tree_node *tn = tree_node(tr->tree, node);
	const struct tree_segment *last = &tn->segments[tn->n_segments - 1];
	if (tn->n_segments > s->n_segments && s->n_segments > 0)
		s->before += (uint64_t)last[-1].count * TREE_BLOCK;
	s->n_segments = tn->n_segments;
	tr->spool_end = s->base + s->before + (uint64_t)last->count * TREE_BLOCK;
	return spool_write(tr->spool_fd, p, n,
		s->base + s->before + offset - (uint64_t)last->first * TREE_BLOCK);
}

static int read_data(struct tar_read *tr, struct archive *a, struct archive_entry *e, uint32_t node,
	struct error *err)
{
	struct spooled s = { .base = tr->spool_end };
	uint64_t size = tree_node(tr->tree, node)->size, end = 0;
	tree_node(tr->tree, node)->spool = s.base;
	for (;;) {
		const void *p;
		size_t n;
		la_int64_t offset;
		int r = archive_read_data_block(a, &p, &n, &offset);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r != ARCHIVE_OK)
			return damaged(tr, a, err);
		if (offset < 0 || (uint64_t)offset < end || (uint64_t)offset > size ||
			n > size - offset)
			return refused(e, "its data does not fit its size", err);
		end = (uint64_t)offset + n;
		r = check_ratio(a, e, err);
		if (r < 0)
			return r;
		r = put_data(tr, &s, node, offset, p, n);
		if (r < 0)
			return error_set_errno(err,
				r == -EFBIG ? ERROR_NO_SPACE : error_code_for_errno(r), r,
				"free space on the file system of the environment cache",
				"cannot store the data of \"%s\"", archive_entry_pathname(e));
	}
}

static int read_file(struct tar_read *tr, struct archive *a, struct archive_entry *e, uint32_t node,
	struct error *err)
{
	int64_t size = archive_entry_size(e);
	if (size < 0)
		return refused(e, "its size is negative", err);
	if ((uint64_t)size > LIMIT_IMAGE_BYTES - tr->total)
		return refused(e, "with it the archive's files are larger than 32 GiB", err);
	tr->total += size;
	tree_node(tr->tree, node)->size = size;
	return read_data(tr, a, e, node, err);
}

static int read_entry(
	struct tar_read *tr, struct archive *a, struct archive_entry *e, struct error *err)
{
	const char *path = archive_entry_pathname(e), *target = archive_entry_hardlink(e);
	uint32_t mode = archive_entry_mode(e) & (S_IFMT | 07777), node;
	if (!path)
		return error_set(err, ERROR_SEED_REFUSED, "it has no name",
			"leave this entry out of the archive",
			"an entry of the archive is refused");
	if (target)
		return tree_put_hardlink(tr->tree, path, target, err);
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO: break;
	default: return refused(e, "its type is unknown", err);
	}
	int r = tree_put(tr->tree, path, mode, &node, err);
	if (r >= 0)
		r = read_metadata(tr, e, node, err);
	if (r < 0)
		return r;
	if (S_ISLNK(mode)) {
		tree_node(tr->tree, node)->mode = S_IFLNK | 0777; /* as Linux shows every link */
		const char *link = archive_entry_symlink(e);
		r = tree_set_target(tr->tree, node, link ? link : "", err);
		return r < 0 ? error_prefix(err, "%s", path) : 0;
	}
	return S_ISREG(mode) ? read_file(tr, a, e, node, err) : 0;
}

/* Accepts a warning that only says that a name is not UTF-8. */
static bool header_ok(struct archive *a, int r)
{
	return r == ARCHIVE_OK || (r == ARCHIVE_WARN && archive_errno(a) == EILSEQ);
}

static int read_all(struct tar_read *tr, struct archive *a, struct error *err)
{
	struct archive_entry *e;
	for (;;) {
		int r = archive_read_next_header(a, &e);
		if (r == ARCHIVE_EOF)
			break;
		if (!header_ok(a, r))
			return damaged(tr, a, err);
		free(tr->last);
		tr->last = strdup(archive_entry_pathname(e) ? archive_entry_pathname(e) : "");
		if (!tr->last)
			return error_no_memory(err, "no memory to read an archive");
		r = check_ratio(a, e, err);
		if (r >= 0)
			r = read_entry(tr, a, e, err);
		if (r < 0)
			return r;
	}
	if (archive_filter_bytes(a, 0) <= archive_read_header_position(a))
		return error_set(err, ERROR_PULL_FAILED, "its end mark is missing",
			"make the archive again", "the archive is cut short after its entry \"%s\"",
			tr->last ? tr->last : "");
	return 0;
}

int tar_read(struct tar_read *tr, struct error *err)
{
	_cleanup_(archive_freep) struct archive *a = archive_read_new();
	if (!a)
		return error_no_memory(err, "no memory to read an archive");
	if (archive_read_support_format_tar(a) != ARCHIVE_OK ||
		archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
		archive_read_support_filter_xz(a) != ARCHIVE_OK ||
		archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
		archive_read_open(a, tr, NULL, on_input, NULL) != ARCHIVE_OK)
		return damaged(tr, a, err);
	int r = read_all(tr, a, err);
	free(tr->last);
	tr->last = NULL;
	if (r < 0)
		return r;
	if (ftruncate(tr->spool_fd, (off_t)tr->spool_end) < 0)
		return error_set_errno(
			err, error_code_for_errno(-errno), -errno, NULL, "cannot resize the spool");
	return 0;
}
