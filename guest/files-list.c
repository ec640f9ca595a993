/* SPDX-License-Identifier: MIT */
/*
 * Lists a folder, called by files-op.c in a process of its own. A link to the folder itself is
 * followed, as by ls; no link below it is.
 *
 * What must stay true: entries are in the order of msg_path_compare, each once, and together at most
 * LIMIT_FILE_ENTRIES and LIMIT_FILE_BYTES; names, depth and memory are bounded; an entry that cannot
 * be looked at does not fail the list; whatever is left out is reported as truncated.
 */

#include "guest/files-internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

enum {
	NAMES_MAX = 100000, /* read of one folder, to be sorted */
	DEPTH_MAX = 128,
	ENTRY_HEAD = 1 + 8 + 4 + 4, /* bytes of an entry beside its path and target */
};

struct lister {
	struct msg_file_result *done; /* borrowed */
	bool recursive;
	bool full;    /* a limit is reached: nothing follows */
	size_t bytes; /* encoded so far */
	size_t cap;   /* of done->entries */
};

struct names {
	char **v; /* owned */
	size_t n, cap;
};

static void names_done(struct names *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
}

static int add_name(struct names *l, const char *name)
{
	if (l->n == l->cap) {
		size_t cap = MAX_OF(l->cap * 2, (size_t)64);
		char **v = reallocarray(l->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = strdup(name);
	if (!l->v[l->n])
		return -ENOMEM;
	l->n++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A folder that changes meanwhile may have a name twice. */
static void sort_names(struct names *l)
{
	size_t n = 0;

	if (l->n > 0)
		qsort(l->v, l->n, sizeof(*l->v), by_name);
	for (size_t i = 0; i < l->n; i++) {
		if (n > 0 && streq(l->v[n - 1], l->v[i]))
			free(l->v[i]);
		else
			l->v[n++] = l->v[i];
	}
	l->n = n;
}

/* Reads the names of a folder, sorted. Returns 1 if there are more than NAMES_MAX. */
static int read_names(DIR *d, struct names *ret)
{
	int r = 0;

	for (;;) {
		errno = 0;
		struct dirent *e = readdir(d);
		if (!e && errno != 0)
			return -errno;
		if (!e)
			break;
		if (streq(e->d_name, ".") || streq(e->d_name, ".."))
			continue;
		if (ret->n == NAMES_MAX) {
			r = 1;
			break;
		}
		if (add_name(ret, e->d_name) < 0)
			return -ENOMEM;
	}
	sort_names(ret);
	return r;
}

static uint8_t type_of(mode_t mode)
{
	if (S_ISREG(mode))
		return ENTRY_FILE;
	if (S_ISDIR(mode))
		return ENTRY_DIRECTORY;
	return S_ISLNK(mode) ? ENTRY_SYMLINK : ENTRY_OTHER;
}

/* Appends the entry, or sets full. Takes over both strings. */
static int add_entry(struct lister *l, const struct stat *st, char *path, char *target)
{
	struct msg_file_result *d = l->done;
	size_t n = ENTRY_HEAD + strlen(path) + (target ? strlen(target) : 0);
	int r = 0;

	if (d->n_entries == LIMIT_FILE_ENTRIES || n > LIMIT_FILE_BYTES - l->bytes) {
		l->full = true;
	} else if (d->n_entries == l->cap) {
		size_t cap = MAX_OF(l->cap * 2, (size_t)64);
		struct msg_entry *v = reallocarray(d->entries, cap, sizeof(*v));
		if (v) {
			d->entries = v;
			l->cap = cap;
		}
		r = v ? 0 : -ENOMEM;
	}
	if (r < 0 || l->full) {
		free(path);
		free(target);
		return r;
	}
	d->entries[d->n_entries++] = (struct msg_entry){
		.type = type_of(st->st_mode),
		.size = MIN_OF((uint64_t)MAX_OF(st->st_size, (off_t)0), MSG_SIZE_MAX),
		.path = path,
		.target = target,
	};
	l->bytes += n;
	return 0;
}

static int read_target(int dir_fd, const char *name, char **ret)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir_fd, name, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	*ret = strdup(target);
	return *ret ? 0 : -ENOMEM;
}

static int list_folder(struct lister *l, int fd, const char *prefix, unsigned depth);

/* Leaves out what cannot be read: a mount without its server, a process of /proc that has ended. */
static int leave_out(struct lister *l, int r)
{
	if (r == -ENOMEM)
		return r;
	l->done->flags |= FILE_TRUNCATED;
	return 0;
}

/* Lists the folder below an entry. One that cannot be read, or has gone, is left out. */
static int descend(struct lister *l, int dir_fd, const char *name, const char *path, unsigned depth)
{
	int fd, r = -ELOOP;

	if (depth < DEPTH_MAX) {
		fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		r = fd < 0 ? -errno : list_folder(l, fd, path, depth + 1);
	}
	return r < 0 ? leave_out(l, r) : 0;
}

/* Adds one name of a folder, with what is below it. */
static int list_name(
	struct lister *l, int dir_fd, const char *prefix, const char *name, unsigned depth)
{
	_cleanup_free_ char *path = str_printf("%s%s%s", prefix, *prefix ? "/" : "", name);
	_cleanup_free_ char *target = NULL, *copy = NULL;
	struct stat st;
	int r;

	if (!path)
		return -ENOMEM;
	if (strlen(path) > MSG_PATH_MAX)
		return leave_out(l, -ENAMETOOLONG);
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : leave_out(l, -errno); /* deleted meanwhile */
	if (S_ISLNK(st.st_mode)) {
		r = read_target(dir_fd, name, &target);
		if (r < 0)
			/* replaced meanwhile */
			return r == -ENOENT || r == -EINVAL ? 0 : leave_out(l, r);
	}
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	r = add_entry(l, &st, TAKE_PTR(copy), TAKE_PTR(target));
	if (r < 0 || l->full || !l->recursive || !S_ISDIR(st.st_mode))
		return r;
	return descend(l, dir_fd, name, path, depth);
}

/* Takes over fd. */
static int list_folder(struct lister *l, int fd, const char *prefix, unsigned depth)
{
	_cleanup_(names_done) struct names names = { 0 };
	DIR *d = fdopendir(fd);
	int r;

	if (!d) {
		r = -errno;
		fd_close(fd);
		return r;
	}
	r = read_names(d, &names);
	if (r > 0)
		l->done->flags |= FILE_TRUNCATED;
	for (size_t i = 0; r >= 0 && !l->full && i < names.n; i++)
		r = list_name(l, dirfd(d), prefix, names.v[i], depth);
	(void)closedir(d);
	return r < 0 ? r : 0;
}

int files_list(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret)
{
	struct lister l = { .done = ret, .recursive = m->flags & FILE_RECURSIVE };
	_cleanup_free_ char *path = files_path(op, m->path);
	int fd, r;

	if (!path)
		return -ENOMEM;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return files_fail(ret, -errno, "open");
	r = list_folder(&l, fd, "", 0);
	if (l.full)
		ret->flags |= FILE_TRUNCATED;
	return r < 0 ? files_fail(ret, r, "list") : 0;
}
