/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What pyrod (daemon/image) and the program pyro-import agree on: the bounds of a line on its stdout, and the names
 * and sizes of what it leaves in its folder. The only header of this folder that daemon/image includes.
 */

/* A line is one JSON object: progress, a missing layer of the sandbox, an error or the result. pyrod refuses larger
 * ones. */
#define IMPORT_LINE_BYTES  (64 * 1024)
#define IMPORT_LINE_VALUES 4000

/* An environment: IMPORT_IMAGE. A kernel: the other names. */
#define IMPORT_IMAGE   "image.ext4"
#define IMPORT_VMLINUX "vmlinux"
#define IMPORT_MODULES "modules.ext4" /* absent where the kernel has no modules */
#define IMPORT_META    "meta.json"    /* a kernel's by pyro-import, an environment's by pyrod */
#define IMPORT_DAMAGED "damaged.json" /* what pyrod calls IMPORT_META in a damaged folder */

/* "sha256:", 64 hex digits, NUL: of an image, of each file of a kernel. */
#define IMPORT_DIGEST_SIZE (sizeof("sha256:") + 64)
/* Of the digest of a kernel's vmlinux: these digits name the kernel. */
#define IMPORT_HASH_DIGITS 16
/* "6.1.0-56-cloud-amd64" and NUL. */
#define IMPORT_VERSION_SIZE 65
