/* SPDX-License-Identifier: MIT */
/*
 * Owns the pull of one environment: first the kernel, then pyro-import into a staging folder, then
 * the installation. Callers that need the environment join as waiters and may leave; the pull
 * continues without them.
 *
 * An environment has up to two pulls: one makes an image, the other only provides the kernel. The
 * installed image stays in use while the first replaces it: only a forced pull, or one of an
 * environment that is not installed, waits for the first.
 *
 * An image counts as installed when install.c has renamed the staging folder and written NAME.json,
 * both synced. A pull that fails leaves only a staging folder, which is removed at once or at the
 * next start.
 */

#include <fcntl.h>
#include <inttypes.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "daemon/config.h"
#include "daemon/crash.h"
#include "daemon/image/environment-private.h"
#include "daemon/image/kernel.h"
#include "proto/host.h"
#include "proto/json.h"

#define SPACE_NEEDED_MIB  UINT64_C(3072) /* the largest catalog image, its spool and its staging */
#define KERNEL_SPACE_MIB  UINT64_C(512)  /* a kernel, its modules and the package of both */
#define INODES_NEEDED     64
#define PULL_TIMEOUT_USEC (3 * 3600 * USEC_PER_SEC)

struct pull_wait {
	struct pull *pull; /* borrowed; NULL once on_done is called */
	bool in_done;      /* on_done runs; freed after it */
	bool disowned;
	pull_progress_fn on_progress;
	pull_done_fn on_done;
	void *userdata;
	uint64_t round; /* of the last progress that it got */
	TAILQ_ENTRY(pull_wait) entry;
};
TAILQ_HEAD(pull_waits, pull_wait);

struct pull {
	struct environment *env; /* borrowed */
	bool makes_image;        /* env->pull, else env->ensure */
	bool force;
	struct pull_waits waits; /* those that got this round's progress are at the end */
	uint64_t round;
	struct import_job *job; /* owned */
	bool installing;
	char staging[IMPORT_STAGING_SIZE];
	char digest[IMPORT_DIGEST_SIZE];
	int64_t size_bytes;
};

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot pull an environment");
}

struct pull *pull_free(struct pull *p)
{
	struct pull_wait *w;

	if (!p)
		return NULL;
	(void)import_job_cancel(p->job);
	integrity_forget(p->env->envs->manager->integrity, p);
	while ((w = TAILQ_FIRST(&p->waits))) {
		TAILQ_REMOVE(&p->waits, w, entry);
		w->pull = NULL;
	}
	free(p);

	return NULL;
}

const char *pull_staging(const struct pull *p)
{
	return p->staging;
}

struct pull_wait *pull_wait_free(struct pull_wait *w)
{
	if (w && w->pull)
		TAILQ_REMOVE(&w->pull->waits, w, entry);
	if (w && w->in_done)
		w->disowned = true;
	else
		free(w);

	return NULL;
}

/*
 * Reports progress to all waiters. A callback may add or remove any waiter, so each step takes the
 * first one and moves it to the end.
 */
static void report(struct pull *p, const char *phase, int percent, const char *detail)
{
	struct pull_progress progress = { phase, percent, detail };
	struct pull_wait *w;

	p->round++;
	while ((w = TAILQ_FIRST(&p->waits)) && w->round != p->round) {
		TAILQ_REMOVE(&p->waits, w, entry);
		TAILQ_INSERT_TAIL(&p->waits, w, entry);
		w->round = p->round;
		if (w->on_progress)
			w->on_progress(&progress, w->userdata);
	}
}

static void discard_staging(struct pull *p)
{
	struct manager *m = p->env->envs->manager;
	_cleanup_free_ char *path = NULL;
	const char *paths[1];

	if (!p->staging[0])
		return;
	path = str_printf("%s/%s", m->cache_dir, p->staging);
	paths[0] = path;
	/* A folder that cannot be removed now is removed at the next start or by prune. */
	if (path)
		(void)install_remove(m->event, &p->env->envs->installs, paths, 1, NULL, NULL, NULL);
	p->staging[0] = '\0';
}

/* Ends a pull and frees it. Its failure is kept for doctor until another one begins. */
static void finish(struct pull *p, const struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct environments *envs = p->env->envs;
	bool makes_image = p->makes_image;
	struct pull_wait *w;

	discard_staging(p);
	if (err) {
		(void)error_copy(&why, err);
		(void)error_prefix(&why, "Cannot pull %s", p->env->catalog->name);
		(void)error_copy(&p->env->failure, &why);
		err = &why;
	}
	if (p->makes_image)
		p->env->pull = NULL;
	else
		p->env->ensure = NULL;
	crash_point();
	while ((w = TAILQ_FIRST(&p->waits))) {
		TAILQ_REMOVE(&p->waits, w, entry);
		w->pull = NULL;
		w->in_done = true;
		w->on_done(err, w->userdata);
		w->in_done = false;
		if (w->disowned)
			free(w);
	}
	(void)pull_free(p);
	/* Sweeps after the waiters have created their machines, which then use the image. */
	if (makes_image)
		environments_sweep(envs);
}

