/* SPDX-License-Identifier: MIT */
/*
 * Owns the unpacking of a kernel package or module folder into a private work folder. Called by
 * `pyro-import kernel`.
 *
 * Must stay true: nothing is written outside the folder. It was empty before; only folders and
 * regular files of one lib/modules/VERSION are written, never symbolic links; a path with a
 * component that is not a plain name is refused. The number of entries and of bytes is bounded.
 */

#include "daemon/import/kernel-tree.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <archive.h>
#include <archive_entry.h>

#include "proto/limits.h"

#define MODULE_ENTRIES_MAX 100000
#define MODULE_BYTES_MAX   (UINT64_C(4) << 30)
#define MODULE_PATH_MAX    1024
#define READ_BLOCK         ((size_t)64 * 1024)

#define FIX_SOURCE "Pull again; if it persists, name another kernel with kernel= in pyrod.conf."

struct member {
	struct archive *outer; /* borrowed */
	uint8_t block[READ_BLOCK];
};

static void archive_donep(struct archive **a)
{
	if (*a)
		(void)archive_free(*a);
}

static void entry_donep(struct archive_entry **e)
{
	archive_entry_free(*e);
}

static int damaged(struct error *err, const char *path, const char *cause)
{
	return error_set(err, ERROR_PULL_FAILED, cause, FIX_SOURCE, "Cannot unpack %s", path);
}

static int failed(struct error *err, int r, const char *path)
{
	return error_set_errno(err, r == -ENOSPC ? ERROR_NO_SPACE : ERROR_PULL_FAILED, r,
		r == -ENOSPC ? "Free space on the file system of pyrod's state directory."
			     : FIX_SOURCE,
		"Cannot unpack %s", path);
}

/* True for a relative path without empty, "." or ".." components. */
static bool path_plain(const char *path)
{
	if (strlen(path) >= MODULE_PATH_MAX)
		return false;
	for (const char *p = path;; p++) {
		size_t n = strcspn(p, "/");

		if (n == 0 || n > LIMIT_IMAGE_NAME || (n == 1 && p[0] == '.') ||
			(n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
		if (*p == '\0')
			return true;
	}
}

/* Makes the folders above path (below root). */
static int make_parents(const char *root, char *path)
{
	for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		int r;

		*p = '\0';
		r = mkdir(path, 0755);
		*p = '/';
		if (r < 0 && errno != EEXIST)
			return -errno;
	}

	return 0;
}

static int copy_data(struct kernel_tree *t, struct archive *a, int fd)
{
	const void *block;
	int64_t offset;
	size_t n;
	int r;

	while ((r = archive_read_data_block(a, &block, &n, &offset)) == ARCHIVE_OK) {
		t->bytes += n;
		if (t->bytes > MODULE_BYTES_MAX || offset < 0 ||
			(uint64_t)offset > MODULE_BYTES_MAX)
			return -EFBIG;
		if (lseek(fd, offset, SEEK_SET) < 0)
			return -errno;
		r = write_all(fd, block, n);
		if (r < 0)
			return r;
	}

	return r == ARCHIVE_EOF ? 0 : -EBADMSG;
}

/* Writes one entry below lib/modules: "VERSION/kernel/…". */
static int tree_add(
	struct kernel_tree *t, struct archive *a, struct archive_entry *e, const char *rel)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	size_t n = strcspn(rel, "/");
	int r;

	if (!path_plain(rel) || n >= sizeof(t->version))
		return -EBADMSG;
	if (!t->version[0]) {
		memcpy(t->version, rel, n);
		t->version[n] = '\0';
		if (!vmlinux_version_valid(t->version))
			return -EBADMSG;
	} else if (strncmp(t->version, rel, n) != 0 || t->version[n] != '\0') {
		return -EBADMSG;
	}

	path = str_printf("%s/lib/modules/%s", t->root, rel);
	if (!path)
		return -ENOMEM;
	r = make_parents(t->root, path);
	if (r < 0)
		return r;
	if (archive_entry_filetype(e) == AE_IFDIR)
		return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
	if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
		return 0;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;

	return copy_data(t, a, fd);
}

static int read_image(struct kernel_tree *t, struct archive *a, struct archive_entry *e)
{
	int64_t size = archive_entry_size(e);
	_cleanup_free_ uint8_t *image = NULL;

	if (t->image || !archive_entry_size_is_set(e) || size <= 0 ||
		(uint64_t)size > LIMIT_VMLINUX_BYTES)
		return -EBADMSG;
	image = malloc((size_t)size);
	if (!image)
		return -ENOMEM;
	for (size_t at = 0; at < (size_t)size;) {
		la_ssize_t n = archive_read_data(a, image + at, (size_t)size - at);

		if (n <= 0)
			return -EBADMSG;
		at += (size_t)n;
	}
	t->image = TAKE_PTR(image);
	t->image_size = (size_t)size;

	return 0;
}

