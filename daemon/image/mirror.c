/* SPDX-License-Identifier: MIT */
/*
 * Reads the host's apt sources, one-line (sources.list) and deb822 (*.sources), for the mirror that serves
 * Debian itself. Called by the environment verb when no mirror was given. Must stay true: only a source
 * whose suite is the host's own release, the wanted one or one of Debian's standing names counts, so that
 * a third party's archive is never taken for a mirror.
 */
#include "daemon/image/mirror.h"
#include <dirent.h>
#include <fcntl.h>

#define FILE_MAX_BYTES (256 * 1024)
#define URI_MAX        2048

struct search {
	const char *suite;
	char codename[64]; /* of the host */
	struct mirror found;
};

void mirror_done(struct mirror *m)
{
	free(m->uri);
	free(m->security);
	*m = (struct mirror){ 0 };
}

bool mirror_valid(const char *uri)
{
	if (!startswith(uri, "http://") && !startswith(uri, "https://") &&
		!startswith(uri, "file:///"))
		return false;
	if (strlen(uri) > URI_MAX)
		return false;
	for (const char *p = uri; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("'\"\\[]", *p))
			return false;
	return true;
}

/* 1: Debian's main archive, 2: its security archive, 0: neither. */
static int suite_kind(const struct search *s, const char *word)
{
	const char *const names[] = { s->suite, s->codename, "stable", "testing", "unstable",
		"sid" };
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		size_t n = strlen(names[i]);
		if (n == 0 || strncmp(word, names[i], n) != 0)
			continue;
		if (word[n] == '\0')
			return 1;
		if (streq(word + n, "-security"))
			return 2;
	}
	return 0;
}

static int take(struct search *s, const char *uri, const char *suite)
{
	int kind = suite_kind(s, suite);
	char **place = kind == 1 ? &s->found.uri : &s->found.security;
	if (kind == 0 || *place || !mirror_valid(uri))
		return 0;
	*place = strdup(uri);
	return *place ? 0 : -ENOMEM;
}

/* "deb [options] URI SUITE COMPONENT..." */
static int read_one_line(struct search *s, char *line)
{
	char *save = NULL, *word = strtok_r(line, " \t", &save);
	if (!word || !streq(word, "deb"))
		return 0;
	word = strtok_r(NULL, " \t", &save);
	if (word && word[0] == '[') {
		while (word && word[strlen(word) - 1] != ']')
			word = strtok_r(NULL, " \t", &save);
		word = strtok_r(NULL, " \t", &save);
	}
	const char *suite = strtok_r(NULL, " \t", &save), *component = strtok_r(NULL, " \t", &save);
	if (!word || !suite || !component || !streq(component, "main"))
		return 0;
	return take(s, word, suite);
}

struct stanza {
	char *types, *uris, *suites, *components; /* borrowed parts of the file's text */
	bool disabled;
};

static bool has_word(const char *words, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = words; p && (p = strstr(p, word)); p += n)
		if ((p == words || strchr(" \t", p[-1])) && (p[n] == '\0' || strchr(" \t", p[n])))
			return true;
	return false;
}

static int end_stanza(struct search *s, struct stanza *st)
{
	char *save = NULL;
	int r = 0;
	if (!st->disabled && st->uris && st->suites && has_word(st->types, "deb") &&
		has_word(st->components, "main")) {
		const char *uri = strtok_r(st->uris, " \t", &save);
		char *next = NULL, *suite = strtok_r(st->suites, " \t", &next);
		for (; uri && suite && r >= 0; suite = strtok_r(NULL, " \t", &next))
			r = take(s, uri, suite);
	}
	*st = (struct stanza){ 0 };
	return r;
}

static void read_field(struct stanza *st, char *line)
{
	char *value = strchr(line, ':');
	if (!value)
		return;
	*value++ = '\0';
	value += strspn(value, " \t");
	if (strcasecmp(line, "Types") == 0)
		st->types = value;
	else if (strcasecmp(line, "URIs") == 0)
		st->uris = value;
	else if (strcasecmp(line, "Suites") == 0)
		st->suites = value;
	else if (strcasecmp(line, "Components") == 0)
		st->components = value;
	else if (strcasecmp(line, "Enabled") == 0)
		st->disabled = strcasecmp(value, "no") == 0;
}

static int read_sources(struct search *s, int dir_fd, const char *name, bool deb822)
{
	_cleanup_free_ char *text = NULL;
	struct stanza st = { 0 };
	size_t n;
	char *line, *rest;
	int r = read_file_at(dir_fd, name, FILE_MAX_BYTES, &text, &n);
	if (r == -ENOENT || r == -EACCES || r == -EFBIG)
		return 0;
	if (r < 0)
		return r;
	rest = text;
	while (r >= 0 && (line = strsep(&rest, "\n"))) {
		if (line[0] == '#')
			continue;
		if (!deb822)
			r = read_one_line(s, line);
		else if (line[strspn(line, " \t")] == '\0')
			r = end_stanza(s, &st);
		else
			read_field(&st, line);
	}
	return r < 0 ? r : end_stanza(s, &st);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_sources_dir(struct search *s, int dir_fd)
{
	struct dirent **list = NULL;
	int n = scandirat(dir_fd, ".", &list, NULL, by_name), r = 0;
	for (int i = 0; i < n; i++) {
		const char *dot = strrchr(list[i]->d_name, '.');
		if (r >= 0 && dot && (streq(dot, ".sources") || streq(dot, ".list")))
			r = read_sources(s, dir_fd, list[i]->d_name, streq(dot, ".sources"));
		free(list[i]);
	}
	free(list);
	return r;
}

/* True if os-release says Debian itself; keeps its codename. */
static bool read_release(struct search *s, int root_fd)
{
	_cleanup_free_ char *text = NULL;
	size_t n;
	char *line, *rest;
	bool debian = false;
	if (read_file_at(root_fd, "etc/os-release", FILE_MAX_BYTES, &text, &n) < 0)
		return false;
	rest = text;
	while ((line = strsep(&rest, "\n"))) {
		if (streq(line, "ID=debian") || streq(line, "ID=\"debian\""))
			debian = true;
		if (startswith(line, "VERSION_CODENAME="))
			(void)snprintf(s->codename, sizeof(s->codename), "%s", line + 17);
	}
	return debian;
}

int mirror_of_host(const char *root, const char *suite, struct mirror *ret)
{
	struct search s = { .suite = suite };
	_cleanup_close_ int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = 0;
	if (root_fd < 0)
		return -errno;
	if (read_release(&s, root_fd)) {
		_cleanup_close_ int dir = openat(
			root_fd, "etc/apt/sources.list.d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = read_sources(&s, root_fd, "etc/apt/sources.list", false);
		if (r >= 0 && dir >= 0)
			r = read_sources_dir(&s, dir);
	}
	if (r < 0) {
		mirror_done(&s.found);
		return r;
	}
	*ret = s.found;
	return 0;
}