static void on_installed(const struct error *err, void *userdata)
{
	_cleanup_error_ struct error mine = ERROR_INIT;
	struct pull *p = userdata;

	p->installing = false;
	crash_point();
	if (!err) {
		p->staging[0] = '\0';
		if (environment_load(p->env) < 0)
			(void)no_memory(&mine);
		else if (!p->env->digest[0])
			(void)error_set(&mine, ERROR_PULL_FAILED, p->env->damage,
				"Pull it again; if it persists, check the file system.",
				"%s was installed but cannot be used", p->env->catalog->name);
		err = mine.set ? &mine : NULL;
	}
	if (!err)
		report(p, "ready", 100, NULL);
	finish(p, err);
}

static int packages_json(const struct catalog_entry *e, json_object *o)
{
	json_object *a = json_object_new_array();

	if (!a)
		return -ENOMEM;
	for (const char *const *n = e->packages; *n; n++) {
		json_object *s = json_object_new_string(*n);

		if (!s || json_object_array_add(a, s) < 0) {
			json_object_put(s);
			json_object_put(a);
			return -ENOMEM;
		}
	}

	return json_add(o, "packages", a);
}

static int texts_make(struct pull *p, char **ret_meta, char **ret_ref)
{
	_cleanup_json_ json_object *meta = json_object_new_object(),
				   *ref = json_object_new_object();
	const struct catalog_entry *e = p->env->catalog;
	_cleanup_free_ char *source = str_printf("mmdebstrap:%s", e->suite);
	int r = meta && ref && source ? 0 : -ENOMEM;

	r = r < 0 ? r : json_add_str(meta, "name", e->name);
	r = r < 0 ? r : json_add_str(meta, "version", e->version);
	r = r < 0 ? r : json_add_str(meta, "digest", p->digest);
	r = r < 0 ? r : json_add_int(meta, "size_bytes", p->size_bytes);
	r = r < 0 ? r : packages_json(e, meta);
	r = r < 0 ? r : json_add_str(meta, "suite", e->suite);
	r = r < 0 ? r : json_add_str(meta, "source", source);
	r = r < 0 ? r : json_add_time(meta, "pulled_at", wall_usec());
	r = r < 0 ? r : json_add_str(meta, "catalog_version", CATALOG_VERSION);
	r = r < 0 ? r : json_add_str(ref, "digest", p->digest);
	if (r < 0)
		return r;
	*ret_meta = strdup(json_object_to_json_string_ext(meta, JSON_C_TO_STRING_PLAIN));
	*ret_ref = strdup(json_object_to_json_string_ext(ref, JSON_C_TO_STRING_PLAIN));

	return *ret_meta && *ret_ref ? 0 : -ENOMEM;
}

static int start_install(struct pull *p, struct error *err)
{
	_cleanup_free_ char *meta = NULL, *ref = NULL, *target = NULL, *ref_name = NULL;
	int r;

	target = str_printf("sha256-%s", p->digest + 7);
	ref_name = str_printf("%s.json", p->env->catalog->name);
	if (!target || !ref_name || texts_make(p, &meta, &ref) < 0)
		return no_memory(err);

	r = install_start(p->env->envs->manager->event, &p->env->envs->installs,
		&(struct install_spec){ .dir = p->env->envs->manager->cache_dir,
			.staging = p->staging,
			.target = target,
			.meta = meta,
			.ref = ref_name,
			.ref_text = ref },
		on_installed, p, err);
	p->installing = r == 0;

	return r;
}

/* Takes the result of pyro-import after comparing it with the image in the staging folder. */
static int take_result(struct pull *p, json_object *result, struct error *err)
{
	const char *digest = import_str(result, "digest");
	int64_t size = import_int(result, "size_bytes");
	_cleanup_free_ char *path = NULL;
	struct stat st;

	path = str_printf("%s/%s/" IMPORT_IMAGE, p->env->envs->manager->cache_dir, p->staging);
	if (!path)
		return no_memory(err);
	if (!digest || !environment_digest_valid(digest) || size <= 0 || lstat(path, &st) < 0 ||
		!S_ISREG(st.st_mode) || st.st_size != size)
		return error_set(err, ERROR_PULL_FAILED,
			"pyro-import reported an image that does not exist.", "Pull it again.",
			"The image of %s is incomplete", p->env->catalog->name);
	(void)snprintf(p->digest, sizeof(p->digest), "%s", digest);
	p->size_bytes = size;

	return 0;
}

