/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What kernel.c (which kernel there is, and the work that puts it there) and kernel-files.c (what a kernel's folder
 * holds) share.
 */

#include "daemon/image/kernel.h"

#include <sys/queue.h>

#include "daemon/image/import-job.h"
#include "daemon/image/install.h"
#include "daemon/import/contract.h"

#define KEY_DIGITS    16
#define FIX_NO_KERNEL "Delete the machine and make a new one, or put the kernel back."

struct waiter {
	char hash[KERNEL_HASH_SIZE]; /* whose initramfs; "" for all of the current kernel */
	bool answered;               /* of those that are being told an end */
	kernel_progress_fn on_progress;
	kernel_done_fn on_done;
	void *userdata;
	TAILQ_ENTRY(waiter) entry;
};
TAILQ_HEAD(waiters, waiter);

struct kernels {
	struct manager *manager; /* borrowed */
	char *dir;               /* owned; STATE/kernels */

	char hash[IMPORT_HASH_DIGITS + 1]; /* "" when the store is empty */
	char version[IMPORT_VERSION_SIZE];
	char *path; /* owned; of the current vmlinux */
	char *key;  /* owned; what kernel= was when it was made, "" for none */

	struct waiters waiters;
	char target[KERNEL_HASH_SIZE]; /* what is worked on, named as waiters do */
	sd_event_source *ready;        /* owned; answers waiters when nothing needs doing */
	struct import_job *job;        /* owned */
	bool installing;
	struct installs installs;
	char staging[IMPORT_STAGING_SIZE]; /* name below dir, "" when there is none */
	int staging_fd;                    /* owned; that folder, while it is being filled */
	char *new_key;                     /* owned; of the kernel being made */
	char new_hash[IMPORT_HASH_DIGITS + 1];
	char new_version[IMPORT_VERSION_SIZE];
	char new_initrd_digest[IMPORT_DIGEST_SIZE];
	char initrd[sizeof(INITRD_PREFIX) + KEY_DIGITS];
};

/* 16 hex digits. */
bool kernel_hash_valid(const char *s);
/* "sha256:" and 64 of them. */
bool kernel_digest_valid(const char *s);

/* Names the initramfs for the agent as it is now. */
int kernel_name_initrd(struct kernels *k, struct error *err);
/* The same, where the hash of a machine's row is one. */
int kernel_name_files(struct kernels *k, const char *hash, struct error *err);
/* Whether that initramfs is there and, as far as is known, whole. */
bool kernel_has_initrd(struct kernels *k, const char *hash);
