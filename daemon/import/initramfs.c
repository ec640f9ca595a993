/* SPDX-License-Identifier: MIT */
/*
 * pyro-import initramfs: packs the agent as /init, and the modules that `pyro-import kernel` chose,
 * into a newc archive (Documentation/driver-api/early-userspace/buffer-format.rst of Linux). Run as
 * a job by daemon/image/kernel.c.
 *
 * The same inputs give the same bytes: entries in a fixed order, times 0, owner root, inode numbers
 * counted from 1. It is not compressed: it has 2 MB, and gzip made no measurable difference to the
 * CPU time of an emulated boot.
 */

#include "daemon/import/import.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <archive.h>
#include <archive_entry.h>

#include "proto/json.h"

#define FILE_MAX    (64 * MIB)
#define ORDER_MAX   (16 * 1024)
#define MODULES_MAX 128

struct initramfs {
	const char *kernel, *agent, *output; /* borrowed: argv */
	struct archive *archive;             /* owned */
	int64_t next_ino;
};

static void initramfs_done(struct initramfs *i)
{
	if (i->archive)
		(void)archive_write_free(i->archive);
}

static void entry_donep(struct archive_entry **e)
{
	archive_entry_free(*e);
}

static int put(
	struct initramfs *i, const char *name, mode_t mode, dev_t rdev, const void *data, size_t n)
{
	_cleanup_(entry_donep) struct archive_entry *e = archive_entry_new();

	if (!e)
		return -ENOMEM;
	archive_entry_set_pathname(e, name);
	archive_entry_set_mode(e, mode);
	archive_entry_set_uid(e, 0);
	archive_entry_set_gid(e, 0);
	archive_entry_set_mtime(e, 0, 0);
	archive_entry_set_nlink(e, S_ISDIR(mode) ? 2 : 1);
	archive_entry_set_ino(e, ++i->next_ino);
	archive_entry_set_dev(e, 0);
	archive_entry_set_rdev(e, rdev);
	archive_entry_set_size(e, (int64_t)n);
	if (archive_write_header(i->archive, e) != ARCHIVE_OK)
		return -EIO;
	if (n > 0 && archive_write_data(i->archive, data, n) != (la_ssize_t)n)
		return -EIO;

	return 0;
}

static int put_file(
	struct initramfs *i, const char *name, mode_t mode, const char *path, struct error *err)
{
	_cleanup_free_ char *data = NULL;
	size_t n;
	int r;

	r = read_file_at(AT_FDCWD, path, FILE_MAX, &data, &n);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r, NULL, "Cannot read %s", path);
	r = put(i, name, S_IFREG | mode, 0, data, n);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "Cannot pack %s", path);

	return 0;
}

static int put_skeleton(struct initramfs *i, struct error *err)
{
	static const struct {
		const char *name;
		mode_t mode;
		unsigned major, minor;
	} nodes[] = {
		{ "dev", S_IFDIR | 0755, 0, 0 },
		{ "dev/console", S_IFCHR | 0600, 5, 1 },
		{ "proc", S_IFDIR | 0555, 0, 0 },
		{ "sys", S_IFDIR | 0555, 0, 0 },
		{ "modules", S_IFDIR | 0755, 0, 0 },
	};

	for (size_t n = 0; n < ARRAY_SIZE(nodes); n++) {
		int r = put(i, nodes[n].name, nodes[n].mode,
			makedev(nodes[n].major, nodes[n].minor), NULL, 0);

		if (r < 0)
			return error_set_errno(err, error_code_for_errno(r), r, NULL,
				"Cannot write %s", i->output);
	}

	return 0;
}

static bool module_name_valid(const char *name)
{
	size_t n = strlen(name);

	return n > 3 && n < 64 && streq(name + n - 3, ".ko") && !strchr(name, '/') &&
	       name[0] != '.';
}

