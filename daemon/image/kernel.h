/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The kernel store: STATE/kernels/HASH/{vmlinux,modules.ext4,meta.json} and
 * STATE/kernels/HASH/initrd-AGENTHASH (with its digest in initrd.json). Kernels are never installed
 * on the host. The store is filled by `pyro-import kernel` (apt-get download of Debian's cloud
 * kernel, or kernel= of pyrod.conf, or a readable /boot/vmlinuz-* with its /lib/modules) and
 * `pyro-import initramfs`.
 */

#include "daemon/image/integrity.h"
#include "daemon/manager.h"

#define KERNEL_HASH_SIZE (16 + 1)

typedef void (*kernel_progress_fn)(const char *phase, int percent, void *userdata);
typedef void (*kernel_done_fn)(const struct error *err, void *userdata);

int kernels_new(struct manager *m, struct kernels **ret, struct error *err);
struct kernels *kernels_free(struct kernels *k);

/*
 * The kernel for new machines: its hash (16 hex digits of the sha256 of its vmlinux), its version,
 * the path of its vmlinux; NULL when the store is empty.
 */
const char *kernels_current(struct kernels *k);
const char *kernels_current_version(struct kernels *k);
const char *kernels_current_path(struct kernels *k);

/*
 * Returns 1 when the current kernel is the one that pyrod.conf names, 0 when the next start will
 * make another one current, -errno when the file of kernel= cannot be read: then every start fails.
 */
int kernels_is_configured(struct kernels *k, struct error *err);

/*
 * Provides a kernel and the initramfs for the current agent. Callers share the work; on_done is
 * called exactly once per call, in a later iteration of the loop.
 */
int kernels_ensure(struct kernels *k, kernel_progress_fn on_progress, kernel_done_fn on_done,
	void *userdata, struct error *err);

/*
 * Provides the initramfs that an earlier machine's kernel needs for the current agent. Returns 1
 * if it exists, 0 if on_done is called later, -errno if the kernel does not exist.
 */
int kernels_pack(struct kernels *k, const char *hash, kernel_done_fn on_done, void *userdata,
	struct error *err);
/* Removes the waiters with this userdata; the work continues. */
void kernels_forget(struct kernels *k, const void *userdata);

/*
 * Finds folders of the store that are neither the current kernel nor in use; adds at most max of
 * their names (16 hex digits) to *ret and returns their number. Finds none while kernel work is
 * under way.
 */
typedef bool (*kernel_in_use_fn)(const char *hash, void *userdata);
int kernels_superseded(struct kernels *k, kernel_in_use_fn in_use, void *userdata,
	char (*ret)[KERNEL_HASH_SIZE], size_t max, const char **ret_dir);

/*
 * Says how a kernel is damaged, see integrity.h; its initramfs is left out, since the next start
 * makes a damaged one again. Borrowed until the next check ends; NULL: no damage is known.
 */
const char *kernels_damage(struct kernels *k, const char *hash);
const char *kernels_initrd_damage(struct kernels *k, const char *hash);
bool kernels_is_suspect(struct kernels *k, const char *hash);
int kernels_check(struct kernels *k, const char *hash, bool again, integrity_done_fn done,
	void *userdata, struct error *err);
/* Returns when it was last read and found intact (monotonic); 0: never. */
uint64_t kernels_whole_usec(struct kernels *k, const char *hash);
/*
 * Sets the error for the use of a damaged kernel: start_failed; the fix is to pull the environment.
 */
int kernels_refuse(struct kernels *k, const char *hash, const char *environment, struct error *err);

struct kernel_files {
	int vmlinux_fd, initrd_fd, modules_fd; /* owned; modules_fd -EBADF when there is no image */
};
#define KERNEL_FILES_INIT \
	{ \
		-EBADF, -EBADF, -EBADF \
	}
void kernel_files_done(struct kernel_files *f);
/* Opens the files of one kernel by hash, read-only. */
int kernels_open(struct kernels *k, const char *hash, struct kernel_files *ret, struct error *err);
