/* SPDX-License-Identifier: MIT */
/*
 * pyrod.conf: one table of keys with type and range, read with libinih from the main file and then
 * from the files of conf.d by name (a later file wins). Called by manager_new and `pyrod
 * --check-config`. What must stay true: an unknown key or section, a value out of range and a line
 * that libinih would cut are errors that name file, line and value. Keys come without a section or
 * in [pyrod].
 */

#include "daemon/config.h"

#include <dirent.h>
#include <ini.h>
#include <inttypes.h>

#define CONF_FILES_MAX 1000 /* in conf.d */
#define SYSTEM_DIR     "/etc/pyro"
#define GIB_IN_MIB     INT64_C(1024)

enum key_type { KEY_INT, KEY_BOOL, KEY_PATH, KEY_TEXT, KEY_URI, KEY_ACCELERATOR };

struct key {
	const char *name;
	enum key_type type;
	size_t offset;
	int64_t min, max, dflt;
};

#define INT_KEY(field, lo, hi, d) \
	{ \
		.name = #field, .type = KEY_INT, .offset = offsetof(struct config, field), \
		.min = (lo), .max = (hi), .dflt = (d) \
	}
#define KEY(field, t) \
	{ \
		.name = #field, .type = (t), .offset = offsetof(struct config, field) \
	}

static const struct key keys[] = {
	KEY(accelerator, KEY_ACCELERATOR),
	KEY(host_compat, KEY_BOOL),
	INT_KEY(default_ttl_seconds, 0, 31536000, 600),
	INT_KEY(default_vcpu_count, 1, 32, 1),
	INT_KEY(default_mem_mib, 128, 16777216, 1024),
	INT_KEY(default_disk_mib, 64, 16777216, 10240),
	INT_KEY(retention_days, 0, 36500, 30),
	INT_KEY(max_machines, 1, 10000, 16),
	INT_KEY(max_vcpus, 0, 100000, 0),
	INT_KEY(max_memory_mib, 0, 1024 * 1024 * GIB_IN_MIB, 0),
	INT_KEY(max_disk_mib, 0, INT64_C(1024) * 1024 * GIB_IN_MIB, 0),
	INT_KEY(total_machines, 0, 100000, 0),
	INT_KEY(total_vcpus, 0, 1000000, 0),
	INT_KEY(total_memory_mib, 0, 1024 * 1024 * GIB_IN_MIB, 0),
	INT_KEY(total_disk_mib, 0, INT64_C(1024) * 1024 * GIB_IN_MIB, 0),
	INT_KEY(memory_reserve_mib, 0, 1024 * 1024 * GIB_IN_MIB, 0),
	INT_KEY(disk_reserve_mib, 0, INT64_C(1024) * 1024 * GIB_IN_MIB, 512),
	INT_KEY(seed_max_mib, 1, 1024 * GIB_IN_MIB, 2048),
	INT_KEY(output_limit_mib, 1, 1024 * GIB_IN_MIB, 16),
	KEY(kernel, KEY_PATH),
	KEY(mirror, KEY_URI),
	KEY(registries, KEY_TEXT),
	INT_KEY(pool, 0, 1000, 0),
	KEY(qemu, KEY_PATH),
	KEY(firecracker, KEY_PATH),
	KEY(jailer, KEY_PATH),
};

static const char *const accelerator_names[] = { "auto", "kvm", "emulation" };
_Static_assert(ARRAY_SIZE(accelerator_names) == ACCELERATOR_MAX, "a name for each");

const char *accelerator_name(enum accelerator a)
{
	return accelerator_names[a];
}

int accelerator_from_name(const char *name, enum accelerator *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(accelerator_names); i++)
		if (streq(accelerator_names[i], name)) {
			*ret = (enum accelerator)i;
			return 0;
		}
	return -EINVAL;
}

/* A file being read. */
struct source {
	struct config *config; /* borrowed */
	const char *path;      /* borrowed */
	FILE *file;            /* borrowed */
	int line;
	struct error *err; /* borrowed */
	int r;
};

static int refuse(struct source *s, const char *fix, const char *what, const char *name)
{
	s->r = error_set(s->err, ERROR_INVALID_ARGUMENT, NULL, fix, "%s:%d: %s: %.200s", s->path,
		s->line, what, name);
	return 0; /* tells libinih to stop */
}

