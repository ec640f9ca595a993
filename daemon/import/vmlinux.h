/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Extracts the uncompressed ELF kernel from a bzImage once, instead of at every (perhaps emulated)
 * boot. The input is a file from outside: every offset in it is checked.
 */

#include "daemon/import/contract.h"
#include "proto/base.h"
#include "proto/error.h"

struct vmlinux {
	uint8_t *data; /* owned */
	size_t size;
	char version
		[IMPORT_VERSION_SIZE]; /* "6.1.0-56-cloud-amd64", "" when the file does not say */
};
#define VMLINUX_INIT \
	{ \
		NULL, 0, "" \
	}

/*
 * Accepts a bzImage or an ELF kernel. pull_failed with the reason; *ret is written only on success.
 */
int vmlinux_extract(const uint8_t *image, size_t n, struct vmlinux *ret, struct error *err);
void vmlinux_done(struct vmlinux *v);

/*
 * Checks the ELF: x86-64, executable, loadable, with the PVH entry note that QEMU and Firecracker
 * use.
 */
int vmlinux_check(const uint8_t *elf, size_t n, struct error *err);

/* True for a name that is safe as a folder below lib/modules. */
bool vmlinux_version_valid(const char *version);
