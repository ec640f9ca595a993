/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The uncompressed ELF kernel out of a bzImage, so that unpacking is done once here and not at every
 * (perhaps emulated) boot. The input is a file from outside: every offset in it is checked.
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

/* From a bzImage or an ELF kernel. pull_failed with the reason; *ret is written only on success. */
int vmlinux_extract(const uint8_t *image, size_t n, struct vmlinux *ret, struct error *err);
void vmlinux_done(struct vmlinux *v);

/* The ELF alone: x86-64, executable, loadable, with the PVH entry note QEMU and Firecracker boot by. */
int vmlinux_check(const uint8_t *elf, size_t n, struct error *err);

/* True for a name that may become a folder below lib/modules. */
bool vmlinux_version_valid(const char *version);
