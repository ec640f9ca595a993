/* SPDX-License-Identifier: MIT */
/*
 * Owns the choice and the order of the modules that a guest loads before it can mount anything.
 * Called by `pyro-import kernel` on an unpacked tree.
 *
 * libkmod reads depmod's index in the tree and no configuration of the host. Dependencies are
 * walked depth first, so a module always comes after those it depends on (virtio_ring before
 * virtio: the wrong order fails in the guest with ENOENT). Newer kernels compress their modules;
 * libarchive's raw format decompresses them, since libkmod does not return decompressed bytes.
 */

#include "daemon/import/kernel-modules.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <archive.h>
#include <archive_entry.h>
#include <libkmod.h>

#include "daemon/import/program.h"
#include "proto/host.h"

#define CLOSURE_MAX         128
#define MODULE_SIZE_MAX     (64 * MIB)
#define DEPMOD_TIMEOUT_USEC (120 * USEC_PER_SEC)
#define READ_BLOCK          ((size_t)64 * 1024)

#define FIX_KERNEL \
	"Name a kernel with these modules by kernel= in pyrod.conf, or leave it out to use Debian's " \
	"cloud kernel."

/*
 * Modules for the initramfs; each costs every emulated boot 5-10 ms. Modules that mounting the root
 * does not need are loaded later from the disk of modules. Machines have no PCI bus.
 */
static const struct {
	const char *name;
	bool required;
} boot_modules[] = {
	{ "virtio_mmio", true },
	{ "virtio_blk", true },
	{ "virtio_console", true },
	{ "virtio-rng", false },
	{ "ext4", true },
	{ "overlay", true },
};

struct closure {
	struct kmod_ctx *ctx;                  /* owned */
	struct kmod_module *mods[CLOSURE_MAX]; /* owned */
	size_t n;
};

static void closure_done(struct closure *c)
{
	for (size_t i = 0; i < c->n; i++)
		(void)kmod_module_unref(c->mods[i]);
	(void)kmod_unref(c->ctx);
}

static void list_donep(struct kmod_list **l)
{
	(void)kmod_module_unref_list(*l);
}

static void module_donep(struct kmod_module **m)
{
	(void)kmod_module_unref(*m);
}

static void archive_read_donep(struct archive **a)
{
	(void)archive_read_free(*a);
}

static void archive_write_donep(struct archive **a)
{
	(void)archive_write_free(*a);
}

static void entry_donep(struct archive_entry **e)
{
	archive_entry_free(*e);
}

int kernel_modules_index(const char *root, const char *version, struct error *err)
{
	_cleanup_free_ char *depmod = NULL, *output = NULL, *cause = NULL;
	int r;

	if (host_find_program("depmod", &depmod) < 0 &&
		host_find_program("/usr/sbin/depmod", &depmod) < 0 &&
		host_find_program("/sbin/depmod", &depmod) < 0)
		return error_set(err, ERROR_PULL_FAILED, "depmod is not installed.",
			"sudo apt-get install -y kmod", "Cannot index the kernel's modules");
	r = program_run(&(struct program){ .argv = (const char *const[]){ depmod, "-b", root,
						   version, NULL },
				.stdin_fd = -EBADF,
				.timeout_usec = DEPMOD_TIMEOUT_USEC },
		&output);
	if (r == 0)
		return 0;
	if (r < 0)
		return error_set_errno(
			err, ERROR_PULL_FAILED, r, NULL, "Cannot index the kernel's modules");
	r = program_last_line(output, "depmod: ERROR: ", &cause);

	return error_set(err, ERROR_PULL_FAILED, r < 0 ? NULL : cause, FIX_KERNEL,
		"Cannot index the kernel's modules");
}

static bool closure_has(const struct closure *c, struct kmod_module *mod)
{
	for (size_t i = 0; i < c->n; i++)
		if (c->mods[i] == mod ||
			streq(kmod_module_get_name(c->mods[i]), kmod_module_get_name(mod)))
			return true;

	return false;
}

static int closure_add(struct closure *c, struct kmod_module *mod, unsigned depth);

static int closure_add_list(struct closure *c, struct kmod_list *list, unsigned depth)
{
	struct kmod_list *it;

	kmod_list_foreach(it, list)
	{
		_cleanup_(module_donep) struct kmod_module *mod = kmod_module_get_module(it);
		int r = closure_add(c, mod, depth);

		if (r < 0)
			return r;
	}

	return 0;
}