static int put_modules(struct initramfs *i, struct error *err)
{
	_cleanup_free_ char *order_path = str_printf("%s/boot/order", i->kernel), *order = NULL;
	char *save = NULL;
	size_t n, count = 0;
	int r;

	if (!order_path)
		return -ENOMEM;
	r = put_file(i, "modules/order", 0644, order_path, err);
	if (r < 0)
		return r;
	r = read_file_at(AT_FDCWD, order_path, ORDER_MAX, &order, &n);
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "Cannot read %s", order_path);

	for (char *name = strtok_r(order, "\n", &save); name; name = strtok_r(NULL, "\n", &save)) {
		_cleanup_free_ char *path = str_printf("%s/boot/%s", i->kernel, name);
		_cleanup_free_ char *as = str_printf("modules/%s", name);

		if (!path || !as)
			return -ENOMEM;
		if (!module_name_valid(name) || ++count > MODULES_MAX)
			return error_set(err, ERROR_PULL_FAILED,
				"It does not list module files, one per line.",
				"Remove the kernel's folder and pull again.", "%s is damaged",
				order_path);
		r = put_file(i, as, 0644, path, err);
		if (r < 0)
			return r;
	}

	return 0;
}

static int write_archive(struct initramfs *i, int fd, struct error *err)
{
	int r;

	i->archive = archive_write_new();
	if (!i->archive)
		return -ENOMEM;
	if (archive_write_set_format_cpio_newc(i->archive) != ARCHIVE_OK ||
		archive_write_set_bytes_in_last_block(i->archive, 4) != ARCHIVE_OK ||
		archive_write_open_fd(i->archive, fd) != ARCHIVE_OK)
		return error_internal(
			err, archive_error_string(i->archive), "Cannot write %s", i->output);
	r = put_skeleton(i, err);
	if (r < 0)
		return r;
	r = put_file(i, "init", 0755, i->agent, err);
	if (r < 0)
		return r;
	r = put_modules(i, err);
	if (r < 0)
		return r;
	if (archive_write_close(i->archive) != ARCHIVE_OK)
		return error_set_errno(err, error_code_for_errno(-archive_errno(i->archive)),
			-archive_errno(i->archive), NULL, "Cannot write %s", i->output);
	if (fsync(fd) < 0)
		return -errno;

	return 0;
}

static int parse_args(int argc, char **argv, struct initramfs *i, struct error *err)
{
	static const struct option options[] = {
		{ "kernel", required_argument, NULL, 'k' },
		{ "agent", required_argument, NULL, 'a' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 'k': i->kernel = optarg; break;
		case 'a': i->agent = optarg; break;
		case 'o': i->output = optarg; break;
		default: goto usage;
		}
	}
	if (i->kernel && i->agent && i->output && optind == argc)
		return 0;
usage:
	return error_set(err, ERROR_USAGE, NULL,
		"pyro-import initramfs --kernel DIR --agent FILE --output FILE", "Bad arguments");
}

static int make_result(struct initramfs *i, int fd, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	char digest[IMPORT_DIGEST_SIZE];
	struct stat st;
	int r;

	if (!o)
		return -ENOMEM;
	if (fstat(fd, &st) < 0)
		return -errno;
	r = import_digest(fd, digest);
	r = r < 0 ? r : json_add_str(o, "initrd", i->output);
	r = r < 0 ? r : json_add_int(o, "size_bytes", st.st_size);
	r = r < 0 ? r : json_add_str(o, "digest", digest);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);

	return 0;
}

int import_initramfs_main(int argc, char **argv)
{
	_cleanup_(initramfs_done) struct initramfs i = { NULL };
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *result = NULL;
	_cleanup_close_ int fd = -EBADF;
	int r;

	r = parse_args(argc, argv, &i, &err);
	if (r < 0)
		return import_fail(&err);
	import_progress("kernel", 95, "packing the initramfs");
	fd = open(i.output, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	r = fd < 0 ? -errno : write_archive(&i, fd, &err);
	if (r == 0)
		r = make_result(&i, fd, &result);
	if (r < 0) {
		(void)error_set_errno(
			&err, error_code_for_errno(r), r, NULL, "Cannot write %s", i.output);
		if (fd >= 0)
			(void)unlink(i.output);
		return import_fail(&err);
	}

	return import_succeed(TAKE_PTR(result));
}
