/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Shared by kernel.c (the current kernel, and the work that installs it) and kernel-files.c (the
 * files in a kernel's folder).
 */

#include "daemon/image/kernel.h"

#include <sys/queue.h>

#include "daemon/image/import-job.h"
#include "daemon/image/install.h"
#include "daemon/import/contract.h"

#define KEY_DIGITS    16
#define FIX_NO_KERNEL "Delete the machine and make a new one, or restore the kernel."

struct waiter {
	char hash[KERNEL_HASH_SIZE]; /* of the kernel to pack an initramfs for; "": the current */
	bool answered;               /* to be notified by the current answer() */
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
	char *key;  /* owned; value of kernel= when it was made, "" for none */

	struct waiters waiters;
	char target[KERNEL_HASH_SIZE]; /* of the current work, as in waiter.hash */
	sd_event_source *ready;        /* owned; answers waiters when nothing is missing */
	struct import_job *job;        /* owned */
	bool installing;
	struct installs installs;
	char staging[IMPORT_STAGING_SIZE]; /* name below dir, "" when there is none */
	int staging_fd;                    /* owned; that folder, while a job fills it */
	char *new_key; /* owned; as the other new_, of the kernel in the making */
	char new_hash[IMPORT_HASH_DIGITS + 1];
	char new_version[IMPORT_VERSION_SIZE];
	char new_initrd_digest[IMPORT_DIGEST_SIZE];
	char initrd[sizeof(INITRD_PREFIX) + KEY_DIGITS];
};

/* True for 16 hex digits. */
bool kernel_hash_valid(const char *s);
/* True for "sha256:" and 64 hex digits. */
bool kernel_digest_valid(const char *s);

/* Sets k->initrd to the name of the initramfs for the current agent. */
int kernel_name_initrd(struct kernels *k, struct error *err);
/* The same, after checking the hash of a machine's row. */
int kernel_name_files(struct kernels *k, const char *hash, struct error *err);
/* True when that initramfs exists and no damage is known. */
bool kernel_has_initrd(struct kernels *k, const char *hash);
