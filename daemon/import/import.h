/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * pyro-import: the program that fetches and parses what becomes an environment, a kernel or a blank disk,
 * run by pyrod as a job. Each verb is one function; stdout is JSON lines, stderr is for people.
 */

#include "daemon/import/contract.h"
#include "daemon/import/tree.h"
#include "proto/json.h"

/* The verbs: exit status. */
int import_check_main(int argc, char **argv);
int import_environment_main(int argc, char **argv);
int import_tar_main(int argc, char **argv);
int import_disk_main(int argc, char **argv);
int import_kernel_main(int argc, char **argv);
int import_initramfs_main(int argc, char **argv);
int import_sandbox_main(int argc, char **argv);
int import_write_main(int argc, char **argv);

struct launch_msg;

/* As a unit: what the launch socket hands over; *m holds the words. -1: said on stderr. */
int import_unit_take(
	const char *socket_path, struct launch_msg *m, int *ret_argc, char ***ret_argv);

/* One line {"phase", "percent", "detail"}; percent -1 and detail NULL are null. */
void import_progress(const char *phase, int percent, const char *detail);
/* One line {"missing": "WHAT (why)"} of the confined writer: a layer of its sandbox that could not be had. */
void import_missing(const char *what, int r);
/* {"error": {...}}; returns the exit status 1. */
int import_fail(const struct error *err);
/* {"result": result}, which is freed; returns the exit status 0, or 1 when stdout is gone. */
int import_succeed(json_object *result /* owned by the callee */);

/* "sha256:HEX" of everything in fd. */
int import_digest(int fd, char ret[IMPORT_DIGEST_SIZE]);

/* 64 hex digits of the bytes' sha256 and NUL. */
#define IMPORT_SHA256_HEX (64 + 1)
void import_sha256_hex(const void *p, size_t n, char ret[IMPORT_SHA256_HEX]);

/* What SIGTERM, SIGINT and SIGHUP undo before the program ends (import-undo.c): a half-written file; a
 * child that is told to end and waited for, and an empty folder. NULL and 0 clear. */
void import_undo_on_signals(void); /* from now on */
void import_undo_file(const char *file);
void import_undo_child(pid_t child, const char *folder);

/* How writer.c runs `pyro-import write N`: with the spool and the image as these descriptors; neither may
 * become larger than N bytes. 0: only enter the sandbox. */
#define WRITER_SPOOL_FD    3
#define WRITER_IMAGE_FD    4
#define WRITER_OF_PACKAGES "of-packages" /* its second word: the time of its making is taken out */

/* An image on its way, in the confined writer. */
struct image {
	struct tree *tree;      /* owned */
	int spool_fd, image_fd; /* borrowed */
};

/* Installed packages of a Debian tree (packages.c); an empty array when it has no dpkg database. */
int image_packages(struct image *im, json_object **ret, struct error *err);