static int set_int(struct source *s, const struct key *k, const char *value)
{
	uint64_t v;
	if (parse_u64(value, (uint64_t)k->min, (uint64_t)k->max, &v) < 0) {
		char fix[100];
		(void)snprintf(fix, sizeof(fix), "set %s to a number from %" PRId64 " to %" PRId64,
			k->name, k->min, k->max);
		return refuse(s, fix, k->name, value);
	}
	*(int64_t *)(void *)((char *)s->config + k->offset) = (int64_t)v;
	return 1;
}

static int set_bool(struct source *s, const struct key *k, const char *value)
{
	static const char *const yes[] = { "yes", "true", "on", "1" };
	static const char *const no[] = { "no", "false", "off", "0" };
	bool *target = (bool *)((char *)s->config + k->offset);
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!streq(value, yes[i]) && !streq(value, no[i]))
			continue;
		*target = streq(value, yes[i]);
		return 1;
	}
	return refuse(s, "set it to yes or no", k->name, value);
}

/* True for an address that pyro-import accepts as a mirror (image/mirror.c). */
static bool is_uri(const char *value)
{
	static const char *const schemes[] = { "http://", "https://", "file:///" };
	if (strpbrk(value, " '\"\\[]"))
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(schemes); i++)
		if (startswith(value, schemes[i]))
			return true;
	return false;
}

static int set_text(struct source *s, const struct key *k, const char *value)
{
	if (k->type == KEY_PATH && value[0] != '/' && value[0] != '\0')
		return refuse(s, "give an absolute path", k->name, value);
	if (k->type == KEY_URI && value[0] && !is_uri(value))
		return refuse(s, "give an http://, https:// or file:/// address", k->name, value);
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return refuse(s, "remove the control character", k->name, "not printable");
	char **target = (char **)(void *)((char *)s->config + k->offset);
	char *copy = value[0] ? strdup(value) : NULL; /* empty: the default */
	if (value[0] && !copy) {
		s->r = error_no_memory(s->err, "out of memory");
		return 0;
	}
	free(*target);
	*target = copy;
	return 1;
}

static int set_value(struct source *s, const struct key *k, const char *value)
{
	switch (k->type) {
	case KEY_INT: return set_int(s, k, value);
	case KEY_BOOL: return set_bool(s, k, value);
	case KEY_ACCELERATOR:
		if (accelerator_from_name(value, &s->config->accelerator) < 0)
			return refuse(s, "set it to auto, kvm or emulation", k->name, value);
		return 1;
	default: return set_text(s, k, value);
	}
}

/* Finds a `#` comment, which libinih would take as part of the value; it removes ` ;` comments
 * itself. */
static bool has_comment(const char *value)
{
	for (const char *p = value; (p = strchr(p, '#')); p++)
		if (p == value || p[-1] == ' ' || p[-1] == '\t')
			return true;
	return false;
}

static int on_value(void *userdata, const char *section, const char *name, const char *value)
{
	struct source *s = userdata;
	if (section[0] && !streq(section, "pyrod"))
		return refuse(s, "the only section is [pyrod]", "unknown section", section);
	if (has_comment(value))
		return refuse(s, "write the comment on a line of its own", name, value);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (streq(keys[i].name, name))
			return set_value(s, &keys[i], value);
	return refuse(s, "pyrod.conf(5) lists the keys", "unknown key", name);
}

/* The reader for libinih: counts lines and refuses a line that libinih would split. */
static char *next_line(char *str, int num, void *stream)
{
	struct source *s = stream;
	if (s->r < 0 || !fgets(str, num, s->file))
		return NULL;
	s->line++;
	if (!strchr(str, '\n') && !feof(s->file)) {
		(void)refuse(s, "shorten it", "the line is too long", str);
		return NULL;
	}
	return str;
}

static int read_stream(struct source *s)
{
	int line = ini_parse_stream(next_line, s, on_value, s);
	if (s->r < 0)
		return s->r;
	if (line == -2)
		return error_no_memory(s->err, "out of memory");
	if (ferror(s->file))
		return error_set_errno(
			s->err, ERROR_INVALID_ARGUMENT, -EIO, NULL, "cannot read %s", s->path);
	if (line != 0)
		return error_set(s->err, ERROR_INVALID_ARGUMENT, NULL, "write KEY = VALUE",
			"%s:%d: neither a key, a section nor a comment", s->path, line);
	return 0;
}

