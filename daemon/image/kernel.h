/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The kernel store: STATE/kernels/HASH/{vmlinux,modules.ext4,meta.json} and STATE/kernels/HASH/initrd-AGENTHASH (with its
 * digest in initrd.json), never installed on the host. Filled by `pyro-import kernel` (apt-get download of Debian's cloud kernel, or
 * kernel= of pyrod.conf, or a readable /boot/vmlinuz-* with its /lib/modules) and `pyro-import initramfs`.
 */

#include "daemon/image/integrity.h"
#include "daemon/manager.h"

#define KERNEL_HASH_SIZE (16 + 1)

typedef void (*kernel_progress_fn)(const char *phase, int percent, void *userdata);
typedef void (*kernel_done_fn)(const struct error *err, void *userdata);

int kernels_new(struct manager *m, struct kernels **ret, struct error *err);
struct kernels *kernels_free(struct kernels *k);

/* The kernel new machines get: "HASH" (16 hex of sha256 of its vmlinux), its version; NULL when the store is empty. */
const char *kernels_current(struct kernels *k);
const char *kernels_current_version(struct kernels *k);
const char *kernels_current_path(struct kernels *k);

/* 1 when the current kernel is the one that pyrod.conf names, 0 when the next start will make another one current. -errno when
 * the file of kernel= cannot be read: then every start fails. */
int kernels_is_configured(struct kernels *k, struct error *err);

/* Makes sure a kernel and the initramfs for today's agent are there. Shared by all who ask; done comes
 * exactly once per call, in a later turn of the loop. */
int kernels_ensure(struct kernels *k, kernel_progress_fn on_progress, kernel_done_fn on_done,
	void *userdata, struct error *err);

/* Makes sure that the kernel of an earlier machine can boot with today's agent: 1 when it can already, 0 when
 * on_done comes in a later turn, -errno when there is no such kernel. */
int kernels_pack(struct kernels *k, const char *hash, kernel_done_fn on_done, void *userdata,
	struct error *err);
/* Nothing is told to userdata any more; the work goes on. */
void kernels_forget(struct kernels *k, const void *userdata);

/* Folders of the store that neither this daemon's kernel nor what in_use says needs; added to *ret by their
 * names (16 hex), at most max; their number. None while kernel work is under way. */
typedef bool (*kernel_in_use_fn)(const char *hash, void *userdata);
int kernels_superseded(struct kernels *k, kernel_in_use_fn in_use, void *userdata,
	char (*ret)[KERNEL_HASH_SIZE], size_t max, const char **ret_dir);

/* What is known to be wrong with a kernel, see integrity.h; a damaged initramfs is none of it, since the next start
 * makes that again. Borrowed until the next check ends; NULL: nothing. */
const char *kernels_damage(struct kernels *k, const char *hash);
const char *kernels_initrd_damage(struct kernels *k, const char *hash);
bool kernels_is_suspect(struct kernels *k, const char *hash);
int kernels_check(struct kernels *k, const char *hash, bool again, integrity_done_fn done,
	void *userdata, struct error *err);
/* When it was last read and found whole; 0: not. */
uint64_t kernels_whole_usec(struct kernels *k, const char *hash);
/* The error of a damaged one's use: start_failed, with the pull of this environment as its fix. */
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
