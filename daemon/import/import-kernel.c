/* SPDX-License-Identifier: MIT */
/*
 * pyro-import kernel: makes one entry of the kernel store. Owns the order of the steps: get an
 * image and its modules (given files, else Debian's cloud kernel by apt, else a kernel in /boot),
 * unpack the ELF kernel, index the modules, copy those that the initramfs needs, pack all of them
 * as a file system.
 *
 * OUTPUT gets vmlinux, boot/ (modules of the initramfs and their order), modules.ext4 unless the
 * kernel has no modules, and meta.json. OUTPUT becomes the working directory, since this user may
 * be unable to reach its path. apt, depmod and the unpacked package need a path and use a scratch
 * folder. Folders below OUTPUT are writable by their group, so that pyrod, which may only be in
 * that group, can remove them.
 */

#include "daemon/import/import.h"

#include <fcntl.h>
#include <getopt.h>
#include <sys/stat.h>

#include "daemon/import/kernel-modules.h"
#include "daemon/import/kernel-source.h"
#include "daemon/import/kernel-tree.h"
#include "daemon/import/program.h"
#include "daemon/import/scratch.h"
#include "daemon/import/vmlinux.h"
#include "proto/json.h"

#define PACK_TIMEOUT_USEC (600 * USEC_PER_SEC)
#define META_FORMAT       2 /* 1 had no list of files */
#define ORDER_MAX         (16 * 1024)
#define PACKED            "packed"

struct import_kernel {
	char *from, *modules;   /* owned; absolute */
	const char *mirror;     /* borrowed: argv */
	struct scratch scratch; /* owned */
	char *source;           /* owned; "source" of meta.json */
	struct kernel_tree tree;
	struct vmlinux vmlinux;
	char hash[IMPORT_HASH_DIGITS + 1];
	char digest[IMPORT_DIGEST_SIZE]; /* of vmlinux */
};

static void import_kernel_done(struct import_kernel *k)
{
	kernel_tree_done(&k->tree);
	vmlinux_done(&k->vmlinux);
	free(k->source);
	free(k->from);
	free(k->modules);
	scratch_done(&k->scratch);
}

static int out_of_memory(struct error *err)
{
	return error_no_memory(err, "Cannot import a kernel");
}

static int cannot_write(struct error *err, int r, const char *path)
{
	return error_set_errno(err, error_code_for_errno(r), r, NULL, "Cannot write %s", path);
}

static int write_file(const char *name, const void *data, size_t n, struct error *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return cannot_write(err, -errno, name);
	r = write_all(fd, data, n);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;

	return r < 0 ? cannot_write(err, r, name) : 0;
}

/* Takes the file that kernel= names; modules are given, or the host's own of that version. */
static int get_from_file(struct import_kernel *k, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	int r;

	r = kernel_tree_read_image(&k->tree, k->from, err);
	if (r < 0)
		return r;
	r = vmlinux_extract(k->tree.image, k->tree.image_size, &k->vmlinux, err);
	if (r < 0)
		return error_prefix(err, "%s", k->from);
	k->source = strdup(k->from);
	if (!k->source)
		return out_of_memory(err);
	if (k->modules)
		return kernel_tree_from_dir(&k->tree, k->modules, err);
	if (!k->vmlinux.version[0])
		return 0;
	dir = str_printf("/lib/modules/%s", k->vmlinux.version);
	if (!dir)
		return out_of_memory(err);

	return access(dir, R_OK | X_OK) == 0 ? kernel_tree_from_dir(&k->tree, dir, err) : 0;
}

static int get_from_apt(struct import_kernel *k, struct error *err)
{
	_cleanup_free_ char *deb = NULL, *package = NULL;
	int r;

	import_progress("kernel", 0, "downloading Debian's cloud kernel");
	r = kernel_source_download(k->scratch.path, k->mirror, &deb, &package, err);
	if (r < 0)
		return r;
	k->source = str_printf("debian:%s", package);
	if (!k->source)
		return out_of_memory(err);
	import_progress("kernel", 40, package);
	r = kernel_tree_from_deb(&k->tree, deb, err);
	if (r < 0)
		return r;

	return vmlinux_extract(k->tree.image, k->tree.image_size, &k->vmlinux, err);
}

/*
 * Falls back to the host's kernel without apt or network; without one, reports the failed download.
 */
