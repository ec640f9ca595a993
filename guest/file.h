/* SPDX-License-Identifier: MIT */
#pragma once

/* Files and directories of the environment, which are untrusted, and kernel settings. */

#include "proto/base.h"

/* Reads a regular file, at most 1 MiB, without blocking; empty text if it is absent. */
int file_read(const char *path, char **ret);
/* Writes a file with mode 0644 in place of an existing file or link. */
int file_replace(const char *path, const char *text);
/*
 * Makes sure that path is a directory or a link to one; creates it with mode 0755. Creates missing
 * parents, also behind a dangling link (/lib, with no usr/lib yet); replaces a file or a link to
 * itself.
 */
int file_dir(const char *path);
/* Writes to an existing file below /proc or /sys. */
int file_set(const char *path, const char *text);
