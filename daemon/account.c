/* SPDX-License-Identifier: MIT */
/*
 * The table of subordinate uids and their owners. Created by manager.c; queried at each connection
 * and each count of a user's machines. It reads local files only: a name service may block, and the
 * loop must not.
 */

#include "daemon/account.h"

#include <fcntl.h>
#include <sys/stat.h>

enum {
	FILE_BYTES_MAX = 4 * 1024 * 1024,
	RANGES_MAX = 100000,
	OWNERS_DEEP = 4, /* an owner may itself be a subordinate uid */
};

struct range {
	uint64_t start, end; /* end is exclusive */
	uid_t account;
};

struct file {
	char *path;     /* owned */
	struct stat st; /* of the file that was read; zero: none */
};

struct accounts {
	struct file subuid, passwd;
	struct range *ranges; /* owned; sorted by start */
	size_t n;
};

int accounts_new(const char *subuid_path, const char *passwd_path, struct accounts **ret)
{
	_cleanup_(accounts_freep) struct accounts *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->subuid.path = strdup(subuid_path);
	a->passwd.path = strdup(passwd_path);
	if (!a->subuid.path || !a->passwd.path)
		return -ENOMEM;
	*ret = TAKE_PTR(a);
	return 0;
}

struct accounts *accounts_free(struct accounts *a)
{
	if (!a)
		return NULL;
	free(a->subuid.path);
	free(a->passwd.path);
	free(a->ranges);
	free(a);
	return NULL;
}

/* True if the file has changed since it was read. */
static bool has_changed(const struct file *f, struct stat *ret)
{
	*ret = (struct stat){ 0 };
	if (stat(f->path, ret) < 0)
		*ret = (struct stat){ 0 };
	return ret->st_dev != f->st.st_dev || ret->st_ino != f->st.st_ino ||
	       ret->st_size != f->st.st_size || ret->st_mtim.tv_sec != f->st.st_mtim.tv_sec ||
	       ret->st_mtim.tv_nsec != f->st.st_mtim.tv_nsec ||
	       ret->st_ctim.tv_sec != f->st.st_ctim.tv_sec ||
	       ret->st_ctim.tv_nsec != f->st.st_ctim.tv_nsec;
}

static size_t split(char *line, char **fields, size_t n)
{
	size_t k = 0;

	while (line && k < n)
		fields[k++] = strsep(&line, ":");
	return k;
}

/* Finds the uid of a name in the text of a passwd file. */
static int uid_of(const char *passwd, const char *name, uid_t *ret)
{
	size_t len = strlen(name);

	for (const char *p = passwd; p && *p; p = strchr(p, '\n'), p += p != NULL) {
		char number[16];
		const char *field;
		uint64_t uid;
		size_t n;

		if (strncmp(p, name, len) != 0 || p[len] != ':')
			continue;
		field = p + len + 1 + strcspn(p + len + 1, ":\n");
		if (*field != ':')
			continue;
		n = strcspn(++field, ":\n");
		if (n >= sizeof(number))
			continue;
		memcpy(number, field, n);
		number[n] = '\0';
		if (parse_u64(number, 0, UINT32_MAX - 1, &uid) < 0)
			continue;
		*ret = (uid_t)uid;
		return 0;
	}
	return -ENOENT;
}

/* Parses a line OWNER:START:COUNT; false if it is malformed. */
static bool read_range(char *line, const char *passwd, struct range *ret)
{
	uint64_t start, count, number;
	char *fields[3];

	if (split(line, fields, ARRAY_SIZE(fields)) != ARRAY_SIZE(fields) ||
		parse_u64(fields[1], 0, UINT32_MAX, &start) < 0 ||
		parse_u64(fields[2], 1, UINT32_MAX, &count) < 0)
		return false;
	*ret = (struct range){ .start = start, .end = start + count };
	if (uid_of(passwd, fields[0], &ret->account) >= 0)
		return true;
	ret->account =
		parse_u64(fields[0], 0, UINT32_MAX - 1, &number) < 0 ? (uid_t)start : (uid_t)number;
	return true;
}

static int by_start(const void *pa, const void *pb)
{
	const struct range *a = pa, *b = pb;

	return a->start < b->start ? -1 : a->start > b->start;
}

static int load(struct accounts *a)
{
	_cleanup_free_ char *subuid = NULL, *passwd = NULL;
	struct range *ranges = NULL;
	size_t n = 0;
	char *line;
	int r;

	r = read_file_at(AT_FDCWD, a->subuid.path, FILE_BYTES_MAX, &subuid, NULL);
	if (r >= 0) {
		r = read_file_at(AT_FDCWD, a->passwd.path, FILE_BYTES_MAX, &passwd, NULL);
		r = r == -ENOENT ? 0 : r;
	}
	if (r < 0 && r != -ENOENT)
		return r;
	for (char *at = subuid; (line = strsep(&at, "\n")) && n < RANGES_MAX;) {
		struct range one, *more;

		if (!read_range(line, passwd, &one))
			continue;
		more = reallocarray(ranges, n + 1, sizeof(*more));
		if (!more) {
			free(ranges);
			return -ENOMEM;
		}
		ranges = more;
		ranges[n++] = one;
	}
	if (n > 0)
		qsort(ranges, n, sizeof(*ranges), by_start);
	free(a->ranges);
	a->ranges = ranges;
	a->n = n;
	return 0;
}

/* On failure the table stays unchanged and the next call tries again. */
void accounts_refresh(struct accounts *a)
{
	struct stat subuid, passwd;
	bool changed;

	if (!a)
		return;
	changed = has_changed(&a->subuid, &subuid);
	changed |= has_changed(&a->passwd, &passwd);
	if (!changed || load(a) < 0)
		return;
	a->subuid.st = subuid;
	a->passwd.st = passwd;
}

static const struct range *range_of(const struct accounts *a, uid_t uid)
{
	size_t low = 0, high = a->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (a->ranges[middle].start <= uid)
			low = middle + 1;
		else
			high = middle;
	}
	/* Ranges may overlap, so the nearest range that starts before uid need not contain it. */
	while (low > 0)
		if (uid < a->ranges[--low].end)
			return &a->ranges[low];
	return NULL;
}

uid_t accounts_find(const struct accounts *a, uid_t uid)
{
	if (!a || uid == 0)
		return uid;
	for (int i = 0; i < OWNERS_DEEP; i++) {
		const struct range *r = range_of(a, uid);

		if (!r || r->account == uid)
			break;
		uid = r->account;
	}
	return uid;
}