static int get_from_anywhere(struct import_kernel *k, struct error *err)
{
	_cleanup_free_ char *path = NULL, *modules = NULL;
	_cleanup_error_ struct error why = ERROR_INIT;
	int r;

	r = get_from_apt(k, &why);
	if (r >= 0)
		return 0;
	if (k->source || kernel_source_boot(&path, &modules) < 0) {
		error_move(err, &why);
		return r;
	}
	import_progress("kernel", 20, path);
	k->from = TAKE_PTR(path);
	k->modules = TAKE_PTR(modules);

	return get_from_file(k, err);
}

/* Packs lib/modules with the confined image writer, by running `pyro-import tar`. */
static int pack_modules(struct import_kernel *k, struct error *err)
{
	_cleanup_free_ char *tar = str_printf("%s/modules.tar", k->scratch.path), *output = NULL,
			    *cause = NULL;
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (!tar)
		return out_of_memory(err);
	if (mkdir(PACKED, 0770) < 0)
		return cannot_write(err, -errno, PACKED);
	fd = open(tar, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return cannot_write(err, -errno, tar);
	r = kernel_modules_tar(k->scratch.path, fd, err);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return cannot_write(err, -errno, tar);
	r = program_run(&(struct program){ .argv = (const char *const[]){ "/proc/self/exe", "tar",
						   "--input", "-", "--output", PACKED, NULL },
				.cwd = ".",
				.stdin_fd = fd,
				.timeout_usec = PACK_TIMEOUT_USEC },
		&output);
	if (r != 0) {
		if (output)
			(void)program_last_line(output, "{\"error\":", &cause);
		return error_set(err, ERROR_PULL_FAILED, cause ? cause : strerror(r < 0 ? -r : EIO),
			"Name another kernel with kernel= in pyrod.conf.",
			"Cannot make the image of the kernel's modules");
	}
	if (rename(PACKED "/" IMPORT_IMAGE, IMPORT_MODULES) < 0 || rmdir(PACKED) < 0)
		return cannot_write(err, -errno, IMPORT_MODULES);

	return 0;
}

static int put_modules(struct import_kernel *k, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	bool has = k->tree.version[0];
	int r;

	if (has && k->vmlinux.version[0] && !streq(k->tree.version, k->vmlinux.version))
		return error_set(err, ERROR_PULL_FAILED, NULL,
			"Give the kernel's own modules, below /lib/modules/VERSION.",
			"The kernel is version %s, its modules are of %s", k->vmlinux.version,
			k->tree.version);
	if (has) {
		import_progress("kernel", 60, "indexing modules");
		r = kernel_modules_index(k->scratch.path, k->tree.version, err);
		if (r < 0)
			return r;
		dir = str_printf("%s/lib/modules/%s", k->scratch.path, k->tree.version);
		if (!dir)
			return out_of_memory(err);
	}
	r = kernel_modules_boot(dir, "boot", err);
	if (r < 0 || !has)
		return r;
	import_progress("kernel", 70, "packing modules");

	return pack_modules(k, err);
}

static int put_vmlinux(struct import_kernel *k, struct error *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	import_progress("kernel", 50, "unpacking the kernel");
	r = write_file(IMPORT_VMLINUX, k->vmlinux.data, k->vmlinux.size, err);
	if (r < 0)
		return r;
	fd = open(IMPORT_VMLINUX, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	r = fd < 0 ? -errno : import_digest(fd, k->digest);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "Cannot read the new vmlinux");
	memcpy(k->hash, k->digest + strlen("sha256:"), IMPORT_HASH_DIGITS);
	k->hash[IMPORT_HASH_DIGITS] = '\0';

	return 0;
}

static int list_file(json_object *files, const char *name)
{
	_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char digest[IMPORT_DIGEST_SIZE];
	int r = fd < 0 ? -errno : import_digest(fd, digest);

	return r < 0 ? r : json_add_str(files, name, digest);
}

/* Lists the modules of the initramfs, and the file with their order. */
static int list_boot(json_object *files)
{
	_cleanup_free_ char *order = NULL;
	char *save = NULL;
	size_t n;
	int r = read_file_at(AT_FDCWD, "boot/order", ORDER_MAX, &order, &n);

	r = r < 0 ? r : list_file(files, "boot/order");
	for (char *name = r < 0 ? NULL : strtok_r(order, "\n", &save); r >= 0 && name;
		name = strtok_r(NULL, "\n", &save)) {
		_cleanup_free_ char *path = str_printf("boot/%s", name);

		r = path ? list_file(files, path) : -ENOMEM;
	}
	return r;
}

/* Makes the list of digests that `pyro-import check` compares the files with. */
static int list_files(struct import_kernel *k, json_object **ret)
{
	_cleanup_json_ json_object *files = json_object_new_object();
	int r = files ? json_add_str(files, IMPORT_VMLINUX, k->digest) : -ENOMEM;

	if (r >= 0 && k->tree.version[0])
		r = list_file(files, IMPORT_MODULES);
	r = r < 0 ? r : list_boot(files);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(files);
	return 0;
}

/* Writes meta.json; the same object is the result. */
static int put_meta(struct import_kernel *k, json_object **ret, struct error *err)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *files = NULL;
	const char *text;
	int r;

	if (!o)
		return out_of_memory(err);
	r = list_files(k, &files);
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "Cannot read the new kernel");
	r = json_add_int(o, "format", META_FORMAT);
	r = r < 0 ? r : json_add_str(o, "hash", k->hash);
	r = r < 0 ? r : json_add_str(o, "version", k->vmlinux.version);
	r = r < 0 ? r : json_add_str(o, "vmlinux", IMPORT_VMLINUX);
	r = r < 0 ? r : json_add_int(o, "vmlinux_size", (int64_t)k->vmlinux.size);
	r = r < 0 ? r : json_add_bool(o, "modules", k->tree.version[0]);
	r = r < 0 ? r : json_add_str(o, "source", k->source);
	r = r < 0 ? r : json_add(o, "files", TAKE_PTR(files));
	text = r < 0 ? NULL : json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	if (!text)
		return out_of_memory(err);
	r = write_file(IMPORT_META, text, strlen(text), err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);

	return 0;
}

