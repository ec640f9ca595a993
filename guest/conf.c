/* SPDX-License-Identifier: MIT */
/*
 * The environment's own settings for boot, for machine.c. Searches the directories as systemd does:
 * a file hides files of the same name in later directories, and files apply in the order of their
 * names.
 *
 * All of it belongs to the guest: it may set anything below /proc/sys, as its root may anyway; the
 * amount is bounded.
 */

#include "guest/conf.h"

#include "guest/file.h"

#include <dirent.h>
#include <glob.h>
#include <sys/stat.h>

#define SYS "/proc/sys/"
enum { FILES_MAX = 64, MODULES_MAX = 64 };

struct conf_file {
	char *name, *path; /* owned */
};
struct conf_files {
	struct conf_file v[FILES_MAX];
	size_t n;
};

static void conf_files_done(struct conf_files *f)
{
	for (size_t i = 0; i < f->n; i++) {
		free(f->v[i].name);
		free(f->v[i].path);
	}
}

static int add_file(struct conf_files *f, const char *dir, const char *name)
{
	size_t n = strlen(name);
	struct conf_file new = { 0 };

	if (n <= 5 || !streq(name + n - 5, ".conf") || name[0] == '.' || f->n == FILES_MAX)
		return 0;
	for (size_t i = 0; i < f->n; i++)
		if (streq(f->v[i].name, name))
			return 0;
	new.name = strdup(name);
	new.path = str_printf("%s/%s", dir, name);
	if (!new.name || !new.path) {
		free(new.name);
		free(new.path);
		return -ENOMEM;
	}
	f->v[f->n++] = new;
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct conf_file *)a)->name, ((const struct conf_file *)b)->name);
}

/* Finds the files of NAME.d in all its directories. */
static int find_files(const char *name, struct conf_files *f)
{
	static const char *const above[] = { "/etc", "/usr/local/lib", "/usr/lib", "/lib" };
	ino_t last = 0;

	for (size_t i = 0; i < ARRAY_SIZE(above); i++) {
		_cleanup_free_ char *path = str_printf("%s/%s.d", above[i], name);
		struct dirent *e;
		struct stat st;
		DIR *dir;
		int r = 0;
		if (!path)
			return -ENOMEM;
		/* /lib is usually a link to /usr/lib. */
		if (stat(path, &st) < 0 || st.st_ino == last)
			continue;
		last = st.st_ino;
		dir = opendir(path);
		if (!dir)
			continue;
		while (r >= 0 && (e = readdir(dir)))
			r = add_file(f, path, e->d_name);
		(void)closedir(dir);
		if (r < 0)
			return r;
	}
	qsort(f->v, f->n, sizeof(f->v[0]), compare);
	return 0;
}

/* Removes leading and trailing blanks in place. */
static char *strip(char *s)
{
	size_t n;

	s += strspn(s, " \t\r");
	n = strlen(s);
	while (n > 0 && strchr(" \t\r", s[n - 1]))
		n--;
	s[n] = '\0';
	return s;
}

/* Removes the first line from *text and returns it; "" for a comment, NULL at the end. */
static char *next_line(char **text)
{
	char *line = strsep(text, "\n");

	if (!line)
		return NULL;
	line = strip(line);
	return *line == '#' || *line == ';' ? line + strlen(line) : line;
}

/* The first of . and / in a key is its separator; the other is part of a name (of an interface). */
static void normalise(char *key)
{
	size_t at = strcspn(key, "./");

	if (key[at] != '.')
		return;
	for (char *p = key; *p; p++)
		*p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
}

static bool is_inside(const char *key)
{
	for (const char *p = key;; p++) {
		size_t n = strcspn(p, "/");
		if (n == 0 || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
		if (!*p)
			return true;
	}
}

static int add_setting(struct conf_settings *s, const char *key, const char *value)
{
	struct conf_setting new = { 0 }, *v;

	if (s->n == CONF_ENTRIES_MAX)
		return 0;
	v = reallocarray(s->v, s->n + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	s->v = v;
	new.key = strdup(key);
	new.value = value ? strdup(value) : NULL;
	if (!new.key || (value && !new.value)) {
		free(new.key);
		free(new.value);
		return -ENOMEM;
	}
	v[s->n++] = new;
	return 0;
}

int conf_parse_settings(const char *text, struct conf_settings *s)
{
	_cleanup_free_ char *copy = strdup(text);
	char *rest = copy, *line;

	if (!copy)
		return -ENOMEM;
	while ((line = next_line(&rest))) {
		char *value = strchr(line, '='), *key = line;
		int r;
		if (value)
			*value++ = '\0';
		else if (*line != '-')
			continue;
		key = strip(*key == '-' ? key + 1 : key);
		normalise(key);
		if (!is_inside(key))
			continue;
		r = add_setting(s, key, value ? strip(value) : NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

void conf_settings_done(struct conf_settings *s)
{
	for (size_t i = 0; i < s->n; i++) {
		free(s->v[i].key);
		free(s->v[i].value);
	}
	free(s->v);
	*s = (struct conf_settings){ 0 };
}

static bool is_named(const struct conf_settings *s, const char *key)
{
	for (size_t i = 0; i < s->n; i++)
		if (streq(s->v[i].key, key))
			return true;
	return false;
}

/* Applies a pattern to the keys that no line names. */
static int apply_pattern(const struct conf_settings *s, const struct conf_setting *one)
{
	_cleanup_free_ char *pattern = str_printf(SYS "%s", one->key);
	glob_t found = { 0 };

	if (!pattern)
		return -ENOMEM;
	if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
		for (size_t i = 0; i < found.gl_pathc; i++)
			if (!is_named(s, found.gl_pathv[i] + strlen(SYS)))
				(void)file_set(found.gl_pathv[i], one->value);
	globfree(&found);
	return 0;
}

static int apply(const struct conf_settings *s)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct conf_setting *one = &s->v[i];
		_cleanup_free_ char *path = str_printf(SYS "%s", one->key);
		int r = 0;
		if (!path)
			return -ENOMEM;
		if (one->value && strpbrk(one->key, "*?["))
			r = apply_pattern(s, one);
		else if (one->value)
			(void)file_set(path, one->value);
		if (r < 0)
			return r;
	}
	return 0;
}

int conf_apply_settings(void)
{
	_cleanup_(conf_files_done) struct conf_files files = { 0 };
	_cleanup_settings_ struct conf_settings s = { 0 };
	int r = find_files("sysctl", &files);

	for (size_t i = 0; r >= 0 && i <= files.n; i++) {
		_cleanup_free_ char *text = NULL;
		/* /etc/sysctl.conf comes last, as with procps and Debian's link 99-sysctl.conf. */
		if (file_read(i < files.n ? files.v[i].path : "/etc/sysctl.conf", &text) >= 0)
			r = conf_parse_settings(text, &s);
	}
	return r < 0 ? r : apply(&s);
}

int conf_each_module(void (*load)(const char *name, void *userdata), void *userdata)
{
	_cleanup_(conf_files_done) struct conf_files files = { 0 };
	size_t left = MODULES_MAX;
	int r = find_files("modules-load", &files);

	if (r < 0)
		return r;
	for (size_t i = 0; i <= files.n; i++) {
		_cleanup_free_ char *text = NULL;
		char *rest, *line;
		if (file_read(i < files.n ? files.v[i].path : "/etc/modules", &text) < 0)
			continue;
		rest = text;
		while (left > 0 && (line = next_line(&rest)))
			if (*line) {
				left--;
				load(line, userdata);
			}
	}
	return 0;
}
