/* SPDX-License-Identifier: MIT */
/*
 * Owns STATE/kernels: the kernel for new machines, and the work that installs it, one job at a
 * time. Callers that need the same kernel wait for the same work. Called by pull.c (every pull
 * ensures a kernel) and by the start of machines, which may need the initramfs of an earlier kernel
 * for the current agent.
 *
 * kernels/current.json names the current kernel, the size of its vmlinux and the value of kernel=
 * when it was made; it is written last, so the kernel it names is complete. The initramfs is named
 * by a key of the agent's file (device, inode, size, times), so a new agent gets a new one without
 * hashing on the loop. An installed kernel never changes: machines refer to it by hash.
 */

#include "daemon/image/kernel-private.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "daemon/config.h"
#include "daemon/image/import-job.h"
#include "daemon/image/install.h"
#include "proto/json.h"

#define IMPORT_TIMEOUT_USEC    (1800 * USEC_PER_SEC)
#define INITRAMFS_TIMEOUT_USEC (120 * USEC_PER_SEC)
#define CURRENT_FILE           "current.json"
#define CURRENT_MAX            4096
#define FIX_KEY                "Correct kernel= in pyrod.conf, or leave it out."

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot prepare a kernel");
}

static int begin(struct kernels *k, const char *target, struct error *err);

static bool busy(const struct kernels *k)
{
	return k->ready || k->job || k->installing;
}

/* Notifies the waiters for the target. Their callbacks may add waiters and remove any. */
static void answer(struct kernels *k, const struct error *err)
{
	struct waiter *w;

	TAILQ_FOREACH (w, &k->waiters, entry)
		w->answered = streq(w->hash, k->target);
	for (;;) {
		TAILQ_FOREACH (w, &k->waiters, entry)
			if (w->answered)
				break;
		if (!w)
			return;
		TAILQ_REMOVE(&k->waiters, w, entry);
		w->on_done(err, w->userdata);
		free(w);
	}
}

static void finish(struct kernels *k, const struct error *err)
{
	struct waiter *w;

	answer(k, err);
	while (!busy(k) && (w = TAILQ_FIRST(&k->waiters))) {
		_cleanup_error_ struct error next = ERROR_INIT;

		if (begin(k, w->hash, &next) < 0)
			answer(k, &next);
	}
}

/* Removes the staging folder. */
static void discard(struct kernels *k)
{
	_cleanup_free_ char *path = NULL;
	const char *paths[1];

	if (k->staging[0]) {
		path = str_printf("%s/%s", k->dir, k->staging);
		paths[0] = path;
		if (path)
			(void)install_remove(
				k->manager->event, &k->installs, paths, 1, NULL, NULL, NULL);
	}
	k->staging[0] = '\0';
	k->staging_fd = fd_close(k->staging_fd);
}

static void fail(struct kernels *k, const struct error *err)
{
	discard(k);
	finish(k, err);
}

static void progress(const char *phase, int percent, const char *detail _unused_, void *userdata)
{
	struct kernels *k = userdata;
	struct waiter *w;

	TAILQ_FOREACH (w, &k->waiters, entry)
		if (w->on_progress && streq(w->hash, k->target))
			w->on_progress(phase, percent, w->userdata);
}

/* Makes the key of the file that kernel= names; another or a changed file is another kernel. */
static int config_key(struct kernels *k, char **ret, struct error *err)
{
	const char *path = k->manager->config ? k->manager->config->kernel : NULL;
	struct stat st;

	if (!path)
		*ret = strdup("");
	else if (stat(path, &st) < 0 || (!k->manager->import_uid && access(path, R_OK) < 0))
		return error_set_errno(err, ERROR_START_FAILED, -errno, FIX_KEY,
			"Cannot read the kernel %s", path);
	else if (!S_ISREG(st.st_mode))
		return error_set(err, ERROR_START_FAILED, "it is not a regular file", FIX_KEY,
			"Cannot read the kernel %s", path);
	else
		*ret = str_printf("%s:%jd:%jd:%jd", path, (intmax_t)st.st_size,
			(intmax_t)st.st_mtim.tv_sec, (intmax_t)st.st_ino);

	return *ret ? 0 : no_memory(err);
}

