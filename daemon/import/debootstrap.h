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
	const char *mirror; /* where the host has none of Debian's; NULL: mmdebstrap's own */
};

struct debootstrap;

int debootstrap_start(
	const struct debootstrap_spec *spec, struct debootstrap **ret, struct error *err);
/* The end of the pipe its tar comes out of; owned by the caller from then on. */
int debootstrap_take_output(struct debootstrap *d);
/* Its messages, for a struct writer_beside: each step of them is reported as progress. */
const int *debootstrap_messages_fd(const struct debootstrap *d);
int debootstrap_read_messages(void *d);
uint64_t debootstrap_deadline(const struct debootstrap *d);
/* Waits for the end. pull_failed with apt's own last error when it did not succeed. */
int debootstrap_finish(struct debootstrap *d, struct error *err);
/* Ends it if it still runs and removes its folder. Takes NULL. */
struct debootstrap *debootstrap_free(struct debootstrap *d);
DEFINE_CLEANUP(struct debootstrap *, debootstrap_free)