static void on_imported(json_object *result, const struct error *job_err, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct pull *p = userdata;

	p->job = NULL;
	crash_point();
	if (!result) {
		finish(p, job_err);
		return;
	}
	confinement_take(p->env->envs, result);
	if (take_result(p, result, &err) < 0 || start_install(p, &err) < 0)
		finish(p, &err);
}

static void on_import_progress(const char *phase, int percent, const char *detail, void *userdata)
{
	report(userdata, phase, percent, detail);
}

static int start_import(struct pull *p, struct error *err)
{
	struct environments *envs = p->env->envs;
	const struct config *config = envs->manager->config;
	_cleanup_free_ char *packages = NULL;
	_cleanup_close_ int dir_fd = -EBADF;
	int r;

	if (catalog_packages(p->env->catalog, &packages) < 0)
		return no_memory(err);
	r = import_staging_make(envs->manager, envs->manager->cache_dir, p->staging, &dir_fd, err);
	if (r < 0)
		return r;

	return import_job_start(envs->manager,
		&(struct import_job_spec){
			.args = (const char *const[]){ "environment", "--suite",
				p->env->catalog->suite, "--packages", packages, "--output", ".",
				config && config->mirror ? "--mirror" : NULL,
				config ? config->mirror : NULL, NULL },
			.dir_fd = dir_fd,
			.input_fd = -EBADF,
			.unit = true,
			.timeout_usec = PULL_TIMEOUT_USEC,
			.failure = ERROR_PULL_FAILED,
			.again = IMPORT_AGAIN,
			.on_progress = on_import_progress,
			.on_done = on_imported,
			.userdata = p,
		},
		&p->job, err);
}

static int check_inodes(const char *dir, struct error *err)
{
	_cleanup_free_ char *cause = NULL, *fix = NULL;
	uint64_t n;
	int r = host_free_inodes(dir, &n);

	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r,
			"Check the file system of that folder.",
			"Cannot read the number of free inodes of %s", dir);
	if (n >= INODES_NEEDED)
		return 0;
	cause = str_printf("%" PRIu64 " inodes are free on the file system of %s.", n, dir);
	fix = str_printf("Delete at least %" PRIu64 " files there.", INODES_NEEDED - n);

	return error_set(
		err, ERROR_NO_SPACE, cause, fix, "There is no room to pull an environment");
}

/*
 * Returns the fix that makes space for a pull; need_mib is without the reserve. NULL: out of
 * memory.
 */
static char *room_fix(uint64_t need_mib, uint64_t reserve_mib, uint64_t free_mib,
	uint64_t total_mib, const char *otherwise)
{
	if (need_mib > total_mib)
		return str_printf("Make that file system larger than %" PRIu64 " MiB%s.",
			need_mib + reserve_mib, otherwise);
	if (reserve_mib == 0 || need_mib + reserve_mib <= total_mib)
		return str_printf("Free at least %" PRIu64 " MiB there%s.",
			need_mib + reserve_mib - free_mib, otherwise);
	if (free_mib < need_mib)
		return str_printf("Free at least %" PRIu64 " MiB there, set disk_reserve_mib in "
				  "pyrod.conf to 0 and reload pyrod%s.",
			need_mib - free_mib, otherwise);
	return str_printf("Set disk_reserve_mib in pyrod.conf to at most %" PRIu64
			  " and reload pyrod%s.",
		(free_mib - need_mib) / 8 * 7, otherwise); /* 7/8: free space varies all the time */
}

static int check_room(struct environments *envs, const char *dir, uint64_t need_mib,
	const char *otherwise, struct error *err)
{
	const struct config *config = envs->manager->config;
	uint64_t reserve = config ? (uint64_t)config->disk_reserve_mib : 0, free_bytes, total;
	_cleanup_free_ char *cause = NULL, *fix = NULL;
	int r;

	r = host_free_bytes(dir, &free_bytes);
	if (r >= 0)
		r = host_total_bytes(dir, &total);
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r,
			"Check the file system of that folder.", "Cannot read the free space of %s",
			dir);
	if (free_bytes / MIB >= need_mib + reserve)
		return check_inodes(dir, err);
	cause = str_printf("%" PRIu64 " MiB are free on %s, a pull needs %" PRIu64
			   " MiB, of which disk_reserve_mib in pyrod.conf is %" PRIu64 ".",
		free_bytes / MIB, dir, need_mib + reserve, reserve);
	fix = room_fix(need_mib, reserve, free_bytes / MIB, total / MIB, otherwise);

	return error_set(
		err, ERROR_NO_SPACE, cause, fix, "There is no room to pull an environment");
}

int environments_check_space(struct environments *envs, struct error *err)
{
	struct manager *m = envs->manager;
	int r = check_room(envs, m->cache_dir, SPACE_NEEDED_MIB,
		", or put the cache elsewhere by PYRO_ENVIRONMENT_CACHE_DIR", err);

	if (r >= 0 && m->kernels && !kernels_current(m->kernels))
		r = check_room(envs, m->state_dir, KERNEL_SPACE_MIB, "", err);

	return r;
}

