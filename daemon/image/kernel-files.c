/* SPDX-License-Identifier: MIT */
/*
 * Owns the files in a kernel's folder: names them, opens them for a machine, and knows whether they
 * are intact (integrity.c reads them). Called by kernel.c, and for each start of a machine.
 *
 * The name of the initramfs has a key of the agent's file; initrd.json beside it has its digest. It
 * is made of the folder's other files and the agent, so a damaged one is simply made again.
 */

#include "daemon/image/kernel-private.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "proto/json.h"

#define INITRAMFS_FORMAT 1 /* raise when the content that initramfs.c packs changes */
#define META_MAX         (256 * 1024)
#define INITRD_META_MAX  1024

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot read a kernel");
}

bool kernel_hash_valid(const char *s)
{
	return strlen(s) == IMPORT_HASH_DIGITS &&
	       strspn(s, "0123456789abcdef") == IMPORT_HASH_DIGITS;
}

bool kernel_digest_valid(const char *s)
{
	return startswith(s, "sha256:") && strlen(s) == IMPORT_DIGEST_SIZE - 1 &&
	       strspn(s + 7, "0123456789abcdef") == 64;
}

/* Names the initramfs for the agent as it is now. */
int kernel_name_initrd(struct kernels *k, struct error *err)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325), values[7];
	struct stat st;

	if (stat(k->manager->agent_path, &st) < 0)
		return error_set_errno(err, ERROR_START_FAILED, -errno,
			"Install pyro again: its guest agent is missing.", "Cannot read %s",
			k->manager->agent_path);
	values[0] = INITRAMFS_FORMAT;
	values[1] = st.st_dev;
	values[2] = st.st_ino;
	values[3] = (uint64_t)st.st_size;
	values[4] = (uint64_t)st.st_mtim.tv_sec;
	values[5] = (uint64_t)st.st_mtim.tv_nsec;
	values[6] = (uint64_t)st.st_ctim.tv_sec ^ (uint64_t)st.st_ctim.tv_nsec << 32;
	/* FNV-1a suffices: the hash is only a name. */
	for (size_t i = 0; i < sizeof(values); i++)
		hash = (hash ^ ((const uint8_t *)values)[i]) * UINT64_C(0x100000001b3);
	(void)snprintf(k->initrd, sizeof(k->initrd), INITRD_PREFIX "%016" PRIx64, hash);

	return 0;
}

/* Reads a JSON object that pyrod has written; NULL when the file is missing or damaged. */
static json_object *read_object(const char *path, size_t max)
{
	_cleanup_free_ char *text = NULL;
	json_object *o = NULL;
	size_t n;

	if (!path || read_file_at(AT_FDCWD, path, max, &text, &n) < 0 ||
		json_parse(text, n, &json_limits_request, &o, NULL) < 0)
		return NULL;
	if (json_object_is_type(o, json_type_object))
		return o;
	json_object_put(o);

	return NULL;
}

/* Reads the digest of the initramfs for the current agent; false when there is none. */
static bool initrd_digest(struct kernels *k, const char *hash, char ret[IMPORT_DIGEST_SIZE])
{
	_cleanup_free_ char *path = str_printf("%s/%s/" INITRD_META, k->dir, hash);
	_cleanup_json_ json_object *o = read_object(path, INITRD_META_MAX);
	const char *name = o ? import_str(o, "name") : NULL;
	const char *digest = o ? import_str(o, "digest") : NULL;

	if (!name || !streq(name, k->initrd) || !digest || !kernel_digest_valid(digest))
		return false;
	memcpy(ret, digest, IMPORT_DIGEST_SIZE);

	return true;
}

/* The target of a check by integrity.c, with its strings. */
struct asked {
	struct integrity_target target; /* refers to dir and digest */
	char *dir;                      /* owned */
	char digest[IMPORT_DIGEST_SIZE];
};

static void asked_done(struct asked *a)
{
	free(a->dir);
}

/* ret->dir is NULL when out of memory. */
static void ask(struct kernels *k, const char *hash, struct asked *ret)
{
	bool has_initrd = kernel_name_initrd(k, NULL) >= 0 && initrd_digest(k, hash, ret->digest);

	ret->dir = str_printf("%s/%s", k->dir, hash);
	ret->target = (struct integrity_target){
		.dir = ret->dir,
		.id = hash,
		.initrd = has_initrd ? k->initrd : NULL,
		.initrd_digest = has_initrd ? ret->digest : NULL,
	};
}

static const char *damage_of(struct kernels *k, const char *hash, bool initrd)
{
	_cleanup_(asked_done) struct asked a = { .dir = NULL };
	const char *damage;

	ask(k, hash, &a);
	damage = a.dir ? integrity_damage(k->manager->integrity, &a.target) : NULL;

	return damage && startswith(damage, INITRD_PREFIX) == initrd ? damage : NULL;
}

