/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What environment.c (the objects), pull.c and prune.c share.
 */

#include "daemon/image/catalog.h"
#include "daemon/image/confinement.h"
#include "daemon/image/environment.h"
#include "daemon/image/import-job.h"
#include "daemon/image/install.h"

#include "daemon/image/integrity.h"
#include "daemon/import/contract.h"

struct pull;

struct environment {
	struct environments *envs;           /* borrowed */
	const struct catalog_entry *catalog; /* borrowed */
	char digest[IMPORT_DIGEST_SIZE];     /* "" when not installed */
	int64_t size_bytes;
	char *source, *pulled_at; /* owned; of meta.json, as are: */
	char *version;            /* owned or NULL: of a pyro that did not record it */
	json_object *packages;    /* owned or NULL */
	char *damage;             /* owned or NULL: why what is there does not count */
	struct error failure;     /* of its last pull, until the next */
	struct pull *pull;        /* owned or NULL: makes an image */
	struct pull *
		ensure; /* owned or NULL: of one that is installed, so only the kernel is seen to */
};

struct environments {
	struct manager *manager;         /* borrowed */
	struct environment *list;        /* owned; catalog_size of them */
	struct installs installs;        /* installations and removals under way */
	struct confinement *confinement; /* owned; NULL until it was asked for */
	digest_in_use_fn in_use;         /* NULL until it is known what machines use */
	void *in_use_userdata;           /* borrowed: the machines */
};

/* Removes the images that the catalog no longer points to and no machine uses. */
void environments_sweep(struct environments *envs);

/* True for "sha256:" and 64 hex digits. */
bool environment_digest_valid(const char *digest);

/* CACHE/sha256-HEX of a digest; owned by the caller, NULL when out of memory. */
char *environment_dir(struct environments *envs, const char *digest);

/* Reads from the cache whether and how env is installed. */
int environment_load(struct environment *env);
void environment_forget(struct environment *env);

struct pull *pull_free(struct pull *p);
/* The name of its staging folder, "" when it has none. */
const char *pull_staging(const struct pull *p);
