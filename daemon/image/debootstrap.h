/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of mmdebstrap, whose tar comes out of a pipe: no tree is ever made where we read.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>

struct debootstrap_spec {
	const char *suite, *packages; /* packages: comma-separated */
	const char *mirror;           /* NULL: the host's, else mmdebstrap's own */
};

struct debootstrap;

int debootstrap_start(
	const struct debootstrap_spec *spec, struct debootstrap **ret, struct error *err);
/* A tar_input_fn: the next bytes of the tar; reports progress from mmdebstrap's messages meanwhile. */
ssize_t debootstrap_read(void *d, const void **ret);
/* Waits for the end. pull_failed with apt's own last error when it did not succeed. */
int debootstrap_finish(struct debootstrap *d, struct error *err);
/* Ends it if it still runs and removes its folder. Takes NULL. */
struct debootstrap *debootstrap_free(struct debootstrap *d);
DEFINE_CLEANUP(struct debootstrap *, debootstrap_free)
