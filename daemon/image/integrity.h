/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Checks whether installed files are intact: an environment's image and a kernel's files against
 * the sha256 recorded at their installation. `pyro-import check` reads one folder at a time. A
 * damaged folder is marked on disk (its meta.json is renamed to damaged.json), so that the next
 * daemon knows it too; the mark is removed when the folder is found intact again.
 */

#include "daemon/manager.h"

#define INITRD_PREFIX "initrd-"     /* the prefix of the name of each initramfs */
#define INITRD_META   "initrd.json" /* the name and digest of the initramfs beside it */

struct integrity;

/* An installed folder. integrity_check copies the strings. */
struct integrity_target {
	const char *dir;    /* absolute */
	const char *id;     /* of an environment "sha256:HEX", of a kernel its hash */
	const char *initrd; /* of a kernel the name of its initramfs, or NULL */
	const char *initrd_digest;
};

int integrity_new(struct manager *m, struct integrity **ret);
struct integrity *integrity_free(struct integrity *in);

/* True when the host crashed or lost power while the last pyrod ran. */
bool integrity_after_crash(const struct integrity *in);

/*
 * err NULL: the folder was read; integrity_damage has the result. Called exactly once, in a later
 * iteration of the loop.
 */
typedef void (*integrity_done_fn)(const struct error *err, void *userdata);

/*
 * Reads the folder, or joins a check of it that is already requested. Without again, a folder that
 * was read in the last ten minutes and has not changed since is not read.
 */
int integrity_check(struct integrity *in, const struct integrity_target *t, bool again,
	integrity_done_fn done, void *userdata, struct error *err);
/* Removes the waiters with this userdata; the checks continue. */
void integrity_forget(struct integrity *in, const void *userdata);

/*
 * Says how the folder is damaged ("modules.ext4 is not what was installed"), borrowed until the
 * next check ends; NULL: no damage is known.
 */
const char *integrity_damage(struct integrity *in, const struct integrity_target *t);
/*
 * True when a file was written to after the installation and not checked since: check before use.
 */
bool integrity_is_suspect(struct integrity *in, const struct integrity_target *t);
/* Returns when this daemon last found it intact (monotonic); 0: never, or it has changed since. */
uint64_t integrity_whole_usec(struct integrity *in, const struct integrity_target *t);
