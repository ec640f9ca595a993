/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One run of mmdebstrap, which writes its tar to a pipe: this process never reads the tree.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>

struct debootstrap_spec {
	const char *suite, *packages; /* packages: comma-separated */
	const char *mirror; /* used when the host has no Debian mirror; NULL: mmdebstrap's own */
};

struct debootstrap;

int debootstrap_start(
	const struct debootstrap_spec *spec, struct debootstrap **ret, struct error *err);
/* Returns the read end of the pipe with its tar; owned by the caller from then on. */
int debootstrap_take_output(struct debootstrap *d);
/* The members of a struct writer_beside that read its messages and report each step as progress. */
const int *debootstrap_messages_fd(const struct debootstrap *d);
int debootstrap_read_messages(void *d);
uint64_t debootstrap_deadline(const struct debootstrap *d);
/* Waits for its exit. pull_failed with apt's last error when it failed. */
int debootstrap_finish(struct debootstrap *d, struct error *err);
/* Ends it if it still runs and removes its folder. Takes NULL. */
struct debootstrap *debootstrap_free(struct debootstrap *d);
DEFINE_CLEANUP(struct debootstrap *, debootstrap_free)
