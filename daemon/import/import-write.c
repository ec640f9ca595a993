/* SPDX-License-Identifier: MIT */
/*
 * pyro-import write: the confined half of every import. Run by writer.c, never by hand: descriptor
 * 0 is the tar, 1 takes JSON lines, 3 is the spool, 4 the image. Must stay true: no byte of the tar
 * is read before the sandbox is complete; the reader of 1 trusts its lines no more than the tar
 * itself.
 */
#include "daemon/import/epoch.h"
#include "daemon/import/ext4.h"
#include "daemon/import/import.h"
#include "daemon/import/sandbox.h"
#include "daemon/import/tar-read.h"
#include "proto/limits.h"

#define READ_BYTES (256 * 1024)
/* tree.h limits names, nodes and attributes, libarchive an xz dictionary. */
#define MEMORY_BYTES (UINT64_C(2) << 30)
/* Leaves space for a partly filled last block of every file, names and inodes. */
#define FILE_BYTES  (2 * LIMIT_IMAGE_BYTES)
#define CPU_SECONDS 600
#define OPEN_FILES  16
#define PADDING_MAX (16 * 1024 * 1024) /* after the end mark of an archive */

struct input {
	size_t n_read; /* since the archive's end */
	uint8_t bytes[READ_BYTES];
};

static void on_missing(const char *what, int r, void *userdata _unused_)
{
	import_missing(what, r);
}

static int confine(uint64_t file_bytes, struct error *err)
{
	const struct sandbox_spec spec = {
		.memory_bytes = MEMORY_BYTES,
		.file_bytes = MIN_OF(file_bytes, FILE_BYTES),
		.cpu_seconds = CPU_SECONDS,
		.open_files = OPEN_FILES,
		.note = on_missing,
	};
	const char *what;
	int r = sandbox_enter(&spec, &what);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r,
			"run pyrod on a kernel with seccomp, and where its children may take another uid",
			"the image writer cannot be confined: it cannot %s", what);
	return 0;
}

static ssize_t on_input(void *userdata, const void **ret)
{
	struct input *in = userdata;
	ssize_t n;
	do {
		n = read(STDIN_FILENO, in->bytes, sizeof(in->bytes));
	} while (n < 0 && errno == EINTR);
	*ret = in->bytes;
	return n < 0 ? -errno : n;
}

/* Reads the padding after the archive, so that its writer does not end by SIGPIPE. */
static int drain(struct input *in, struct error *err)
{
	const void *p;
	ssize_t n;
	while ((n = on_input(in, &p)) > 0) {
		in->n_read += (size_t)n;
		if (in->n_read > PADDING_MAX)
			return error_set(err, ERROR_SEED_REFUSED,
				"more than 16 MiB follow its end mark",
				"give one archive at a time", "the archive is refused");
	}
	return n < 0 ? error_set_errno(
			       err, ERROR_PULL_FAILED, (int)n, NULL, "cannot read the archive")
		     : 0;
}

static int make_result(
	struct image *im, const struct ext4_result *res, json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *packages = NULL;
	int r = image_packages(im, &packages, err);
	if (r < 0)
		return r;
	if (!o || json_add_int(o, "size_bytes", (int64_t)res->size_bytes) < 0 ||
		json_add_int(o, "entries", (int64_t)res->entries) < 0 ||
		json_add(o, "packages", TAKE_PTR(packages)) < 0)
		return error_no_memory(err, "no memory for the result");
	*ret = TAKE_PTR(o);
	return 0;
}

static int write_image(struct image *im, bool of_packages, json_object **ret, struct error *err)
{
	_cleanup_free_ struct input *in = calloc(1, sizeof(*in));
	struct ext4_result res;
	if (!in)
		return error_no_memory(err, "no memory to read an archive");
	struct tar_read tr = {
		.tree = im->tree, .spool_fd = im->spool_fd, .input = on_input, .userdata = in
	};
	int r = tar_read(&tr, err);
	if (r >= 0)
		r = drain(in, err);
	if (r >= 0 && of_packages && epoch_apply(im->tree) < 0)
		r = error_no_memory(err, "no memory for a tree");
	if (r < 0)
		return r;
	import_progress("write", 0, NULL);
	r = ext4_write(im->tree, im->spool_fd, im->image_fd, &res, err);
	return r < 0 ? r : make_result(im, &res, ret, err);
}

static int run(uint64_t file_bytes, bool of_packages, json_object **ret, struct error *err)
{
	struct image im = { .spool_fd = WRITER_SPOOL_FD, .image_fd = WRITER_IMAGE_FD };
	int r = confine(file_bytes, err);
	if (r < 0)
		return r;
	if (file_bytes == 0) {
		*ret = json_object_new_object();
		return *ret ? 0 : error_no_memory(err, "no memory");
	}
	r = tree_new(&im.tree);
	if (r < 0)
		return error_no_memory(err, "no memory for a tree");
	r = write_image(&im, of_packages, ret, err);
	im.tree = tree_free(im.tree);
	return r;
}

int import_write_main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *result = NULL;
	uint64_t file_bytes;
	bool of_packages = argc == 3 && streq(argv[2], WRITER_OF_PACKAGES);
	if (argc != (of_packages ? 3 : 2) || parse_u64(argv[1], 0, INT64_MAX, &file_bytes) < 0)
		return 2;
	int status = run(file_bytes, of_packages, &result, &err) < 0 ? import_fail(&err)
								     : import_succeed(result);
	/* Skips exit handlers: the filter kills the process for the calls of a leak checker. */
	_exit(status);
}
