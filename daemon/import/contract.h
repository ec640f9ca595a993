/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The contract between pyrod (daemon/image) and the program pyro-import: the limits of a line on
 * its stdout, and the names and sizes of the files in its folder. The only header of this folder
 * that daemon/image includes.
 */

/*
 * A line is one JSON object: progress, a missing layer of the sandbox, an error or the result.
 * pyrod refuses longer lines.
 */
#define IMPORT_LINE_BYTES  (64 * 1024)
#define IMPORT_LINE_VALUES 4000

/* An environment has IMPORT_IMAGE, a kernel the other files. */
#define IMPORT_IMAGE   "image.ext4"
#define IMPORT_VMLINUX "vmlinux"
#define IMPORT_MODULES "modules.ext4" /* absent where the kernel has no modules */
#define IMPORT_META    "meta.json"    /* a kernel's by pyro-import, an environment's by pyrod */
#define IMPORT_DAMAGED "damaged.json" /* the name of IMPORT_META in a damaged folder */

/* Size of "sha256:", 64 hex digits and NUL: the digest of an image or of a kernel's file. */
#define IMPORT_DIGEST_SIZE (sizeof("sha256:") + 64)
/* A kernel is named by that many digits of the digest of its vmlinux. */
#define IMPORT_HASH_DIGITS 16
/* Size of a version such as "6.1.0-56-cloud-amd64", with NUL. */
#define IMPORT_VERSION_SIZE 65
