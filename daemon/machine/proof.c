/* SPDX-License-Identifier: MIT */
/*
 * Owns the proofs that machines have booted and run commands, by what they were made of. Recorded
 * by plan.c and core/, removed by the engine, read by doctor.
 *
 * What must stay true: a machine's key is made of the descriptors that its VMM was given, so that
 * files installed meanwhile do not get its proof; a machine of a previous daemon has no key and
 * proves nothing.
 */

#include "daemon/machine/proof.h"

#include <sys/stat.h>

#include "daemon/machine/machine-internal.h"

#define FILE_TEXT  128
#define PROOFS_MAX 32

struct kept_proof {
	TAILQ_ENTRY(kept_proof) entry;
	char *key; /* owned */
	struct proof proof;
};

static void identify(const struct stat *st, char ret[FILE_TEXT])
{
	(void)snprintf(ret, FILE_TEXT, "%jx:%jx:%jx:%jx.%jx", (uintmax_t)st->st_dev,
		(uintmax_t)st->st_ino, (uintmax_t)st->st_size, (uintmax_t)st->st_mtim.tv_sec,
		(uintmax_t)st->st_mtim.tv_nsec);
}

/* fd may be -EBADF: a kernel need not have modules. */
static int identify_fd(int fd, char ret[FILE_TEXT])
{
	struct stat st = { 0 };

	if (fd >= 0 && fstat(fd, &st) < 0)
		return -errno;
	identify(&st, ret);
	return 0;
}

/* *ret is owned. */
static int make_key(struct manager *m, int image_fd, const struct kernel_files *kernel,
	enum accelerator a, char **ret)
{
	const int fds[] = { image_fd, kernel->vmlinux_fd, kernel->initrd_fd, kernel->modules_fd };
	char files[ARRAY_SIZE(fds)][FILE_TEXT], program[FILE_TEXT];
	_cleanup_free_ char *path = NULL;
	struct stat st;
	int r = vmm_program(m, a, &path);

	if (r >= 0 && stat(path, &st) < 0)
		r = -errno;
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(fds); i++)
		r = identify_fd(fds[i], files[i]);
	if (r < 0)
		return r;
	identify(&st, program);
	*ret = str_printf("%s %s %s %s %s %s %s", accelerator_name(a), files[0], files[1], files[2],
		files[3], program, path);
	return *ret ? 0 : -ENOMEM;
}

static struct kept_proof *find(struct machines *ms, const char *key)
{
	struct kept_proof *p;

	TAILQ_FOREACH (p, &ms->proofs, entry)
		if (streq(p->key, key))
			return p;
	return NULL;
}

static void drop(struct machines *ms, struct kept_proof *p)
{
	TAILQ_REMOVE(&ms->proofs, p, entry);
	ms->n_proofs--;
	free(p->key);
	free(p);
}

/* NULL when out of memory: doctor then boots a machine itself. */
static struct kept_proof *keep(struct machines *ms, const char *key)
{
	struct kept_proof *p = find(ms, key);

	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (p)
		p->key = strdup(key);
	if (!p || !p->key) {
		free(p);
		return NULL;
	}
	if (ms->n_proofs == PROOFS_MAX)
		drop(ms, TAILQ_FIRST(&ms->proofs));
	TAILQ_INSERT_TAIL(&ms->proofs, p, entry);
	ms->n_proofs++;
	return p;
}

void machine_make_key(struct machine *mc)
{
	free(TAKE_PTR(mc->proof.key));
	/* Without a key the machine proves nothing. */
	if (make_key(mc->machines->m, mc->boot->image_fd, &mc->boot->kernel, mc->accelerator.used,
		    &mc->proof.key) < 0)
		mc->proof.key = NULL;
}

void machine_has_booted(struct machine *mc)
{
	struct kept_proof *p = mc->proof.key ? keep(mc->machines, mc->proof.key) : NULL;

	if (p)
		p->proof.booted_usec = wall_usec();
}

void machine_has_executed(struct machine *mc)
{
	struct kept_proof *p = mc->proof.key ? keep(mc->machines, mc->proof.key) : NULL;

	if (p)
		p->proof.executed_usec = wall_usec();
}

/* Only a failure with a fresh disk counts: a guest may have damaged its own. */
void machine_has_failed(struct machine *mc)
{
	struct kept_proof *p = mc->proof.key ? find(mc->machines, mc->proof.key) : NULL;

	if (p && mc->is_new && mc->proof.launches == 1)
		drop(mc->machines, p);
}

void proofs_free(struct machines *ms)
{
	while (!TAILQ_EMPTY(&ms->proofs))
		drop(ms, TAILQ_FIRST(&ms->proofs));
}

void proof_find(struct manager *m, const char *digest, enum accelerator a, struct proof *ret)
{
	_cleanup_(kernel_files_done) struct kernel_files kernel = KERNEL_FILES_INIT;
	const char *hash = kernels_current(m->kernels);
	_cleanup_free_ char *key = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct kept_proof *p;

	*ret = (struct proof){ 0 };
	/* Files that cannot be opened, or are not what the next machine gets, have no proof. */
	if (!m->machines || !hash || kernels_is_configured(m->kernels, NULL) <= 0 ||
		environments_open_image(m->environments, digest, &fd, NULL) < 0 ||
		kernels_open(m->kernels, hash, &kernel, NULL) < 0 ||
		make_key(m, fd, &kernel, a, &key) < 0)
		return;
	p = find(m->machines, key);
	if (p)
		*ret = p->proof;
}
