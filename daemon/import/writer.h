/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of the confined image writer (`pyro-import write`), seen from its parent: it makes
 * DIR/image.ext4 from a tar, or reports an error.
 */

#include "proto/json.h"

struct writer;

/*
 * input_fd, the tar, is borrowed by the call. of_packages: the time of installation is removed
 * (epoch.h).
 */
int writer_start(
	const char *dir, int input_fd, bool of_packages, struct writer **ret, struct error *err);

/*
 * A second descriptor to watch: on_ready is called when *fd (-EBADF: none) is readable; < 0 gives
 * up.
 */
struct writer_beside {
	const int *fd;
	int (*on_ready)(void *userdata);
	void *userdata;
};
/* Waits until the writer has exited; deadline in CLOCK_MONOTONIC microseconds. */
int writer_wait(
	struct writer *w, const struct writer_beside *beside, uint64_t deadline, struct error *err);

/*
 * Puts the image in place (synced, renamed) and makes the result {"digest", "size_bytes",
 * "entries", "packages", "unconfined"}; the last lists the layers that its sandbox lacked.
 */
int writer_publish(struct writer *w, json_object **ret, struct error *err);

/* Enters the sandbox and exits; the result is {"unconfined": [...]}. */
int writer_probe(json_object **ret, struct error *err);

/* Kills it if it still runs and removes files that were not published. Takes NULL. */
struct writer *writer_free(struct writer *w);
DEFINE_CLEANUP(struct writer *, writer_free)
