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
	char *source, *pulled_at; /* owned; from meta.json, as are version and packages */
	char *version;            /* owned; NULL when an older pyro did not record it */
	json_object *packages;    /* owned or NULL */
	char *damage;             /* owned or NULL; why it does not count as installed */
	struct error failure;     /* of its last pull, until the next */
	struct pull *pull;        /* owned or NULL: makes an image */
	struct pull
		*ensure; /* owned or NULL: provides only the kernel, since the image is installed */
};

struct environments {
	struct manager *manager;         /* borrowed */
	struct environment *list;        /* owned; catalog_size of them */
	struct installs installs;        /* installations and removals under way */
	struct confinement *confinement; /* owned; NULL until confinement_ask */
	digest_in_use_fn in_use;         /* NULL until the machines are loaded */
	void *in_use_userdata;           /* borrowed: the machines */
};

/* Removes images that the catalog no longer names and no machine uses. */
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
