/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of the confined image writer (`pyro-import write`), seen from the process that fetches: it is
 * given a tar and makes DIR/image.ext4 of it, or says why not.
 */

#include "proto/json.h"

struct writer;

/* input_fd, the tar, is borrowed until the start has returned. of_packages: the time of its making is taken out (epoch.h). */
int writer_start(
	const char *dir, int input_fd, bool of_packages, struct writer **ret, struct error *err);

/* What is watched meanwhile: called when *fd (-EBADF: nothing) can be read; < 0 gives up. */
struct writer_beside {
	const int *fd;
	int (*on_ready)(void *userdata);
	void *userdata;
};
/* Until the writer has ended; deadline in CLOCK_MONOTONIC microseconds. */
int writer_wait(
	struct writer *w, const struct writer_beside *beside, uint64_t deadline, struct error *err);

/* Puts the image in place (synced, renamed) and makes the result {"digest", "size_bytes", "entries",
 * "packages", "unconfined"}: the last are the layers its sandbox had to do without. */
int writer_publish(struct writer *w, json_object **ret, struct error *err);

/* Enters the sandbox and leaves again: {"unconfined": [...]}. */
int writer_probe(json_object **ret, struct error *err);

/* Ends it if it still runs; nothing but what was published stays. Takes NULL. */
struct writer *writer_free(struct writer *w);
DEFINE_CLEANUP(struct writer *, writer_free)
