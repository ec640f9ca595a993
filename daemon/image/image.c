/* SPDX-License-Identifier: MIT */
/*
 * The last steps of every image: from a filled tree and spool to DIR/image.ext4 and its digest. Called by
 * the environment and tar verbs. Must stay true: a name image.ext4 exists only when the image is whole
 * and on disk, and nothing else stays in DIR.
 */
#include "daemon/image/import.h"
#include "daemon/image/ext4.h"
#include <fcntl.h>

/* The spool has no name: where O_TMPFILE is missing it is unlinked at once. */
static int open_spool(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
		return -errno;
	_cleanup_free_ char *name = str_printf("%s/.spool-XXXXXX", dir);
	if (!name)
		return -ENOMEM;
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	(void)unlink(name);
	return fd;
}

int image_init(struct image *im, const char *dir, struct error *err)
{
	*im = (struct image){ .spool_fd = -EBADF, .dir = dir };
	int r = tree_new(&im->tree);
	if (r < 0)
		return error_set_errno(err, ERROR_NO_MEMORY, r, NULL, "no memory for a tree");
	im->spool_fd = open_spool(dir);
	if (im->spool_fd < 0)
		return error_set_errno(err, error_code_for_errno(im->spool_fd), im->spool_fd,
			"give --output a folder you can write to", "cannot write in \"%s\"", dir);
	return 0;
}

void image_done(struct image *im)
{
	im->tree = tree_free(im->tree);
	im->spool_fd = fd_close(im->spool_fd);
}

static int make_result(struct image *im, const struct ext4_result *res, const char *digest,
	json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *packages = NULL;
	int r = image_packages(im, &packages, err);
	if (r < 0)
		return r;
	if (!o || json_add_str(o, "digest", digest) < 0 ||
		json_add_int(o, "size_bytes", (int64_t)res->size_bytes) < 0 ||
		json_add_int(o, "entries", (int64_t)res->entries) < 0 ||
		json_add(o, "packages", TAKE_PTR(packages)) < 0)
		return error_set(err, ERROR_NO_MEMORY, NULL, NULL, "no memory for the result");
	*ret = TAKE_PTR(o);
	return 0;
}

static int publish(const struct image *im, const char *from, const char *to, struct error *err)
{
	_cleanup_close_ int dir = open(im->dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	if (dir < 0 || rename(from, to) < 0 || fsync(dir) < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"cannot put \"%s\" in place", to);
	return 0;
}

static int write_image(
	struct image *im, const char *tmp, const char *path, json_object **ret, struct error *err)
{
	char digest[IMPORT_DIGEST_SIZE];
	struct ext4_result res;
	_cleanup_close_ int fd =
		open(tmp, O_CREAT | O_TRUNC | O_NOFOLLOW | O_RDONLY | O_CLOEXEC, 0644);
	if (fd < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"cannot create \"%s\"", tmp);
	import_progress("write", 0, NULL);
	int r = ext4_write(im->tree, im->spool_fd, tmp, &res, err);
	if (r < 0)
		return r;
	import_progress("write", 80, NULL);
	r = import_digest(fd, digest);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "cannot read \"%s\" back", tmp);
	_cleanup_json_ json_object *result = NULL;
	r = make_result(im, &res, digest, &result, err);
	if (r >= 0)
		r = publish(im, tmp, path, err);
	if (r >= 0)
		*ret = TAKE_PTR(result);
	return r;
}

int image_finish(struct image *im, json_object **ret, struct error *err)
{
	_cleanup_free_ char *path = str_printf("%s/image.ext4", im->dir);
	_cleanup_free_ char *tmp = str_printf("%s/.image.ext4.tmp", im->dir);
	if (!path || !tmp)
		return error_set(err, ERROR_NO_MEMORY, NULL, NULL, "no memory for a path");
	import_on_signal(tmp, 0, NULL);
	int r = write_image(im, tmp, path, ret, err);
	if (r < 0)
		(void)unlink(tmp);
	import_on_signal(NULL, 0, NULL);
	return r;
}
