/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A machine's own disk: a sparse ext4 copied from a preformatted blank of its size (STATE/disks/
 * blank-MIB.ext4, made once by `pyro-import disk`), so that creating a machine formats nothing. It
 * holds /meta/layout (the text "1"), /upper, /work, /workspace, /data. Copy and unlink are jobs.
 */

#include "daemon/manager.h"

/* err NULL: done. Called exactly once, in a later turn of the loop. */
typedef void (*disk_done_fn)(const struct error *err, void *userdata);

struct disk_op;
int disk_create(struct manager *m, const char *path, uint64_t size_mib, disk_done_fn done,
	void *userdata, struct disk_op **ret, struct error *err);
/* Removes a file or a whole machine directory, without following links. */
int disk_remove(struct manager *m, const char *path, disk_done_fn done, void *userdata,
	struct disk_op **ret, struct error *err);
/*
 * Releases the op; its owner must call it once: before done (the owner no longer waits, the work
 * continues), within done or after it. Takes NULL.
 */
struct disk_op *disk_op_free(struct disk_op *op);