static int import_kernel(struct import_kernel *k, json_object **ret, struct error *err)
{
	int r;

	r = k->from ? get_from_file(k, err) : get_from_anywhere(k, err);
	if (r < 0)
		return r;
	if (!k->vmlinux.version[0])
		(void)snprintf(
			k->vmlinux.version, sizeof(k->vmlinux.version), "%s", k->tree.version);
	r = put_vmlinux(k, err);
	if (r < 0)
		return r;
	r = put_modules(k, err);
	if (r < 0)
		return r;

	return put_meta(k, ret, err);
}

/* Makes the path of an option absolute, since the working directory changes. */
static int take_path(char **ret, const char *path, struct error *err)
{
	free(*ret);
	*ret = path[0] == '/' ? strdup(path) : realpath(path, NULL);
	if (*ret)
		return 0;

	return error_set_errno(
		err, error_code_for_errno(-errno), -errno, NULL, "Cannot read %s", path);
}

static int parse_args(int argc, char **argv, struct import_kernel *k, struct error *err)
{
	static const struct option options[] = {
		{ "from", required_argument, NULL, 'f' },
		{ "modules", required_argument, NULL, 'm' },
		{ "mirror", required_argument, NULL, 'M' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	const char *output = NULL;
	int c, r = 0;

	while (r >= 0 && (c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 'f': r = take_path(&k->from, optarg, err); break;
		case 'm': r = take_path(&k->modules, optarg, err); break;
		case 'M': k->mirror = optarg; break;
		case 'o': output = optarg; break;
		default: goto usage;
		}
	}
	if (r < 0)
		return r;
	if (!output || optind != argc || (!k->from && k->modules))
		goto usage;

	return chdir(output) < 0 ? cannot_write(err, -errno, output) : 0;
usage:
	return error_set(err, ERROR_USAGE, NULL,
		"pyro-import kernel [--from FILE [--modules DIR]] [--mirror URL] --output DIR",
		"Bad arguments");
}

int import_kernel_main(int argc, char **argv)
{
	_cleanup_(import_kernel_done) struct import_kernel k = {
		.scratch = SCRATCH_INIT,
		.vmlinux = VMLINUX_INIT,
	};
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *result = NULL;
	int r;

	r = parse_args(argc, argv, &k, &err);
	if (r >= 0)
		r = scratch_make(&k.scratch, &err);
	k.tree.root = k.scratch.path;
	if (r >= 0)
		r = import_kernel(&k, &result, &err);

	return r < 0 ? import_fail(&err) : import_succeed(TAKE_PTR(result));
}