/* Adds the dependencies of mod, then mod itself; a built-in module has no file and is skipped. */
static int closure_add(struct closure *c, struct kmod_module *mod, unsigned depth)
{
	_cleanup_(list_donep) struct kmod_list *pre = NULL, *post = NULL, *deps = NULL;
	int r;

	if (!kmod_module_get_path(mod) || closure_has(c, mod))
		return 0;
	if (depth > 32)
		return -ELOOP;
	r = kmod_module_get_softdeps(mod, &pre, &post);
	if (r < 0)
		return r;
	r = closure_add_list(c, pre, depth + 1);
	if (r < 0)
		return r;
	deps = kmod_module_get_dependencies(mod);
	r = closure_add_list(c, deps, depth + 1);
	if (r < 0)
		return r;
	if (closure_has(c, mod))
		return 0;
	if (c->n == CLOSURE_MAX)
		return -E2BIG;
	c->mods[c->n++] = kmod_module_ref(mod);

	return 0;
}

static int closure_add_name(struct closure *c, const char *name, bool required, struct error *err)
{
	_cleanup_(list_donep) struct kmod_list *list = NULL;
	int r;

	r = kmod_module_new_from_lookup(c->ctx, name, &list);
	if (r < 0 && r != -ENOENT && r != -ENOSYS)
		return error_set_errno(err, ERROR_PULL_FAILED, r, FIX_KERNEL,
			"Cannot look up the module %s", name);
	if (!list)
		return required ? error_set(err, ERROR_PULL_FAILED,
					  "It is neither a module of this kernel nor built in.",
					  FIX_KERNEL, "The kernel has no %s", name)
				: 0;
	r = closure_add_list(c, list, 0);
	if (r < 0)
		return error_set_errno(err, ERROR_PULL_FAILED, r, FIX_KERNEL,
			"Cannot find the dependencies of the module %s", name);

	return 0;
}

/* Makes "virtio_blk.ko" of ".../virtio_blk.ko.xz". */
static int module_file_name(const char *path, char **ret)
{
	const char *base = strrchr(path, '/');
	const char *end;

	base = base ? base + 1 : path;
	end = strstr(base, ".ko");
	if (!end || end == base)
		return -EINVAL;
	*ret = strndup(base, (size_t)(end - base) + 3);

	return *ret ? 0 : -ENOMEM;
}

static int module_copy(const char *path, const char *to)
{
	_cleanup_(archive_read_donep) struct archive *a = archive_read_new();
	_cleanup_free_ uint8_t *block = malloc(READ_BLOCK);
	_cleanup_close_ int fd = -EBADF;
	struct archive_entry *e;
	uint64_t total = 0;
	la_ssize_t n;
	int r;

	if (!a || !block)
		return -ENOMEM;
	(void)archive_read_support_filter_gzip(a);
	(void)archive_read_support_filter_xz(a);
	(void)archive_read_support_filter_zstd(a);
	(void)archive_read_support_format_raw(a);
	if (archive_read_open_filename(a, path, READ_BLOCK) != ARCHIVE_OK ||
		archive_read_next_header(a, &e) != ARCHIVE_OK)
		return -EBADMSG;
	fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	while ((n = archive_read_data(a, block, READ_BLOCK)) > 0) {
		total += (uint64_t)n;
		if (total > MODULE_SIZE_MAX)
			return -EFBIG;
		r = write_all(fd, block, (size_t)n);
		if (r < 0)
			return r;
	}

	return n < 0 ? -EBADMSG : 0;
}

static int closure_write(const struct closure *c, const char *out, FILE *order)
{
	for (size_t i = 0; i < c->n; i++) {
		const char *path = kmod_module_get_path(c->mods[i]);
		_cleanup_free_ char *name = NULL, *to = NULL;
		int r;

		r = module_file_name(path, &name);
		if (r < 0)
			return r;
		to = str_printf("%s/%s", out, name);
		if (!to)
			return -ENOMEM;
		r = module_copy(path, to);
		if (r < 0)
			return r;
		if (fprintf(order, "%s\n", name) < 0)
			return -EIO;
	}

	return 0;
}

