/* SPDX-License-Identifier: MIT */
/*
 * Owns env.prune: finds what can be removed from the environment cache and starts a job that
 * removes it. Called by the env.prune handler, and, only for superseded images, after each pull and
 * after the deletion of a machine.
 *
 * Superseded are an image that the catalog no longer names and a kernel that is not the current
 * one. Never removed are the staging folder of a running pull and an image or kernel that a
 * machine's row names. While a pull makes an image, no image is removed: the pull may install the
 * same digest again. With `all`, installed images are removed too. Their NAME.json is removed
 * first, so that a crash leaves them superseded instead of incomplete.
 */

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/image/environment-private.h"
#include "daemon/image/kernel.h"
#include "daemon/log.h"
#include "proto/json.h"

#define PRUNE_MAX   4096
#define KERNELS_MAX 64 /* the next prune removes more */

struct prune {
	json_object *deleted; /* owned */
	uint64_t bytes;
	char **paths; /* owned */
	size_t n_paths;
	bool all, dry_run, images_only;
	prune_done_fn done;
	void *userdata;
	sd_event_source *defer; /* owned; answers a dry run */
};

static void prune_free(struct prune *p)
{
	(void)sd_event_source_disable_unref(p->defer);
	json_object_put(p->deleted);
	install_paths_free(p->paths, p->n_paths);
	free(p);
}
DEFINE_CLEANUP(struct prune *, prune_free)

static int prune_path(struct prune *p, const char *dir, const char *name)
{
	char **more = reallocarray(p->paths, p->n_paths + 1, sizeof(*p->paths));
	char *path = str_printf("%s/%s", dir, name);

	if (more)
		p->paths = more;
	if (!more || !path) {
		free(path);
		return -ENOMEM;
	}
	p->paths[p->n_paths++] = path;

	return 0;
}

/* The names of the large files of an environment and of a kernel. */
static const char *const large_files[] = { IMPORT_IMAGE, IMPORT_VMLINUX, IMPORT_MODULES };

static int count_bytes(struct prune *p, const char *dir, const char *name)
{
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(large_files); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s/%s", dir, name, large_files[i]);

		if (!path)
			return -ENOMEM;
		if (lstat(path, &st) == 0)
			p->bytes += (uint64_t)st.st_blocks * 512;
	}

	return 0;
}

static int prune_add(struct prune *p, const char *dir, const char *name, const char *shown)
{
	json_object *label = json_object_new_string(shown);
	int r;

	if (!label || json_object_array_add(p->deleted, label) < 0) {
		json_object_put(label);
		return -ENOMEM;
	}
	r = count_bytes(p, dir, name);

	return r < 0 ? r : prune_path(p, dir, name);
}

/*
 * Every name that install.c makes beside a pull's staging folder contains that folder's random
 * part.
 */
static bool staging_in_use(struct environments *envs, const char *name)
{
	for (size_t i = 0; i < catalog_size; i++) {
		const char *staging = envs->list[i].pull ? pull_staging(envs->list[i].pull) : "";

		if (staging[0] && strstr(name, staging + strlen(IMPORT_STAGING)))
			return true;
	}

	return false;
}

/* Returns the environment whose image this is, or will be when its pull ends. */
static struct environment *owner_of(struct environments *envs, const char *digest)
{
	for (size_t i = 0; i < catalog_size; i++)
		if (streq(envs->list[i].digest, digest))
			return &envs->list[i];

	return NULL;
}

static bool any_pull(struct environments *envs)
{
	for (size_t i = 0; i < catalog_size; i++)
		if (envs->list[i].pull)
			return true;

	return false;
}

static bool is_in_use(const struct environments *envs, const char *digest)
{
	return envs->in_use && envs->in_use(digest, envs->in_use_userdata);
}

static int look_at_image(struct environments *envs, struct prune *p, const char *name)
{
	_cleanup_free_ char *digest = str_printf("sha256:%s", name + strlen("sha256-"));
	_cleanup_free_ char *shown = NULL;
	const char *dir = envs->manager->cache_dir;
	struct environment *env;
	int r;

	if (!digest)
		return -ENOMEM;
	if (!environment_digest_valid(digest) || is_in_use(envs, digest))
		return 0;
	while ((env = owner_of(envs, digest))) {
		_cleanup_free_ char *ref = str_printf("%s.json", env->catalog->name);

		if (!p->all)
			return 0;
		if (!shown)
			shown = str_printf("%s (%s)", env->catalog->name, name);
		if (!ref || !shown)
			return -ENOMEM;
		if (p->dry_run)
			break;
		r = prune_path(p, dir, ref);
		if (r < 0)
			return r;
		environment_forget(env);
	}

	return prune_add(p, dir, name, shown ? shown : name);
}

