/* SPDX-License-Identifier: MIT */
/*
 * Owns the environments of the catalog and the state of their installation. Used by the env.*
 * handlers, by machines (digest and image) and by pull.c and prune.c.
 *
 * An environment is installed when CACHE/NAME.json names a digest, CACHE/sha256-HEX/meta.json has
 * that digest, and image.ext4 beside it has the size recorded there. Otherwise it counts as not
 * installed, environment_damage says why, and a pull replaces it. An image that was read and found
 * damaged (integrity.h) does not count either, but is only pulled again on request, so that the
 * administrator notices the damage.
 */

#include "daemon/image/environment-private.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/image/kernel.h"
#include "proto/json.h"
#include "proto/utf8.h"

#define META_MAX  (64 * 1024)
#define NAME_SHOW 200 /* bytes */
#define NEAR_MAX  3   /* edits between a name and a suggestion */

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot load the environments");
}

bool environment_digest_valid(const char *digest)
{
	return startswith(digest, "sha256:") && strlen(digest) == IMPORT_DIGEST_SIZE - 1 &&
	       strspn(digest + 7, "0123456789abcdef") == 64;
}

char *environment_dir(struct environments *envs, const char *digest)
{
	return str_printf("%s/sha256-%s", envs->manager->cache_dir, digest + 7);
}

void environment_forget(struct environment *env)
{
	env->digest[0] = '\0';
	env->size_bytes = 0;
	free(env->source);
	free(env->pulled_at);
	free(env->damage);
	free(env->version);
	json_object_put(env->packages);
	env->source = env->pulled_at = env->damage = env->version = NULL;
	env->packages = NULL;
}

/* Sets *ret to NULL if the file does not exist. Returns -EBADMSG if it cannot be parsed. */
static int read_object(const char *path, json_object **ret)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_json_ json_object *o = NULL;
	size_t n;
	int r;

	*ret = NULL;
	r = read_file_at(AT_FDCWD, path, META_MAX, &text, &n);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = json_parse(text, n, &json_limits_request, &o, NULL);
	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;
	if (!json_object_is_type(o, json_type_object))
		return -EBADMSG;
	*ret = TAKE_PTR(o);

	return 0;
}

static int damaged(struct environment *env, const char *why)
{
	environment_forget(env);
	env->damage = strdup(why);

	return env->damage ? 0 : -ENOMEM;
}

/* Checks that the image exists and has the recorded size. */
static bool has_image(struct environment *env)
{
	_cleanup_free_ char *dir = environment_dir(env->envs, env->digest), *path = NULL;
	struct stat st;

	path = dir ? str_printf("%s/" IMPORT_IMAGE, dir) : NULL;

	return path && lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
	       st.st_size == env->size_bytes;
}

/* Returns a new reference to o if it is an array of strings, else NULL. */
static json_object *list_of_strings(json_object *o)
{
	if (!json_object_is_type(o, json_type_array))
		return NULL;
	for (size_t i = 0; i < json_object_array_length(o); i++)
		if (!json_object_is_type(json_object_array_get_idx(o, i), json_type_string))
			return NULL;
	return json_object_get(o);
}

/* Reads meta.json, or damaged.json in a folder that is marked as damaged. */
static int read_meta(struct environment *env, const char *digest, json_object **ret)
{
	static const char *const names[] = { IMPORT_META, IMPORT_DAMAGED };
	_cleanup_free_ char *dir = environment_dir(env->envs, digest);
	int r = dir ? 0 : -ENOMEM;

	*ret = NULL;
	for (size_t i = 0; r == 0 && !*ret && i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, names[i]);

		r = path ? read_object(path, ret) : -ENOMEM;
	}
	return r;
}

static int load_meta(struct environment *env, const char *digest)
{
	_cleanup_json_ json_object *meta = NULL;
	const char *named, *source, *pulled_at, *version;
	int r = read_meta(env, digest, &meta);

	if (r == -ENOMEM)
		return r;
	if (r < 0 || !meta)
		return damaged(env, "its meta.json is missing or damaged");
	named = import_str(meta, "digest");
	source = import_str(meta, "source");
	pulled_at = import_str(meta, "pulled_at");
	version = import_str(meta, "version");
	if (!named || !streq(named, digest) || import_int(meta, "size_bytes") <= 0)
		return damaged(env, "its meta.json does not match its digest");
	(void)snprintf(env->digest, sizeof(env->digest), "%s", digest);
	env->size_bytes = import_int(meta, "size_bytes");
	env->source = source ? strdup(source) : NULL;
	env->pulled_at = pulled_at ? strdup(pulled_at) : NULL;
	env->version = version ? strdup(version) : NULL;
	env->packages = list_of_strings(json_get(meta, "packages"));
	if ((source && !env->source) || (pulled_at && !env->pulled_at) ||
		(version && !env->version))
		return -ENOMEM;
	if (!has_image(env))
		return damaged(env, "its image is missing or of the wrong size");

	return 0;
}