static int note_file(struct config *c, const char *path)
{
	size_t n = 0;
	while (c->files && c->files[n])
		n++;
	char **more = reallocarray(c->files, n + 2, sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->files = more;
	more[n] = strdup(path);
	more[n + 1] = NULL;
	return more[n] ? 0 : -ENOMEM;
}

static int read_file(struct config *c, const char *path, bool must_exist, struct error *err)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	if (!f && errno == ENOENT && !must_exist)
		return 0;
	if (!f)
		return error_set_errno(err, ERROR_INVALID_ARGUMENT, -errno,
			"correct the path or the file's permissions", "cannot read %s", path);
	struct source s = { .config = c, .path = path, .file = f, .err = err };
	int r = read_stream(&s);
	return r < 0 ? r : note_file(c, path);
}

static int is_conf(const struct dirent *d)
{
	size_t n = strlen(d->d_name);
	return d->d_name[0] != '.' && n > 5 && streq(d->d_name + n - 5, ".conf");
}

/* strcmp, so that the order does not depend on the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_dir(struct config *c, const char *dir, struct error *err)
{
	struct dirent **list;
	int n = scandir(dir, &list, is_conf, by_name), r = 0;
	if (n < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (n < 0)
		return error_set_errno(err, ERROR_INVALID_ARGUMENT, -errno,
			"make it a directory that pyrod may read", "cannot read %s", dir);
	if (n > CONF_FILES_MAX)
		r = error_set(err, ERROR_INVALID_ARGUMENT, NULL, "merge some of them",
			"%s holds %d files, more than %d", dir, n, CONF_FILES_MAX);
	for (int i = 0; i < n; i++) {
		_cleanup_free_ char *path = str_printf("%s/%s", dir, list[i]->d_name);
		if (r >= 0)
			r = path ? read_file(c, path, true, err) : -ENOMEM;
		free(list[i]);
	}
	free(list);
	return r;
}

/* Returns the configuration directory of the mode; *ret is NULL if the user has no home. */
static int config_dir(bool system, char **ret)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	*ret = NULL;
	if (system)
		*ret = strdup(SYSTEM_DIR);
	else if (xdg && xdg[0] == '/')
		*ret = str_printf("%s/pyro", xdg);
	else if (home && home[0] == '/')
		*ret = str_printf("%s/.config/pyro", home);
	else
		return 0;
	return *ret ? 0 : -ENOMEM;
}

static int read_default_places(struct config *c, bool system, struct error *err)
{
	_cleanup_free_ char *dir = NULL, *file = NULL, *conf_d = NULL;
	int r = config_dir(system, &dir);
	if (r < 0 || !dir)
		return r;
	file = str_printf("%s/pyrod.conf", dir);
	conf_d = str_printf("%s/conf.d", dir);
	if (!file || !conf_d)
		return -ENOMEM;
	r = read_file(c, file, false, err);
	return r < 0 ? r : read_dir(c, conf_d, err);
}

static void set_defaults(struct config *c, bool system)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].type == KEY_INT)
			*(int64_t *)(void *)((char *)c + keys[i].offset) = keys[i].dflt;
	c->accelerator = ACCELERATOR_AUTO;
	c->host_compat = !system;
}

int config_load(bool system, const char *path, struct config **ret, struct error *err)
{
	_cleanup_(config_freep) struct config *c = calloc(1, sizeof(*c));
	if (!c)
		return error_no_memory(err, "out of memory");
	set_defaults(c, system);
	int r = path ? read_file(c, path, true, err) : read_default_places(c, system, err);
	if (r < 0) /* has no effect if err is set */
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "cannot read the configuration");
	*ret = TAKE_PTR(c);
	return 0;
}

struct config *config_free(struct config *c)
{
	if (!c)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].type == KEY_PATH || keys[i].type == KEY_TEXT || keys[i].type == KEY_URI)
			free(*(char **)(void *)((char *)c + keys[i].offset));
	for (char **file = c->files; file && *file; file++)
		free(*file);
	free(c->files);
	free(c);
	return NULL;
}
