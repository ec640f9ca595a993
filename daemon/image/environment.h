/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Environments: the catalog (contract.md section 6), the installed images, and pulls. An installed
 * environment is CACHE/sha256-HEX/{image.ext4,meta.json}, and CACHE/NAME.json names its digest. It
 * is written to CACHE/.staging-*, fsynced and renamed, so that an interrupted pull leaves nothing
 * installed. A pull is a job that no caller owns: callers wait for it and may leave; two pulls of
 * one environment share it.
 */

#include "daemon/manager.h"
#include <json-c/json.h>

#include "daemon/image/integrity.h"

struct environment; /* one catalog entry */
struct pull_wait;   /* one caller waiting for a pull */

int environments_new(struct manager *m, struct environments **ret, struct error *err);
struct environments *environments_free(struct environments *envs);

/* *ret is borrowed. environment_unknown: the message has the name, the fix lists the known ones. */
int environments_find(
	struct environments *envs, const char *name, struct environment **ret, struct error *err);

/* Returns the nth environment of the catalog, borrowed; NULL beyond the last. */
struct environment *environments_at(struct environments *envs, size_t n);

/* Result objects of env.list and env.inspect; *ret is owned by the caller. */
int environments_list_json(struct environments *envs, json_object **ret);
int environment_json(struct environment *env, json_object **ret);

const char *environment_name(const struct environment *env);
bool environment_installed(const struct environment *env);
const char *environment_digest(const struct environment *env); /* "sha256:HEX" or NULL */
/* Returns the version of the installed image; NULL when there is none or it is not recorded. */
const char *environment_version(const struct environment *env);
/* True when the installed image is intact, but older than the catalog's version. */
bool environment_outdated(const struct environment *env);
/*
 * Says why the files in the cache do not count as installed ("its image is missing ..."); NULL when
 * they are intact or absent. Borrowed until the next check ends.
 */
const char *environment_damage(const struct environment *env);
/* True when its image exists but is damaged: it is then pulled again on request, not by its use. */
bool environment_is_damaged(const struct environment *env);
/* Sets the error for the use of a damaged environment: start_failed, with the pull as its fix. */
int environment_refuse(const struct environment *env, struct error *err);
/* Says why its last pull by this daemon failed; NULL when it did not, or another has begun. */
const struct error *environment_failure(const struct environment *env);

/* Opens the image with this digest read-only. pull_failed when it is missing or damaged. */
int environments_open_image(
	struct environments *envs, const char *digest, int *ret_fd, struct error *err);

/* As in integrity.h, for an image by its digest, whether or not an environment still names it. */
const char *environments_image_damage(struct environments *envs, const char *digest);
bool environments_image_is_suspect(struct environments *envs, const char *digest);
/* Returns when it was last read and found intact (monotonic); 0: never. */
uint64_t environments_image_whole_usec(struct environments *envs, const char *digest);
int environments_check_image(struct environments *envs, const char *digest, bool again,
	integrity_done_fn done, void *userdata, struct error *err);

struct pull_progress {
	const char *phase;  /* "kernel", "install", "write", "ready" */
	int percent;        /* -1 unknown */
	const char *detail; /* one line or NULL */
};
typedef void (*pull_progress_fn)(const struct pull_progress *p, void *userdata);
/*
 * err NULL: installed and the kernel is ready. Called exactly once, never from within
 * environment_pull.
 */
typedef void (*pull_done_fn)(const struct error *err, void *userdata);

enum pull_why {
	PULL_FOR_USE, /* for a new machine: a damaged environment is refused, not replaced */
	PULL_ASKED,
	PULL_FORCED, /* rebuilds it even when it is installed */
};
/*
 * Joins or starts the pull of env, which includes kernels_ensure, so that a machine can start
 * afterwards. If env is installed and the pull not forced, on_done comes in the next iteration of
 * the loop, even while a forced pull runs. Checks free space first. The caller may leave with
 * pull_wait_free; the job continues.
 */
int environment_pull(struct environment *env, enum pull_why why, pull_progress_fn on_progress,
	pull_done_fn on_done, void *userdata, struct pull_wait **ret, struct error *err);
/* Fails with no_space unless there is space for a pull. */
int environments_check_space(struct environments *envs, struct error *err);
/*
 * Releases the wait; its owner must call it once: before on_done (the caller leaves, the job
 * continues), within on_done or after it. Takes NULL.
 */
struct pull_wait *pull_wait_free(struct pull_wait *w);

/* Says whether a machine's row names a digest, or a kernel's hash (16 hex). */
typedef bool (*digest_in_use_fn)(const char *digest, void *userdata);
/*
 * From now on, superseded images that no machine uses are removed: after the pull that has replaced
 * them, or by environments_release.
 */
void environments_set_in_use(struct environments *envs, digest_in_use_fn in_use, void *userdata);
/* Called after the deletion of a machine that named the digest; in_use no longer reports it. */
void environments_release(struct environments *envs, const char *digest);

/*
 * Removes leftovers and superseded images and kernels; with all, also installed images that no
 * machine uses. dry_run only lists. A kernel is superseded when it is neither the current one nor
 * in a machine's row. Removal is a job; done gets the result object of env.prune.
 */
typedef void (*prune_done_fn)(
	json_object *result /* owned by the callee */, const struct error *err, void *userdata);
int environments_prune(struct environments *envs, bool all, bool dry_run, prune_done_fn done,
	void *userdata, struct error *err);