int environment_load(struct environment *env)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_json_ json_object *ref = NULL;
	const char *digest;
	int r;

	environment_forget(env);
	path = str_printf("%s/%s.json", env->envs->manager->cache_dir, env->catalog->name);
	if (!path)
		return -ENOMEM;
	r = read_object(path, &ref);
	if (r == -ENOMEM)
		return r;
	if (r == 0 && !ref)
		return 0;
	digest = ref ? import_str(ref, "digest") : NULL;
	if (!digest || !environment_digest_valid(digest))
		return damaged(env, "the file that names its image is damaged");

	return load_meta(env, digest);
}

const char *environment_name(const struct environment *env)
{
	return env->catalog->name;
}

/* *ret_dir is owned by the caller; NULL when out of memory. */
static struct integrity_target target_of(
	struct environments *envs, const char *digest, char **ret_dir)
{
	*ret_dir = environment_dir(envs, digest);

	return (struct integrity_target){ .dir = *ret_dir, .id = digest };
}

const char *environments_image_damage(struct environments *envs, const char *digest)
{
	_cleanup_free_ char *dir = NULL;
	struct integrity_target t = target_of(envs, digest, &dir);

	return dir ? integrity_damage(envs->manager->integrity, &t) : NULL;
}

bool environments_image_is_suspect(struct environments *envs, const char *digest)
{
	_cleanup_free_ char *dir = NULL;
	struct integrity_target t = target_of(envs, digest, &dir);

	return dir && integrity_is_suspect(envs->manager->integrity, &t);
}

uint64_t environments_image_whole_usec(struct environments *envs, const char *digest)
{
	_cleanup_free_ char *dir = NULL;
	struct integrity_target t = target_of(envs, digest, &dir);

	return dir ? integrity_whole_usec(envs->manager->integrity, &t) : 0;
}

int environments_check_image(struct environments *envs, const char *digest, bool again,
	integrity_done_fn done, void *userdata, struct error *err)
{
	_cleanup_free_ char *dir = NULL;
	struct integrity_target t = target_of(envs, digest, &dir);

	if (!dir)
		return no_memory(err);

	return integrity_check(envs->manager->integrity, &t, again, done, userdata, err);
}

bool environment_installed(const struct environment *env)
{
	return env->digest[0] && has_image((struct environment *)env) &&
	       !environments_image_damage(env->envs, env->digest);
}

const char *environment_digest(const struct environment *env)
{
	return env->digest[0] ? env->digest : NULL;
}

const char *environment_version(const struct environment *env)
{
	return env->digest[0] ? env->version : NULL;
}

bool environment_outdated(const struct environment *env)
{
	return environment_installed(env) &&
	       !(env->version && streq(env->version, env->catalog->version));
}

const char *environment_damage(const struct environment *env)
{
	if (env->damage)
		return env->damage;
	if (!env->digest[0])
		return NULL;
	if (!has_image((struct environment *)env))
		return "its image is missing or of the wrong size";

	return environments_image_damage(env->envs, env->digest);
}

bool environment_is_damaged(const struct environment *env)
{
	return env->digest[0] && has_image((struct environment *)env) &&
	       environments_image_damage(env->envs, env->digest);
}

int environment_refuse(const struct environment *env, struct error *err)
{
	_cleanup_free_ char *fix = str_printf("pyro env pull %s", env->catalog->name);

	return error_set(err, ERROR_START_FAILED, environment_damage(env), fix,
		"environment %s is damaged", env->catalog->name);
}

const struct error *environment_failure(const struct environment *env)
{
	return env->failure.set ? &env->failure : NULL;
}

static int known_names(char **ret)
{
	_cleanup_free_ char *list = NULL;

	for (size_t i = 0; i < catalog_size; i++) {
		char *more = list ? str_printf("%s, %s", list, catalog[i].name)
				  : strdup(catalog[i].name);

		if (!more)
			return -ENOMEM;
		free(list);
		list = more;
	}
	*ret = TAKE_PTR(list);

	return 0;
}

/* True when the first component of the name is a host: it has a dot or a port, or is localhost. */
static bool names_registry(const char *name)
{
	size_t n = strcspn(name, "/");

	if (name[n] != '/')
		return false;

	return memchr(name, '.', n) || memchr(name, ':', n) ||
	       (n == strlen("localhost") && startswith(name, "localhost"));
}