/* Returns the hash of the installed kernel for which an initramfs is made. */
static const char *packed_kernel(const struct kernels *k)
{
	return k->target[0] ? k->target : k->hash;
}

static int set_current(struct kernels *k, const char *hash, const char *version, char *key)
{
	char *path = str_printf("%s/%s/" IMPORT_VMLINUX, k->dir, hash);

	if (!path || !key) {
		free(path);
		free(key);
		return -ENOMEM;
	}
	free(k->path);
	free(k->key);
	k->path = path;
	k->key = key;
	(void)snprintf(k->hash, sizeof(k->hash), "%s", hash);
	(void)snprintf(k->version, sizeof(k->version), "%s", version);

	return 0;
}

static void on_installed(const struct error *err, void *userdata)
{
	struct kernels *k = userdata;
	_cleanup_error_ struct error mine = ERROR_INIT;

	k->installing = false;
	if (!err && k->new_hash[0] &&
		set_current(k, k->new_hash, k->new_version, TAKE_PTR(k->new_key)) < 0) {
		(void)no_memory(&mine);
		err = &mine;
	}
	if (err) {
		fail(k, err);
		return;
	}
	k->staging[0] = '\0';
	finish(k, NULL);
}

static int current_text(struct kernels *k, char **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	const char *text;
	int r = o ? 0 : -ENOMEM;

	r = r < 0 ? r : json_add_str(o, "hash", k->new_hash);
	r = r < 0 ? r : json_add_str(o, "version", k->new_version);
	r = r < 0 ? r : json_add_str(o, "key", k->new_key);
	text = r < 0 ? NULL : json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	*ret = text ? strdup(text) : NULL;

	return *ret ? 0 : -ENOMEM;
}

static int initrd_text(struct kernels *k, char **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	const char *text;
	int r = o ? json_add_str(o, "name", k->initrd) : -ENOMEM;

	r = r < 0 ? r : json_add_str(o, "digest", k->new_initrd_digest);
	text = r < 0 ? NULL : json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	*ret = text ? strdup(text) : NULL;

	return *ret ? 0 : -ENOMEM;
}

static int install_new(struct kernels *k, struct error *err)
{
	_cleanup_free_ char *target = NULL, *text = NULL, *initrd = NULL, *ref = NULL;
	struct install_spec spec = { .dir = k->dir, .staging = k->staging };
	int r;

	if (initrd_text(k, &initrd) < 0)
		return no_memory(err);
	if (k->new_hash[0]) {
		spec.target = k->new_hash;
		spec.note = INITRD_META;
		spec.note_text = initrd;
		if (current_text(k, &text) < 0)
			return no_memory(err);
		spec.ref = CURRENT_FILE;
		spec.ref_text = text;
	} else {
		target = str_printf("%s/%s", packed_kernel(k), k->initrd);
		ref = str_printf("%s/" INITRD_META, packed_kernel(k));
		if (!target || !ref)
			return no_memory(err);
		spec.member = k->initrd;
		spec.target = target;
		spec.sweep = INITRD_PREFIX;
		spec.ref = ref;
		spec.ref_text = initrd;
	}

	r = install_start(k->manager->event, &k->installs, &spec, on_installed, k, err);
	k->installing = r == 0;

	return r;
}

