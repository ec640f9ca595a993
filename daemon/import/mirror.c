/* SPDX-License-Identifier: MIT */
/*
 * Finds the mirror that serves Debian itself in the host's apt sources, one-line (sources.list) and
 * deb822 (*.sources), and finds out which suites a configured mirror has. Called by the environment
 * and kernel verbs.
 *
 * Must stay true: a third party's archive is never taken for a Debian mirror, although its suites
 * may have Debian's names. The lists that apt has fetched from a source name its origin; without
 * lists, its keyring and its address must be Debian's.
 */
#include "daemon/import/mirror.h"
#include "daemon/import/program.h"
#include <dirent.h>
#include <fcntl.h>

#define FILE_MAX_BYTES (256 * 1024)
#define URI_MAX        2048
#define APT_HELPER     "/usr/lib/apt/apt-helper"
#define ASK_LIMIT      (60 * USEC_PER_SEC)
#define SECURITY       "http://security.debian.org/debian-security" /* mmdebstrap's default */
#define HEAD_MAX_BYTES 4096 /* of a Release file, whose first fields name its origin */

struct search {
	int lists_fd; /* owned; of apt's lists, or -EBADF */
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

/* Returns 1 for Debian's main archive, 2 for its security archive, 0 for neither. */
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

/*
 * Makes apt's name of a list fetched from dists/suite: the URI without scheme and user, "/" as "_",
 * special characters in hexadecimal.
 */
static int list_name(const char *uri, const char *suite, const char *file, char **ret)
{
	static const char hex[] = "0123456789abcdef";
	const char *p = strstr(uri, "://") + 3, *at = strpbrk(p, "@/");
	_cleanup_free_ char *path = NULL;
	char *name;
	size_t n = 0;
	if (at && *at == '@')
		p = at + 1;
	path = str_printf("%s/dists/%s/%s", p, suite, file);
	name = path ? malloc(3 * strlen(path) + 1) : NULL;
	if (!name)
		return -ENOMEM;
	for (p = path; *p; p++) {
		if (strchr("|{}<>^~_=!@#$%&*", *p)) {
			name[n++] = '%';
			name[n++] = hex[(unsigned char)*p >> 4];
			name[n++] = hex[(unsigned char)*p & 15];
		} else if (*p == '/') {
			name[n++] = '_';
		} else {
			name[n++] = *p;
		}
	}
	name[n] = '\0';
	*ret = name;
	return 0;
}

/* Says whether the Release file names Debian as its origin; -errno when there is none. */
static int read_origin(int lists_fd, const char *name)
{
	_cleanup_close_ int fd = openat(lists_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char head[HEAD_MAX_BYTES + 1], *line, *rest = head;
	ssize_t n = fd < 0 ? -1 : read(fd, head, HEAD_MAX_BYTES);
	if (n < 0)
		return -errno;
	head[n] = '\0';
	while ((line = strsep(&rest, "\n")))
		if (startswith(line, "Origin:"))
			return streq(line, "Origin: Debian");
	return 0;
}

static int listed_origin(const struct search *s, const char *uri, const char *suite)
{
	static const char *const files[] = { "InRelease", "Release" };
	int r = -ENOENT;
	for (size_t i = 0; i < ARRAY_SIZE(files) && r < 0; i++) {
		_cleanup_free_ char *name = NULL;
		r = list_name(uri, suite, files[i], &name);
		if (r < 0)
			return r;
		r = read_origin(s->lists_fd, name);
	}
	return r;
}

static void strip_slashes(char *uri)
{
	for (size_t n = strlen(uri); n > 0 && uri[n - 1] == '/'; n--)
		uri[n - 1] = '\0';
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n >= m && streq(s + n - m, end);
}

struct source {
	const char *uri, *suite; /* borrowed */
	const char *signed_by;   /* borrowed or NULL */
};

static int take(struct search *s, const struct source *source)
{
	int kind = suite_kind(s, source->suite), r;
	char **place = kind == 1 ? &s->found.uri : &s->found.security;
	_cleanup_free_ char *uri = NULL;
	if (kind == 0 || *place || !mirror_valid(source->uri))
		return 0;
	uri = strdup(source->uri);
	if (!uri)
		return -ENOMEM;
	strip_slashes(uri);
	r = listed_origin(s, uri, source->suite);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		r = (!source->signed_by || strstr(source->signed_by, "/debian-archive-")) &&
		    ends_with(uri, kind == 1 ? "/debian" : "security");
	if (r > 0)
		*place = TAKE_PTR(uri);
	return 0;
}

/* Reads "deb [options] URI SUITE COMPONENT...". */
static int read_one_line(struct search *s, char *line)
{
	char *save = NULL, *word = strtok_r(line, " \t", &save);
	struct source source = { 0 };
	if (!word || !streq(word, "deb"))
		return 0;
	word = strtok_r(NULL, " \t", &save);
	if (word && word[0] == '[') {
		for (bool end = false; word && !end; word = strtok_r(NULL, " \t", &save)) {
			const char *by = strstr(word, "signed-by=");
			source.signed_by = by ? by : source.signed_by;
			end = word[strlen(word) - 1] == ']';
		}
	}
	source.uri = word;
	source.suite = strtok_r(NULL, " \t", &save);
	const char *component = strtok_r(NULL, " \t", &save);
	if (!source.uri || !source.suite || !component || !streq(component, "main"))
		return 0;
	return take(s, &source);
}

struct stanza {
	char *types, *uris, *suites, *components,
		*signed_by; /* borrowed parts of the file's text */
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
		struct source source = { .uri = strtok_r(st->uris, " \t", &save),
			.signed_by = st->signed_by };
		char *next = NULL;
		source.suite = strtok_r(st->suites, " \t", &next);
		for (; source.uri && source.suite && r >= 0;
			source.suite = strtok_r(NULL, " \t", &next))
			r = take(s, &source);
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
	else if (strcasecmp(line, "Signed-By") == 0)
		st->signed_by = value;
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

/* True if os-release names Debian itself; keeps its codename. */
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
	struct search s = { .suite = suite, .lists_fd = -EBADF };
	_cleanup_close_ int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = 0;
	if (root_fd < 0)
		return -errno;
	if (read_release(&s, root_fd)) {
		_cleanup_close_ int dir = openat(
			root_fd, "etc/apt/sources.list.d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		s.lists_fd = openat(root_fd, "var/lib/apt/lists", O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = read_sources(&s, root_fd, "etc/apt/sources.list", false);
		if (r >= 0 && dir >= 0)
			r = read_sources_dir(&s, dir);
		s.lists_fd = fd_close(s.lists_fd);
	}
	if (r < 0) {
		mirror_done(&s.found);
		return r;
	}
	s.found.updates = s.found.uri;
	*ret = s.found;
	return 0;
}

/* True if the suite can be fetched; its signature is not checked, apt does that. */
static bool carries(const char *uri, const char *suite, const char *suffix, const char *work)
{
	_cleanup_free_ char *from = str_printf("%s/dists/%s%s/InRelease", uri, suite, suffix),
			    *to = str_printf("%s/InRelease", work), *output = NULL;
	bool found;
	if (!from || !to)
		return false;
	found = program_run(&(struct program){ .argv = (const char *const[]){ APT_HELPER, "-o",
						       "Acquire::Retries=0", "-o",
						       "Acquire::http::Timeout=15", "-o",
						       "Acquire::https::Timeout=15",
						       "download-file", from, to, NULL },
				    .stdin_fd = -EBADF,
				    .timeout_usec = ASK_LIMIT },
			&output) == 0;
	(void)unlink(to);
	return found;
}

int mirror_configured(const char *uri, const char *suite, const char *work, struct mirror *ret)
{
	_cleanup_(mirror_done) struct mirror m = { .uri = strdup(uri) };
	if (!m.uri)
		return -ENOMEM;
	strip_slashes(m.uri);
	m.updates = carries(m.uri, suite, "-updates", work);
	/* A mirror of the security archive is beside that of the main archive. */
	m.security = str_printf("%s-security", m.uri);
	if (m.security && !carries(m.security, suite, "-security", work)) {
		free(m.security);
		m.security = strdup(SECURITY);
		if (m.security && !carries(m.security, suite, "-security", work)) {
			free(m.security);
			m.security = NULL;
		}
	}
	*ret = m;
	m = (struct mirror){ 0 };
	return 0;
}

int mirror_lines(
	const struct mirror *m, const char *suite, const char *options, char *ret[MIRROR_LINES])
{
	const struct {
		const char *uri, *suffix;
	} sources[MIRROR_LINES] = {
		{ m->uri, "" },
		{ m->updates ? m->uri : NULL, "-updates" },
		{ m->security, "-security" },
	};
	int n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
		if (!sources[i].uri)
			continue;
		ret[n] = str_printf(
			"deb %s%s %s%s main", options, sources[i].uri, suite, sources[i].suffix);
		if (!ret[n]) {
			while (n > 0)
				free(ret[--n]);
			return -ENOMEM;
		}
		n++;
	}
	return n;
}
