/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Whether what is installed is still what was installed: an environment's image and a kernel's files against the
 * sha256 they were installed with. `pyro-import check` reads them, one folder after the other. A damaged folder is
 * marked on disk (its meta.json is renamed damaged.json), so that the next daemon knows it too; one that is found
 * whole again loses the mark.
 */

#include "daemon/manager.h"

#define INITRD_PREFIX "initrd-"     /* what the name of each initramfs begins with */
#define INITRD_META   "initrd.json" /* the name and digest of the initramfs beside it */

struct integrity;

/* A folder of the store. The strings are copied where they are kept. */
struct integrity_target {
	const char *dir;    /* absolute */
	const char *id;     /* an environment: "sha256:HEX"; a kernel: its hash */
	const char *initrd; /* a kernel's: the name of its initramfs; else NULL */
	const char *initrd_digest;
};

int integrity_new(struct manager *m, struct integrity **ret);
struct integrity *integrity_free(struct integrity *in);

/* The host ended while a pyrod ran here: it crashed, or lost its power. */
bool integrity_after_crash(const struct integrity *in);

/* err NULL: it was read; integrity_damage says what was found. Exactly once, in a later turn of the loop. */
typedef void (*integrity_done_fn)(const struct error *err, void *userdata);

/*
 * Reads the folder, or joins who has asked for that already. Unless again, what was read in the last ten minutes and
 * has not changed since is not read once more.
 */
int integrity_check(struct integrity *in, const struct integrity_target *t, bool again,
	integrity_done_fn done, void *userdata, struct error *err);
/* userdata waits for nothing any more; what it asked for is read all the same. */
void integrity_forget(struct integrity *in, const void *userdata);

/* What is known to be wrong with it ("modules.ext4 is not what was installed"), borrowed until the next check ends;
 * NULL: nothing. */
const char *integrity_damage(struct integrity *in, const struct integrity_target *t);
/* True where a file was written to after the installation and nobody has read it since: not to be used unread. */
bool integrity_is_suspect(struct integrity *in, const struct integrity_target *t);
/* When it was last read and found whole, monotonic, unless it has changed since; 0: not by this daemon. */
uint64_t integrity_whole_usec(struct integrity *in, const struct integrity_target *t);