/* Returns the most similar name of the catalog, or NULL; static. */
static const char *suggestion(const char *name)
{
	const char *best = NULL;
	size_t least = NEAR_MAX + 1;

	for (size_t i = 0; i < catalog_size; i++) {
		size_t d = text_distance(name, catalog[i].name);

		if (d < least) {
			least = d;
			best = catalog[i].name;
		}
	}
	return best;
}

/*
 * Reports a name that is not in the catalog; until there are registries, the fix lists the catalog.
 */
static int unknown(enum error_code code, const char *cause, const char *name, struct error *err)
{
	_cleanup_free_ char *known = NULL, *fix = NULL;

	if (known_names(&known) < 0 || !(fix = str_printf("use one of: %s", known)))
		return no_memory(err);

	return error_set(err, code, cause, fix, "there is no environment %.*s",
		utf8_cut(name, NAME_SHOW), name);
}

int environments_find(
	struct environments *envs, const char *name, struct environment **ret, struct error *err)
{
	_cleanup_free_ char *cause = NULL;
	const char *near = suggestion(name);

	for (size_t i = 0; i < catalog_size; i++)
		if (streq(name, catalog[i].name)) {
			*ret = &envs->list[i];
			return 0;
		}
	if (names_registry(name))
		return unknown(
			ERROR_UNSUPPORTED, "this pyrod cannot pull from registries yet", name, err);
	if (near)
		cause = str_printf("did you mean %s?", near);

	return unknown(
		ERROR_ENVIRONMENT_UNKNOWN, cause ? cause : "it is not in the catalog", name, err);
}

struct environment *environments_at(struct environments *envs, size_t n)
{
	return n < catalog_size ? &envs->list[n] : NULL;
}

static int packages_json(const struct catalog_entry *e, json_object **ret)
{
	_cleanup_json_ json_object *a = json_object_new_array();

	if (!a)
		return -ENOMEM;
	for (const char *const *p = e->packages; *p; p++) {
		json_object *s = json_object_new_string(*p);

		if (!s || json_object_array_add(a, s) < 0) {
			json_object_put(s);
			return -ENOMEM;
		}
	}
	*ret = TAKE_PTR(a);

	return 0;
}

int environment_json(struct environment *env, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *packages = NULL;
	struct kernels *kernels = env->envs->manager->kernels;
	bool installed = environment_installed(env);
	_cleanup_free_ char *path = installed ? environment_dir(env->envs, env->digest) : NULL;
	int r = o ? 0 : -ENOMEM;

	if (installed && env->packages)
		packages = json_object_get(env->packages);
	else
		r = r < 0 ? r : packages_json(env->catalog, &packages);
	r = r < 0 ? r : json_add_str(o, "name", env->catalog->name);
	r = r < 0 ? r
		  : json_add_str(o, "version", installed ? env->version : env->catalog->version);
	r = r < 0 ? r : json_add_str(o, "description", env->catalog->description);
	r = r < 0 ? r : json_add_bool(o, "installed", installed);
	r = r < 0 ? r : json_add_str(o, "digest", installed ? env->digest : NULL);
	r = r < 0       ? r
	    : installed ? json_add_int(o, "size_bytes", env->size_bytes)
			: json_add(o, "size_bytes", NULL);
	r = r < 0 ? r : json_add_str(o, "source", installed ? env->source : NULL);
	r = r < 0 ? r : json_add(o, "packages", TAKE_PTR(packages));
	r = r < 0 ? r : json_add_str(o, "path", path);
	r = r < 0 ? r
		  : json_add_str(o, "kernel", kernels ? kernels_current_version(kernels) : NULL);
	r = r < 0 ? r : json_add_str(o, "pulled_at", installed ? env->pulled_at : NULL);
	r = r < 0 ? r
		  : json_add_str(o, "damage",
			    environment_is_damaged(env) ? environment_damage(env) : NULL);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);

	return 0;
}

int environments_list_json(struct environments *envs, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object(), *a = json_object_new_array();
	int r;

	if (!o || !a)
		return -ENOMEM;
	for (size_t i = 0; i < catalog_size; i++) {
		json_object *env = NULL;

		r = environment_json(&envs->list[i], &env);
		if (r < 0)
			return r;
		if (json_object_array_add(a, env) < 0) {
			json_object_put(env);
			return -ENOMEM;
		}
	}
	r = json_add_str(o, "catalog_version", CATALOG_VERSION);
	r = r < 0 ? r : json_add(o, "environments", TAKE_PTR(a));
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);

	return 0;
}

