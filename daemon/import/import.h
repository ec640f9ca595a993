/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * pyro-import: the program that makes environments, kernels and blank disks, which includes
 * downloading and parsing; run by pyrod as a job. Each verb is one function; stdout is JSON lines,
 * stderr is for people.
 */

#include "daemon/import/contract.h"
#include "daemon/import/tree.h"
#include "proto/json.h"

/* The verbs; each returns the exit status. */
int import_check_main(int argc, char **argv);
int import_environment_main(int argc, char **argv);
int import_tar_main(int argc, char **argv);
int import_disk_main(int argc, char **argv);
int import_kernel_main(int argc, char **argv);
int import_initramfs_main(int argc, char **argv);
int import_sandbox_main(int argc, char **argv);
int import_write_main(int argc, char **argv);

struct launch_msg;

/*
 * As a unit: receives words and descriptors; *m owns the words. Returns -1 after a message on
 * stderr.
 */
int import_unit_take(
	const char *socket_path, struct launch_msg *m, int *ret_argc, char ***ret_argv);

/* Writes a line {"phase", "percent", "detail"}; percent -1 and detail NULL become null. */
void import_progress(const char *phase, int percent, const char *detail);
/* Writes a line {"missing": "WHAT (why)"}: a layer that the confined writer's sandbox lacks. */
void import_missing(const char *what, int r);
/* Writes a line {"error": {...}}; returns the exit status 1. */
int import_fail(const struct error *err);
/* Writes a line {"result": result}; returns the exit status 0, or 1 when stdout is closed. */
int import_succeed(json_object *result /* owned by the callee */);

/* Writes "sha256:HEX" of the content of fd. */
int import_digest(int fd, char ret[IMPORT_DIGEST_SIZE]);

/* Writes the sha256 of the bytes as 64 hex digits and NUL. */
#define IMPORT_SHA256_HEX (64 + 1)
void import_sha256_hex(const void *p, size_t n, char ret[IMPORT_SHA256_HEX]);

/*
 * Register what SIGTERM, SIGINT and SIGHUP undo before the program ends (import-undo.c): an
 * incomplete file to remove; a child to end and wait for, and an empty folder to remove. NULL and 0
 * clear it.
 */
void import_undo_on_signals(void); /* installs the handlers */
void import_undo_file(const char *file);
void import_undo_child(pid_t child, const char *folder);

/*
 * The descriptors with which writer.c runs `pyro-import write N`: the spool and the image. Neither
 * may become larger than N bytes. With N 0 it only enters the sandbox.
 */
#define WRITER_SPOOL_FD    3
#define WRITER_IMAGE_FD    4
#define WRITER_OF_PACKAGES "of-packages" /* its second word: the time of installation is removed */

/* An image in the making, in the confined writer. */
struct image {
	struct tree *tree;      /* owned */
	int spool_fd, image_fd; /* borrowed */
};

/* Lists the installed packages (packages.c); an empty array when the tree has no dpkg database. */
int image_packages(struct image *im, json_object **ret, struct error *err);