static int closure_find(struct closure *c, const char *dir, struct error *err)
{
	const char *const no_config[] = { NULL };

	c->ctx = kmod_new(dir, no_config);
	if (!c->ctx)
		return error_no_memory(err, "Cannot read the modules' index");
	for (size_t i = 0; i < ARRAY_SIZE(boot_modules); i++) {
		int r = closure_add_name(c, boot_modules[i].name, boot_modules[i].required, err);

		if (r < 0)
			return r;
	}

	return 0;
}

int kernel_modules_boot(const char *dir, const char *out, struct error *err)
{
	_cleanup_(closure_done) struct closure c = { NULL };
	_cleanup_fclose_ FILE *order = NULL;
	_cleanup_free_ char *path = str_printf("%s/order", out);
	int r = 0;

	if (dir) {
		r = closure_find(&c, dir, err);
		if (r < 0)
			return r;
	}
	if (!path || mkdir(out, 0775) < 0 || !(order = fopen(path, "wxe")))
		r = path ? -errno : -ENOMEM;
	if (r == 0)
		r = closure_write(&c, out, order);
	if (r == 0 && fflush(order) != 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"Cannot write the modules for the initramfs to %s", out);

	return 0;
}

static int tar_copy(struct archive *from, struct archive_entry *e, struct archive *to)
{
	_cleanup_free_ uint8_t *block = malloc(READ_BLOCK);
	la_ssize_t n;

	if (!block)
		return -ENOMEM;
	if (archive_write_header(to, e) != ARCHIVE_OK)
		return -EIO;
	if (archive_entry_filetype(e) != AE_IFREG)
		return 0;
	while ((n = archive_read_data(from, block, READ_BLOCK)) > 0)
		if (archive_write_data(to, block, (size_t)n) != n)
			return -EIO;

	return n < 0 ? -EIO : 0;
}

/* Normalises an entry: relative path, owner root, no time and no attributes of this host. */
static int tar_normalise(struct archive_entry *e, size_t prefix)
{
	const char *path = archive_entry_pathname(e);
	_cleanup_free_ char *rel = NULL;

	if (!path || strlen(path) < prefix)
		return -EBADMSG;
	rel = str_printf(".%s", path + prefix);
	if (!rel)
		return -ENOMEM;
	archive_entry_set_pathname(e, rel);
	archive_entry_set_uid(e, 0);
	archive_entry_set_gid(e, 0);
	archive_entry_set_uname(e, NULL);
	archive_entry_set_gname(e, NULL);
	archive_entry_set_mtime(e, 0, 0);
	archive_entry_unset_atime(e);
	archive_entry_unset_ctime(e);
	archive_entry_unset_birthtime(e);
	archive_entry_xattr_clear(e);
	archive_entry_acl_clear(e);
	archive_entry_set_perm(e, archive_entry_filetype(e) == AE_IFDIR ? 0755 : 0644);

	return 0;
}

static int tar_tree(const char *dir, struct archive *to)
{
	_cleanup_(archive_read_donep) struct archive *from = archive_read_disk_new();
	_cleanup_(entry_donep) struct archive_entry *e = archive_entry_new();
	int r;

	if (!from || !e)
		return -ENOMEM;
	(void)archive_read_disk_set_symlink_physical(from);
	if (archive_read_disk_open(from, dir) != ARCHIVE_OK)
		return -EIO;
	while ((r = archive_read_next_header2(from, e)) == ARCHIVE_OK) {
		if (archive_read_disk_can_descend(from))
			(void)archive_read_disk_descend(from);
		r = tar_normalise(e, strlen(dir));
		if (r < 0)
			return r;
		r = tar_copy(from, e, to);
		if (r < 0)
			return r;
	}

	return r == ARCHIVE_EOF ? 0 : -EIO;
}

int kernel_modules_tar(const char *root, int fd, struct error *err)
{
	_cleanup_(archive_write_donep) struct archive *to = archive_write_new();
	_cleanup_free_ char *dir = str_printf("%s/lib/modules", root);
	int r = -ENOMEM;

	if (to && dir) {
		r = archive_write_set_format_pax_restricted(to) == ARCHIVE_OK &&
				    archive_write_open_fd(to, fd) == ARCHIVE_OK
			    ? 0
			    : -EIO;
		if (r == 0)
			r = tar_tree(dir, to);
		if (r == 0 && archive_write_close(to) != ARCHIVE_OK)
			r = archive_errno(to) > 0 ? -archive_errno(to) : -EIO;
	}
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "Cannot pack the kernel's modules");

	return 0;
}
