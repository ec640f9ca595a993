/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Environments: the catalog (contract.md section 6), what is installed, and pulls. An installed environment
 * is CACHE/sha256-HEX/{image.ext4,meta.json}, plus CACHE/NAME.json naming the digest; written aside in
 * CACHE/.staging-*, fsynced, renamed, so that an interrupted pull leaves nothing installed. A pull is a
 * job that belongs to nobody: callers wait for it and may leave; two pulls of one environment share it.
 */

#include "daemon/manager.h"
#include <json-c/json.h>

#include "daemon/image/integrity.h"

struct environment; /* one catalog entry */
struct pull_wait;   /* one caller waiting for a pull */

int environments_new(struct manager *m, struct environments **ret, struct error *err);
struct environments *environments_free(struct environments *envs);

/* Borrowed; environment_unknown (message names it, fix lists the known or the full reference). */
int environments_find(
	struct environments *envs, const char *name, struct environment **ret, struct error *err);

/* The nth of the catalog, borrowed; NULL beyond the last. */
struct environment *environments_at(struct environments *envs, size_t n);

/* Result objects of env.list and env.inspect; *ret is owned by the caller. */
int environments_list_json(struct environments *envs, json_object **ret);
int environment_json(struct environment *env, json_object **ret);

const char *environment_name(const struct environment *env);
bool environment_installed(const struct environment *env);
const char *environment_digest(const struct environment *env); /* "sha256:HEX" or NULL */
/* Of its installed image; NULL when there is none or its version is not known. */
const char *environment_version(const struct environment *env);
/* Its installed image is whole, but not what the catalog has by now. */
bool environment_outdated(const struct environment *env);
/* Why what is in the cache does not count as installed ("its image is missing ..."); NULL when whole or absent.
 * Borrowed until the next check ends. */
const char *environment_damage(const struct environment *env);
/* Its image is there and is not what was installed: it is pulled again when somebody asks for that, not by its use. */
bool environment_is_damaged(const struct environment *env);
/* The error of its use then: start_failed, with the pull as its fix. */
int environment_refuse(const struct environment *env, struct error *err);
/* Why its last pull by this daemon failed; NULL when it did not, or another has begun. */
const struct error *environment_failure(const struct environment *env);

/* Opens the installed image read-only; the digest pins it. pull_failed when it is not there or damaged. */
int environments_open_image(
	struct environments *envs, const char *digest, int *ret_fd, struct error *err);

/* Of an image by its digest, whether or not it is an environment's current one; see integrity.h. */
const char *environments_image_damage(struct environments *envs, const char *digest);
bool environments_image_is_suspect(struct environments *envs, const char *digest);
/* When it was last read and found whole; 0: not. */
uint64_t environments_image_whole_usec(struct environments *envs, const char *digest);
int environments_check_image(struct environments *envs, const char *digest, bool again,
	integrity_done_fn done, void *userdata, struct error *err);

struct pull_progress {
	const char *phase;  /* "kernel", "install", "write", "ready" */
	int percent;        /* -1 unknown */
	const char *detail; /* one line or NULL */
};
typedef void (*pull_progress_fn)(const struct pull_progress *p, void *userdata);
/* err NULL: installed and the kernel is ready. Called exactly once, never from within environment_pull. */
typedef void (*pull_done_fn)(const struct error *err, void *userdata);

enum pull_why {
	PULL_FOR_USE, /* a machine is to be made: what is found damaged is refused, not replaced */
	PULL_ASKED,
	PULL_FORCED, /* also when it is installed */
};
/*
 * Joins or starts the pull of env (with it kernels_ensure, so that a machine can start afterwards).
 * Already installed and not forced: done comes in the next turn of the loop, also while a pull that is forced runs.
 * Checks free space first. The waiter may leave with pull_wait_free; the job goes on.
 */
int environment_pull(struct environment *env, enum pull_why why, pull_progress_fn on_progress,
	pull_done_fn on_done, void *userdata, struct pull_wait **ret, struct error *err);
/* no_space unless a pull has room now. */
int environments_check_space(struct environments *envs, struct error *err);
/* The wait stays its owner's until this, which may come before on_done (leaves; the job goes on), within it
 * or after it. Takes NULL. */
struct pull_wait *pull_wait_free(struct pull_wait *w);

/* Says whether a machine's row names a digest, or a kernel's hash (16 hex). */
typedef bool (*digest_in_use_fn)(const char *digest, void *userdata);
/* From now on superseded images that no machine uses are removed: after the pull that has replaced them, or by
 * environments_release. */
void environments_heed_use(struct environments *envs, digest_in_use_fn in_use, void *userdata);
/* A machine that named the digest is deleted, and in_use knows. */
void environments_release(struct environments *envs, const char *digest);

/* Removes leftovers and superseded versions, all: also what no machine uses. dry_run only lists. The result is
 * env.prune's; removal is a job, so this answers by callback. Kernels that are neither this daemon's nor a row's are
 * superseded too. */
typedef void (*prune_done_fn)(
	json_object *result /* owned by the callee */, const struct error *err, void *userdata);
int environments_prune(struct environments *envs, bool all, bool dry_run, prune_done_fn done,
	void *userdata, struct error *err);