/* An image that no environment names any more cannot be pulled again. */
static int image_unusable(
	const struct environments *envs, struct error *err, const char *digest, const char *cause)
{
	_cleanup_free_ char *fix = NULL;

	for (size_t i = 0; !fix && i < catalog_size; i++)
		if (streq(envs->list[i].digest, digest))
			fix = str_printf("pyro env pull %s", catalog[i].name);

	return error_set(err, ERROR_PULL_FAILED, cause,
		fix ? fix : "Delete the machine and make a new one.",
		"The environment image %s is not usable", digest);
}

int environments_open_image(
	struct environments *envs, const char *digest, int *ret_fd, struct error *err)
{
	_cleanup_free_ char *dir = NULL, *path = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (!environment_digest_valid(digest))
		return error_internal(err, NULL, "An environment's digest is damaged");
	dir = environment_dir(envs, digest);
	path = dir ? str_printf("%s/" IMPORT_IMAGE, dir) : NULL;
	if (!path)
		return no_memory(err);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return image_unusable(envs, err, digest, strerror(errno));
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return image_unusable(envs, err, digest, "It is not a regular file.");
	for (size_t i = 0; i < catalog_size; i++)
		if (streq(envs->list[i].digest, digest) && envs->list[i].size_bytes != st.st_size)
			return image_unusable(envs, err, digest, "It has the wrong size.");
	*ret_fd = TAKE_FD(fd);

	return 0;
}

/* Removes what a crashed process left in dir, in a job for which no caller waits. */
static int remove_leftovers(struct environments *envs, const char *dir, struct error *err)
{
	char **paths = NULL;
	size_t n = 0;
	int r;

	r = install_leftovers(dir, IMPORT_STAGING, &paths, &n);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r,
			"Make the folder readable for pyrod.", "Cannot read %s", dir);
	if (n > 0)
		r = install_remove(envs->manager->event, &envs->installs,
			(const char *const *)paths, n, NULL, NULL, err);
	install_paths_free(paths, n);

	return r;
}

static int remove_all_leftovers(struct environments *envs, struct error *err)
{
	_cleanup_free_ char *disks = str_printf("%s/disks", envs->manager->state_dir);
	int r;

	if (!disks)
		return no_memory(err);
	r = remove_leftovers(envs, envs->manager->cache_dir, err);

	return r < 0 ? r : remove_leftovers(envs, disks, err);
}

static void on_read(_unused_ const struct error *err, _unused_ void *userdata)
{
	/* integrity.c logs and keeps the verdict. */
}

/*
 * Schedules a check of all that is installed after a crash of the host, which may have damaged
 * files. When out of memory, the check is skipped: files are then read on request.
 */
static void read_after_crash(struct environments *envs)
{
	struct kernels *k = envs->manager->kernels;

	if (!integrity_after_crash(envs->manager->integrity))
		return;
	if (kernels_current(k))
		(void)kernels_check(k, kernels_current(k), false, on_read, NULL, NULL);
	for (size_t i = 0; i < catalog_size; i++)
		if (environment_installed(&envs->list[i]))
			(void)environments_check_image(
				envs, envs->list[i].digest, false, on_read, NULL, NULL);
}

int environments_new(struct manager *m, struct environments **ret, struct error *err)
{
	struct environments *envs = calloc(1, sizeof(*envs));
	int r = 0;

	if (!envs)
		return no_memory(err);
	envs->manager = m;
	LIST_INIT(&envs->installs);
	envs->list = calloc(catalog_size, sizeof(*envs->list));
	if (!envs->list)
		r = no_memory(err);
	else if (mkdir(m->cache_dir, 0755) < 0 && errno != EEXIST)
		r = error_set_errno(err, error_code_for_errno(-errno), -errno,
			"Make its parent writable for pyrod, or name another folder by "
			"PYRO_ENVIRONMENT_CACHE_DIR.",
			"Cannot make the environment cache %s", m->cache_dir);
	for (size_t i = 0; r == 0 && i < catalog_size; i++) {
		envs->list[i].envs = envs;
		envs->list[i].catalog = &catalog[i];
		if (environment_load(&envs->list[i]) < 0)
			r = no_memory(err);
	}
	if (r == 0)
		r = remove_all_leftovers(envs, err);
	if (r < 0) {
		(void)environments_free(envs);
		return r;
	}
	read_after_crash(envs);
	*ret = envs;

	return 0;
}

struct environments *environments_free(struct environments *envs)
{
	if (!envs)
		return NULL;
	for (size_t i = 0; envs->list && i < catalog_size; i++) {
		(void)pull_free(envs->list[i].pull);
		(void)pull_free(envs->list[i].ensure);
		environment_forget(&envs->list[i]);
		error_clear(&envs->list[i].failure);
	}
	envs->confinement = confinement_free(envs->confinement);
	install_cancel_all(&envs->installs);
	free(envs->list);
	free(envs);

	return NULL;
}