const char *kernels_damage(struct kernels *k, const char *hash)
{
	return damage_of(k, hash, false);
}

const char *kernels_initrd_damage(struct kernels *k, const char *hash)
{
	return damage_of(k, hash, true);
}

bool kernels_is_suspect(struct kernels *k, const char *hash)
{
	_cleanup_(asked_done) struct asked a = { .dir = NULL };

	ask(k, hash, &a);

	return a.dir && integrity_is_suspect(k->manager->integrity, &a.target);
}

uint64_t kernels_whole_usec(struct kernels *k, const char *hash)
{
	_cleanup_(asked_done) struct asked a = { .dir = NULL };

	ask(k, hash, &a);

	return a.dir ? integrity_whole_usec(k->manager->integrity, &a.target) : 0;
}

int kernels_check(struct kernels *k, const char *hash, bool again, integrity_done_fn done,
	void *userdata, struct error *err)
{
	_cleanup_(asked_done) struct asked a = { .dir = NULL };

	ask(k, hash, &a);
	if (!a.dir)
		return no_memory(err);

	return integrity_check(k->manager->integrity, &a.target, again, done, userdata, err);
}

int kernels_refuse(struct kernels *k, const char *hash, const char *environment, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro env pull %s", environment);

	return error_set(
		err, ERROR_START_FAILED, kernels_damage(k, hash), fix, "the kernel is damaged");
}

bool kernel_has_initrd(struct kernels *k, const char *hash)
{
	_cleanup_free_ char *path = str_printf("%s/%s/%s", k->dir, hash, k->initrd);
	char digest[IMPORT_DIGEST_SIZE];

	return path && access(path, R_OK) == 0 && initrd_digest(k, hash, digest) &&
	       !kernels_initrd_damage(k, hash);
}

/* Names the files of the kernel in a machine's row, with the initramfs for the current agent. */
int kernel_name_files(struct kernels *k, const char *hash, struct error *err)
{
	if (!hash || !kernel_hash_valid(hash))
		return error_internal(err, NULL, "A kernel's hash is damaged");
	return kernel_name_initrd(k, err);
}

void kernel_files_done(struct kernel_files *f)
{
	f->vmlinux_fd = fd_close(f->vmlinux_fd);
	f->initrd_fd = fd_close(f->initrd_fd);
	f->modules_fd = fd_close(f->modules_fd);
}

static int open_one(int dir_fd, const char *name, const char *hash, int *ret, struct error *err)
{
	*ret = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret >= 0)
		return 0;

	return error_set_errno(err, ERROR_START_FAILED, -errno, FIX_NO_KERNEL,
		"Cannot open %s of kernel %s", name, hash);
}

/* Opens the image of the modules; *ret is -EBADF for a kernel without modules. */
static int open_modules(int dir_fd, const char *dir, const char *hash, int *ret, struct error *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_object *meta = NULL;
	int r;

	*ret = openat(dir_fd, IMPORT_MODULES, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret >= 0)
		return 0;
	r = -errno;
	*ret = -EBADF;
	if (r == -ENOENT) {
		path = str_printf("%s/meta.json", dir);
		meta = read_object(path, META_MAX);
		if (!meta || !json_get_bool(meta, "modules", false))
			return 0;
	}

	return error_set_errno(err, ERROR_START_FAILED, r, FIX_NO_KERNEL,
		"Cannot open the modules of kernel %s", hash);
}

int kernels_open(struct kernels *k, const char *hash, struct kernel_files *ret, struct error *err)
{
	_cleanup_(kernel_files_done) struct kernel_files f = KERNEL_FILES_INIT;
	_cleanup_close_ int dir_fd = -EBADF;
	_cleanup_free_ char *path = NULL;
	int r;

	r = kernel_name_files(k, hash, err);
	if (r < 0)
		return r;
	path = str_printf("%s/%s", k->dir, hash);
	if (!path)
		return no_memory(err);
	dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd < 0)
		return error_set_errno(err, ERROR_START_FAILED, -errno, FIX_NO_KERNEL,
			"The kernel %s is not in the store", hash);
	r = open_one(dir_fd, IMPORT_VMLINUX, hash, &f.vmlinux_fd, err);
	if (r < 0)
		return r;
	r = open_one(dir_fd, k->initrd, hash, &f.initrd_fd, err);
	if (r < 0)
		return r;
	r = open_modules(dir_fd, path, hash, &f.modules_fd, err);
	if (r < 0)
		return r;
	*ret = f;
	f = (struct kernel_files)KERNEL_FILES_INIT;

	return 0;
}