static void on_initramfs(json_object *result, const struct error *job_err, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct kernels *k = userdata;

	const char *digest = result ? import_str(result, "digest") : NULL;

	k->job = NULL;
	k->staging_fd = fd_close(k->staging_fd);
	if (!result) {
		fail(k, job_err);
		return;
	}
	if (!digest || !kernel_digest_valid(digest)) {
		(void)error_set(&err, ERROR_INTERNAL, "Its result has no digest.",
			"Install pyro again.", "pyro-import initramfs failed");
		fail(k, &err);
		return;
	}
	memcpy(k->new_initrd_digest, digest, IMPORT_DIGEST_SIZE);
	if (install_new(k, &err) < 0)
		fail(k, &err);
}

/* Makes an initramfs in the staging folder, from the kernel there or from the installed one. */
static int start_initramfs(struct kernels *k, struct error *err)
{
	const char *const args[] = { "initramfs", "--kernel", k->new_hash[0] ? "." : IMPORT_INPUT,
		"--agent", k->manager->agent_path, "--output", k->initrd, NULL };
	_cleanup_free_ char *from = NULL;
	_cleanup_close_ int from_fd = -EBADF;

	if (!k->new_hash[0]) {
		from = str_printf("%s/%s", k->dir, packed_kernel(k));
		if (!from)
			return no_memory(err);
		from_fd = open(from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (from_fd < 0)
			return error_set_errno(err, ERROR_START_FAILED, -errno, FIX_NO_KERNEL,
				"Cannot open the kernel %s", from);
	}

	return import_job_start(k->manager,
		&(struct import_job_spec){
			.args = args,
			.dir_fd = k->staging_fd,
			.input_fd = from_fd,
			.timeout_usec = INITRAMFS_TIMEOUT_USEC,
			.failure = k->target[0] ? ERROR_START_FAILED : ERROR_PULL_FAILED,
			.again = "Try again; check the load and the free memory of this host.",
			.on_progress = progress,
			.on_done = on_initramfs,
			.userdata = k,
		},
		&k->job, err);
}

static void on_kernel(json_object *result, const struct error *job_err, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct kernels *k = userdata;
	const char *hash, *version;

	k->job = NULL;
	if (!result) {
		fail(k, job_err);
		return;
	}
	hash = import_str(result, "hash");
	version = import_str(result, "version");
	if (!hash || !kernel_hash_valid(hash) || !version ||
		strlen(version) >= sizeof(k->new_version)) {
		(void)error_set(&err, ERROR_INTERNAL, "Its result names no kernel.",
			"Install pyro again.", "pyro-import kernel failed");
		fail(k, &err);
		return;
	}
	(void)snprintf(k->new_hash, sizeof(k->new_hash), "%s", hash);
	(void)snprintf(k->new_version, sizeof(k->new_version), "%s", version);
	if (start_initramfs(k, &err) < 0)
		fail(k, &err);
}

static int start_kernel(struct kernels *k, struct error *err)
{
	const struct config *config = k->manager->config;
	const char *args[8] = { "kernel", "--output", "." };
	size_t n = 3;

	if (config && config->kernel) {
		args[n++] = "--from";
		args[n++] = config->kernel;
	} else if (config && config->mirror) {
		args[n++] = "--mirror";
		args[n++] = config->mirror;
	}

	return import_job_start(k->manager,
		&(struct import_job_spec){
			.args = args,
			.dir_fd = k->staging_fd,
			.input_fd = -EBADF,
			.unit = true,
			.timeout_usec = IMPORT_TIMEOUT_USEC,
			.failure = ERROR_PULL_FAILED,
			.again = IMPORT_AGAIN,
			.on_progress = progress,
			.on_done = on_kernel,
			.userdata = k,
		},
		&k->job, err);
}

static int on_ready(sd_event_source *s _unused_, void *userdata)
{
	struct kernels *k = userdata;

	k->ready = sd_event_source_disable_unref(k->ready);
	finish(k, NULL);

	return 0;
}

/* Says whether the current kernel must be made again, and keeps the key of the new one. */
static int kernel_missing(struct kernels *k, bool *ret, struct error *err)
{
	int r;

	*ret = false;
	if (k->target[0])
		return 0;
	free(k->new_key);
	k->new_key = NULL;
	r = config_key(k, &k->new_key, err);
	if (r >= 0)
		*ret = !k->hash[0] || !streq(k->new_key, k->key) || access(k->path, R_OK) < 0 ||
		       kernels_damage(k, k->hash);

	return r;
}

/* Starts the work for what the target lacks; no other work is under way. */
static int begin(struct kernels *k, const char *target, struct error *err)
{
	bool kernel;
	int r;

	(void)snprintf(k->target, sizeof(k->target), "%s", target);
	k->new_hash[0] = '\0';
	r = kernel_name_initrd(k, err);
	if (r >= 0)
		r = kernel_missing(k, &kernel, err);
	if (r < 0)
		return r;
	if (!kernel && kernel_has_initrd(k, packed_kernel(k))) {
		r = sd_event_add_defer(k->manager->event, &k->ready, on_ready, k);
		return r < 0 ? error_set_errno(
				       err, ERROR_INTERNAL, r, NULL, "Cannot prepare a kernel")
			     : 0;
	}

	k->staging_fd = fd_close(k->staging_fd);
	r = import_staging_make(k->manager, k->dir, k->staging, &k->staging_fd, err);
	if (r >= 0)
		r = kernel ? start_kernel(k, err) : start_initramfs(k, err);
	if (r < 0)
		discard(k);

	return r;
}

static int wait_for(struct kernels *k, const struct waiter *waiter, struct error *err)
{
	_cleanup_free_ struct waiter *w = malloc(sizeof(*w));
	int r;

	if (!w)
		return no_memory(err);
	*w = *waiter;
	if (!busy(k)) {
		r = begin(k, w->hash, err);
		if (r < 0)
			return r;
	}
	TAILQ_INSERT_TAIL(&k->waiters, w, entry);
	TAKE_PTR(w);

	return 0;
}

int kernels_ensure(struct kernels *k, kernel_progress_fn on_progress, kernel_done_fn on_done,
	void *userdata, struct error *err)
{
	return wait_for(k,
		&(struct waiter){
			.on_progress = on_progress, .on_done = on_done, .userdata = userdata },
		err);
}

int kernels_pack(struct kernels *k, const char *hash, kernel_done_fn on_done, void *userdata,
	struct error *err)
{
	struct waiter w = { .on_done = on_done, .userdata = userdata };
	int r;

	r = kernel_name_files(k, hash, err);
	if (r < 0)
		return r;
	if (kernel_has_initrd(k, hash))
		return 1;
	(void)snprintf(w.hash, sizeof(w.hash), "%s", hash);

	return wait_for(k, &w, err);
}

void kernels_forget(struct kernels *k, const void *userdata)
{
	struct waiter *w, *next;

	for (w = TAILQ_FIRST(&k->waiters); w; w = next) {
		next = TAILQ_NEXT(w, entry);
		if (w->userdata == userdata) {
			TAILQ_REMOVE(&k->waiters, w, entry);
			free(w);
		}
	}
}

static int remove_leftovers(struct kernels *k, struct error *err)
{
	char **paths = NULL;
	size_t n = 0;
	int r;

	r = install_leftovers(k->dir, IMPORT_STAGING, &paths, &n);
	if (r < 0)
		return error_set_errno(err, ERROR_INTERNAL, r, NULL, "Cannot read %s", k->dir);
	if (n > 0)
		r = install_remove(k->manager->event, &k->installs, (const char *const *)paths, n,
			NULL, NULL, err);
	install_paths_free(paths, n);

	return r;
}

/* With a damaged current.json the store counts as empty and is filled again. */
static int load_current(struct kernels *k)
{
	_cleanup_free_ char *file = str_printf("%s/" CURRENT_FILE, k->dir), *text = NULL,
			    *path = NULL;
	_cleanup_json_ json_object *o = NULL;
	const char *hash, *version, *key;
	size_t n;
	int r;

	if (!file)
		return -ENOMEM;
	r = read_file_at(AT_FDCWD, file, CURRENT_MAX, &text, &n);
	if (r < 0)
		return r == -ENOENT || r == -EFBIG ? 0 : r;
	if (json_parse(text, n, &json_limits_request, &o, NULL) < 0 ||
		!json_object_is_type(o, json_type_object))
		return 0;
	hash = import_str(o, "hash");
	version = import_str(o, "version");
	key = import_str(o, "key");
	if (!hash || !kernel_hash_valid(hash) || !version || !key ||
		strlen(version) >= sizeof(k->version))
		return 0;
	path = str_printf("%s/%s/" IMPORT_VMLINUX, k->dir, hash);
	if (!path)
		return -ENOMEM;
	if (access(path, R_OK) < 0)
		return 0;

	return set_current(k, hash, version, strdup(key));
}

int kernels_new(struct manager *m, struct kernels **ret, struct error *err)
{
	struct kernels *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return no_memory(err);
	k->manager = m;
	k->staging_fd = -EBADF;
	TAILQ_INIT(&k->waiters);
	LIST_INIT(&k->installs);
	k->dir = str_printf("%s/kernels", m->state_dir);
	r = k->dir ? 0 : -ENOMEM;
	if (r == 0 && mkdir(k->dir, 0755) < 0 && errno != EEXIST)
		r = -errno;
	if (r == 0)
		r = load_current(k);
	if (r < 0)
		(void)error_set_errno(err, error_code_for_errno(r), r,
			"Make the state folder writable for pyrod.",
			"Cannot read the kernel store %s", k->dir ? k->dir : "");
	else
		r = remove_leftovers(k, err);
	if (r < 0) {
		(void)kernels_free(k);
		return r;
	}
	*ret = k;

	return 0;
}

struct kernels *kernels_free(struct kernels *k)
{
	struct waiter *w;

	if (!k)
		return NULL;
	(void)import_job_cancel(k->job);
	install_cancel_all(&k->installs);
	(void)sd_event_source_disable_unref(k->ready);
	k->staging_fd = fd_close(k->staging_fd);
	while ((w = TAILQ_FIRST(&k->waiters))) {
		TAILQ_REMOVE(&k->waiters, w, entry);
		free(w);
	}
	free(k->new_key);
	free(k->key);
	free(k->path);
	free(k->dir);
	free(k);

	return NULL;
}

const char *kernels_current(struct kernels *k)
{
	return k->hash[0] ? k->hash : NULL;
}

const char *kernels_current_version(struct kernels *k)
{
	return k->hash[0] ? k->version : NULL;
}

int kernels_is_configured(struct kernels *k, struct error *err)
{
	_cleanup_free_ char *key = NULL;
	int r = config_key(k, &key, err);

	return r < 0 ? r : k->hash[0] && streq(key, k->key);
}

const char *kernels_current_path(struct kernels *k)
{
	return k->hash[0] ? k->path : NULL;
}

int kernels_superseded(struct kernels *k, kernel_in_use_fn in_use, void *userdata,
	char (*ret)[KERNEL_HASH_SIZE], size_t max, const char **ret_dir)
{
	struct dirent *de;
	size_t n = 0;
	DIR *d;

	*ret_dir = k->dir;
	/* A new machine will name the current kernel, or the one that is being made. */
	if (!k->hash[0] || busy(k))
		return 0;
	d = opendir(k->dir);
	if (!d)
		return -errno;
	while (n < max && (de = readdir(d)))
		if (kernel_hash_valid(de->d_name) && !streq(de->d_name, k->hash) &&
			!(in_use && in_use(de->d_name, userdata)))
			memcpy(ret[n++], de->d_name, KERNEL_HASH_SIZE);
	(void)closedir(d);

	return (int)n;
}