static int look_at_cache(struct environments *envs, struct prune *p)
{
	const char *dir = envs->manager->cache_dir;
	bool pulling = any_pull(envs);
	struct dirent *de;
	DIR *d = opendir(dir);
	int r = 0;

	if (!d)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && p->n_paths < PRUNE_MAX && (de = readdir(d))) {
		if (startswith(de->d_name, IMPORT_STAGING) && !p->images_only &&
			!staging_in_use(envs, de->d_name))
			r = prune_add(p, dir, de->d_name, de->d_name);
		else if (startswith(de->d_name, "sha256-") && !pulling)
			r = look_at_image(envs, p, de->d_name);
	}
	(void)closedir(d);

	return r;
}

/* Adds kernels that a newer one has replaced and no machine uses. */
static int look_at_kernels(struct environments *envs, struct prune *p)
{
	char names[KERNELS_MAX][KERNEL_HASH_SIZE];
	const char *dir;
	int n, r = 0;

	if (!envs->manager->kernels)
		return 0;
	n = kernels_superseded(envs->manager->kernels, envs->in_use, envs->in_use_userdata, names,
		KERNELS_MAX, &dir);
	for (int i = 0; i < n && r >= 0; i++) {
		_cleanup_free_ char *label = str_printf("kernel-%s", names[i]);

		r = label ? prune_add(p, dir, names[i], label) : -ENOMEM;
	}

	return n < 0 ? n : r;
}

static void answer(struct prune *prune, const struct error *err)
{
	_cleanup_(prune_freep) struct prune *p = prune;
	_cleanup_error_ struct error mine = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	int r;

	if (err) {
		p->done(NULL, err, p->userdata);
		return;
	}
	o = json_object_new_object();
	r = o ? 0 : -ENOMEM;
	r = r < 0 ? r : json_add_int(o, "count", (int64_t)json_object_array_length(p->deleted));
	r = r < 0 ? r : json_add(o, "deleted", TAKE_PTR(p->deleted));
	r = r < 0 ? r : json_add_int(o, "bytes_freed", (int64_t)p->bytes);
	if (r < 0) {
		(void)error_no_memory(&mine, "Cannot list what was removed");
		p->done(NULL, &mine, p->userdata);
		return;
	}
	p->done(TAKE_PTR(o), NULL, p->userdata);
}

static void on_removed(const struct error *err, void *userdata)
{
	answer(userdata, err);
}

static int on_defer(sd_event_source *s _unused_, void *userdata)
{
	answer(userdata, NULL);

	return 0;
}

int environments_prune(struct environments *envs, bool all, bool dry_run, prune_done_fn done,
	void *userdata, struct error *err)
{
	_cleanup_(prune_freep) struct prune *p = calloc(1, sizeof(*p));
	int r = -ENOMEM;

	if (p)
		p->deleted = json_object_new_array();
	if (p && p->deleted) {
		p->done = done;
		p->userdata = userdata;
		p->all = all;
		p->dry_run = dry_run;
		r = look_at_cache(envs, p);
		if (r >= 0)
			r = look_at_kernels(envs, p);
	}
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL,
			"Cannot read the environment cache %s", envs->manager->cache_dir);
	if (dry_run)
		r = sd_event_add_defer(envs->manager->event, &p->defer, on_defer, p);
	else
		r = install_remove(envs->manager->event, &envs->installs,
			(const char *const *)p->paths, p->n_paths, on_removed, p, err);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "Cannot prune");
	TAKE_PTR(p);

	return 0;
}

void environments_set_in_use(struct environments *envs, digest_in_use_fn in_use, void *userdata)
{
	envs->in_use = in_use;
	envs->in_use_userdata = userdata;
}

static void on_swept(const struct error *err, _unused_ void *userdata)
{
	/* The next prune finds it again. */
	if (err)
		log_warning("cannot remove superseded images: %s%s%s",
			err->message ? err->message : "", err->cause ? ": " : "",
			err->cause ? err->cause : "");
}

void environments_sweep(struct environments *envs)
{
	_cleanup_(prune_freep) struct prune *p = calloc(1, sizeof(*p));
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = -ENOMEM;

	if (!envs->in_use)
		return;
	if (p)
		p->deleted = json_object_new_array();
	if (p && p->deleted) {
		p->images_only = true;
		r = look_at_cache(envs, p);
	}
	if (r < 0)
		(void)error_set_errno(&err, error_code_for_errno(r), r, NULL,
			"Cannot read the environment cache %s", envs->manager->cache_dir);
	else if (p->n_paths > 0)
		r = install_remove(envs->manager->event, &envs->installs,
			(const char *const *)p->paths, p->n_paths, on_swept, NULL, &err);
	if (r < 0)
		on_swept(&err, NULL);
}

void environments_release(struct environments *envs, const char *digest)
{
	if (!owner_of(envs, digest) && !is_in_use(envs, digest))
		environments_sweep(envs);
}