/* Takes the boot image and the modules from the package; skips other entries. */
static int deb_entry(struct kernel_tree *t, struct archive *a, struct archive_entry *e)
{
	const char *path = archive_entry_pathname(e);

	if (!path)
		return -EBADMSG;
	if (startswith(path, "./"))
		path += 2;
	if (startswith(path, "usr/lib/modules/"))
		path += 4;
	if (startswith(path, "boot/vmlinuz-") && archive_entry_filetype(e) == AE_IFREG)
		return read_image(t, a, e);
	if (startswith(path, "lib/modules/") && path[12]) {
		_cleanup_free_ char *rel = strdup(path + 12);
		size_t n = strlen(path + 12);

		if (!rel)
			return -ENOMEM;
		if (n > 1 && rel[n - 1] == '/')
			rel[n - 1] = '\0';
		return tree_add(t, a, e, rel);
	}

	return 0;
}

static la_ssize_t member_read(struct archive *a _unused_, void *userdata, const void **ret)
{
	struct member *m = userdata;

	*ret = m->block;

	return archive_read_data(m->outer, m->block, sizeof(m->block));
}

static int deb_data(
	struct kernel_tree *t, struct archive *outer, const char *deb, struct error *err)
{
	_cleanup_(archive_donep) struct archive *a = archive_read_new();
	_cleanup_free_ struct member *m = calloc(1, sizeof(*m));
	struct archive_entry *e;
	int r;

	if (!a || !m)
		return failed(err, -ENOMEM, deb);
	m->outer = outer;
	(void)archive_read_support_filter_gzip(a);
	(void)archive_read_support_filter_xz(a);
	(void)archive_read_support_filter_zstd(a);
	(void)archive_read_support_format_tar(a);
	if (archive_read_open(a, m, NULL, member_read, NULL) != ARCHIVE_OK)
		return damaged(err, deb, archive_error_string(a));
	while ((r = archive_read_next_header(a, &e)) == ARCHIVE_OK) {
		if (++t->entries > MODULE_ENTRIES_MAX)
			return damaged(err, deb, "It has too many entries.");
		r = deb_entry(t, a, e);
		if (r < 0)
			return failed(err, r, deb);
	}
	if (r != ARCHIVE_EOF)
		return damaged(err, deb, archive_error_string(a));

	return 0;
}

int kernel_tree_from_deb(struct kernel_tree *t, const char *deb, struct error *err)
{
	_cleanup_(archive_donep) struct archive *a = archive_read_new();
	struct archive_entry *e;
	bool found = false;
	int r;

	if (!a)
		return failed(err, -ENOMEM, deb);
	(void)archive_read_support_format_ar(a);
	if (archive_read_open_filename(a, deb, READ_BLOCK) != ARCHIVE_OK)
		return damaged(err, deb, archive_error_string(a));
	while (!found && (r = archive_read_next_header(a, &e)) == ARCHIVE_OK) {
		const char *name = archive_entry_pathname(e);

		found = name && startswith(name, "data.tar");
	}
	if (!found)
		return damaged(err, deb, "It has no data.tar.");
	r = deb_data(t, a, deb, err);
	if (r < 0)
		return r;
	if (!t->image || !t->version[0])
		return damaged(err, deb, "It holds no kernel with modules.");

	return 0;
}

static int dir_entry(struct kernel_tree *t, struct archive *a, struct archive_entry *e,
	const char *dir, const char *version)
{
	_cleanup_free_ char *rel = NULL;
	const char *path = archive_entry_pathname(e);

	if (!path || !startswith(path, dir))
		return -EBADMSG;
	rel = str_printf("%s%s", version, path + strlen(dir));
	if (!rel)
		return -ENOMEM;

	return tree_add(t, a, e, rel);
}

int kernel_tree_from_dir(struct kernel_tree *t, const char *dir, struct error *err)
{
	_cleanup_(archive_donep) struct archive *a = archive_read_disk_new();
	_cleanup_(entry_donep) struct archive_entry *e = archive_entry_new();
	const char *version = strrchr(dir, '/');
	int r;

	if (!a || !e)
		return failed(err, -ENOMEM, dir);
	if (!version || !vmlinux_version_valid(version + 1))
		return error_set(err, ERROR_PULL_FAILED, NULL,
			"Give a path like /lib/modules/VERSION.",
			"%s is not a folder of kernel modules", dir);
	(void)archive_read_disk_set_symlink_physical(a);
	if (archive_read_disk_open(a, dir) != ARCHIVE_OK)
		return damaged(err, dir, archive_error_string(a));
	while ((r = archive_read_next_header2(a, e)) == ARCHIVE_OK) {
		if (++t->entries > MODULE_ENTRIES_MAX)
			return damaged(err, dir, "It has too many entries.");
		r = dir_entry(t, a, e, dir, version + 1);
		if (r < 0)
			return failed(err, r, dir);
		if (archive_read_disk_can_descend(a))
			(void)archive_read_disk_descend(a);
	}
	if (r != ARCHIVE_EOF)
		return damaged(err, dir, archive_error_string(a));

	return 0;
}

int kernel_tree_read_image(struct kernel_tree *t, const char *path, struct error *err)
{
	char *data = NULL;
	size_t n;
	int r;

	r = read_file_at(AT_FDCWD, path, LIMIT_VMLINUX_BYTES, &data, &n);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r,
			"Make the file readable for pyrod, or name another with kernel= in pyrod.conf.",
			"Cannot read the kernel %s", path);
	free(t->image);
	t->image = (uint8_t *)data;
	t->image_size = n;

	return 0;
}

void kernel_tree_done(struct kernel_tree *t)
{
	free(t->image);
	t->image = NULL;
}