static void on_kernel_progress(const char *phase, int percent, void *userdata)
{
	report(userdata, phase, percent, NULL);
}

/* Checks that the environment was not removed or found damaged while the kernel was made. */
static int check_still_there(struct environment *env, struct error *err)
{
	_cleanup_free_ char *fix = NULL;
	const char *damage = environment_damage(env);

	if (environment_installed(env))
		return 0;
	fix = str_printf("pyro env pull %s", env->catalog->name);

	return error_set(err, ERROR_PULL_FAILED, damage ? damage : "it was removed meanwhile", fix,
		"environment %s is not installed", env->catalog->name);
}

static void on_kernel(const struct error *kernel_err, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct pull *p = userdata;

	if (kernel_err) {
		finish(p, kernel_err);
	} else if (p->makes_image) {
		report(p, "install", 0, environment_damage(p->env));
		if (start_import(p, &err) < 0)
			finish(p, &err);
	} else {
		finish(p, check_still_there(p->env, &err) < 0 ? &err : NULL);
	}
}

/*
 * Makes the cache again if it was removed under the running daemon; all of it then counts as
 * absent.
 */
static int make_cache(struct environments *envs, struct error *err)
{
	const char *dir = envs->manager->cache_dir;

	if (mkdir(dir, 0755) == 0 || errno == EEXIST)
		return 0;

	return error_set_errno(err, error_code_for_errno(-errno), -errno,
		"Make its parent writable for pyrod, or name another folder by "
		"PYRO_ENVIRONMENT_CACHE_DIR.",
		"Cannot make the environment cache %s again", dir);
}

static int ensure_kernel(struct pull *p, struct error *err)
{
	return kernels_ensure(
		p->env->envs->manager->kernels, on_kernel_progress, on_kernel, p, err);
}

/*
 * Continues whatever the check found: ensure_kernel replaces a damaged kernel. A failed check is
 * ignored.
 */
static void on_kernel_checked(_unused_ const struct error *check_err, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	if (ensure_kernel(userdata, &err) < 0)
		finish(userdata, &err);
}

/*
 * Starts with the kernel. A forced pull has it read first, since a user who forces one suspects
 * damage.
 */
static int begin(struct pull *p, struct error *err)
{
	struct kernels *k = p->env->envs->manager->kernels;

	if (p->force && kernels_current(k))
		return kernels_check(k, kernels_current(k), true, on_kernel_checked, p, err);

	return ensure_kernel(p, err);
}

/* Fails when the installed environment or kernel is damaged: only an explicit pull replaces it. */
static int refuse_damaged(struct environment *env, struct error *err)
{
	struct kernels *k = env->envs->manager->kernels;

	if (environment_is_damaged(env))
		return environment_refuse(env, err);
	if (kernels_current(k) && kernels_damage(k, kernels_current(k)))
		return kernels_refuse(k, kernels_current(k), env->catalog->name, err);

	return 0;
}

static int pull_start(struct environment *env, bool makes_image, enum pull_why why,
	struct pull **ret, struct error *err)
{
	struct pull *p;
	int r;

	r = make_cache(env->envs, err);
	/* A running pull already replaces what is damaged. */
	if (r >= 0 && why == PULL_FOR_USE && !env->pull)
		r = refuse_damaged(env, err);
	if (r >= 0 && makes_image)
		r = environments_check_space(env->envs, err);
	if (r < 0)
		return r;
	p = calloc(1, sizeof(*p));
	if (!p)
		return no_memory(err);
	error_clear(&env->failure);
	p->env = env;
	p->makes_image = makes_image;
	p->force = why == PULL_FORCED;
	TAILQ_INIT(&p->waits);
	r = begin(p, err);
	if (r < 0) {
		(void)pull_free(p);
		return r;
	}
	*ret = p;

	return 0;
}

int environment_pull(struct environment *env, enum pull_why why, pull_progress_fn on_progress,
	pull_done_fn on_done, void *userdata, struct pull_wait **ret, struct error *err)
{
	bool makes_image = why == PULL_FORCED || !environment_installed(env);
	struct pull **place = makes_image ? &env->pull : &env->ensure;
	_cleanup_free_ struct pull_wait *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return no_memory(err);
	if (!*place) {
		r = pull_start(env, makes_image, why, place, err);
		if (r < 0)
			return r;
	}
	*w = (struct pull_wait){
		.pull = *place,
		.on_progress = on_progress,
		.on_done = on_done,
		.userdata = userdata,
		.round = (*place)->round,
	};
	TAILQ_INSERT_TAIL(&(*place)->waits, w, entry);
	*ret = TAKE_PTR(w);

	return 0;
}
