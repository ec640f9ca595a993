/* SPDX-License-Identifier: MIT */
#pragma once

/* The operations of files-op.c, one per file. Each returns -errno with *ret->what set. */

#include "guest/files.h"

/* The path's own file: "/workspace/a" for "a"; NULL when out of memory. */
char *files_path(const struct files_op *op, const char *path);
/* Sets what and returns r. */
int files_fail(struct msg_file_result *ret, int r, const char *what);
/* Why a file of this type (st_mode) is refused: "it is a FIFO". */
const char *files_kind(unsigned mode);

int files_list(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret);
int files_read(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret);
int files_write(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret);
int files_edit(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret);
