/* SPDX-License-Identifier: MIT */
/*
 * Writes and edits a file, called by files-op.c in a process of its own. The new contents are
 * written beside the file and take its place at once, with its mode and owner; through a link they
 * take the place of its target.
 *
 * What must stay true: a file has its old contents or its new ones, whatever dies, and the new ones
 * are on the disk before the operation succeeds; only a regular file is replaced; operations of the
 * agent on one file follow each other.
 */

#include "guest/files-internal.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

enum { LINKS_MAX = 40, EDIT_MAX = 16 * 1024 * 1024, NAME_BYTES = 32 };

struct target {
	char *path;     /* owned: without links at its end */
	char *name;     /* borrowed: the last component of path */
	int dir_fd;     /* owned */
	bool exists;    /* a regular file is there */
	struct stat st; /* of it */
};

static void target_done(struct target *t)
{
	free(t->path);
	fd_close(t->dir_fd);
}

/* Returns the length of "/a/" in "/a/b". */
static size_t folder_length(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Replaces *path by the path that it is a link to, if it is one, and so on. */
static int follow(char **path)
{
	for (int i = 0; i < LINKS_MAX; i++) {
		char link[PATH_MAX];
		ssize_t n = readlink(*path, link, sizeof(link) - 1);
		char *next;

		if (n < 0)
			return errno == EINVAL || errno == ENOENT ? 0 : -errno;
		link[n] = '\0';
		next = link[0] == '/'
			       ? strdup(link)
			       : str_printf("%.*s%s", (int)folder_length(*path), *path, link);
		if (!next)
			return -ENOMEM;
		free(*path);
		*path = next;
	}
	return -ELOOP;
}

/* Creates the folder and those above it. */
static int make_folders(const char *folder)
{
	_cleanup_free_ char *path = strdup(folder);

	if (!path)
		return -ENOMEM;
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	return 0;
}

static int open_folder(const struct files_op *op, struct target *t, bool makes)
{
	_cleanup_free_ char *folder = strndup(t->path, folder_length(t->path));
	int r;

	if (!folder)
		return -ENOMEM;
	t->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dir_fd >= 0)
		return 0;
	if (errno != ENOENT || !makes)
		return -errno;
	op->commit(op->userdata);
	r = make_folders(folder);
	if (r < 0)
		return r;
	t->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return t->dir_fd < 0 ? -errno : 0;
}

/* Waits for the agent's other operations on this name of this folder. A collision of two names only
 * makes one wait. */
static int lock(const struct files_op *op, const struct target *t)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	uint32_t hash = 2166136261U; /* FNV-1a */
	struct stat st;

	if (op->lock_fd < 0)
		return 0;
	if (fstat(t->dir_fd, &st) < 0)
		return -errno;
	for (const char *p = t->name; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619U;
	fl.l_start = (off_t)((hash ^ (uint32_t)st.st_ino) & INT32_MAX);
	while (fcntl(op->lock_fd, F_SETLKW, &fl) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Finds what the path refers to, and locks it until this process ends. */
static int find_target(const struct files_op *op, const char *path, bool makes, struct target *ret,
	struct msg_file_result *done)
{
	int r;

	ret->path = files_path(op, path);
	r = ret->path ? follow(&ret->path) : -ENOMEM;
	if (r < 0)
		return files_fail(done, r, "follow links");
	ret->name = ret->path + folder_length(ret->path);
	if (!*ret->name || streq(ret->name, ".") || streq(ret->name, ".."))
		return files_fail(done, -EISDIR, "write");
	r = open_folder(op, ret, makes);
	if (r < 0)
		return files_fail(done, r, "open the folder");
	r = lock(op, ret);
	if (r < 0)
		return files_fail(done, r, "lock");
	ret->exists = fstatat(ret->dir_fd, ret->name, &ret->st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!ret->exists)
		return errno == ENOENT ? 0 : files_fail(done, -errno, "stat");
	if (S_ISDIR(ret->st.st_mode))
		return files_fail(done, -EISDIR, "write");
	if (!S_ISREG(ret->st.st_mode))
		return files_fail(done, -EOPNOTSUPP, files_kind(ret->st.st_mode));
	return 0;
}

static void make_name(char ret[NAME_BYTES])
{
	uint64_t random;

	random_bytes(&random, sizeof(random));
	(void)snprintf(ret, NAME_BYTES, ".pyro-%016llx", (unsigned long long)random);
}

/* Opens a new file in the folder, without a name where the file system can: then nothing of it is
 * left by a process or a machine that ends. */
static int open_new(const struct target *t, char ret_name[NAME_BYTES], int *ret_fd)
{
	int fd = openat(t->dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

	ret_name[0] = '\0';
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		make_name(ret_name);
		fd = openat(t->dir_fd, ret_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	}
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* Writes all of the new file, with the mode and owner of the old one. */
static int fill_new(const struct target *t, int fd, const uint8_t *p, size_t n)
{
	mode_t mode = t->exists ? t->st.st_mode & 07777 : 0644;
	int r = write_all(fd, p, n);
	struct stat now;

	if (r < 0)
		return r;
	/* Below a set-gid folder its group is the folder's. */
	if (fstat(fd, &now) < 0)
		return -errno;
	if (t->exists && (t->st.st_uid != now.st_uid || t->st.st_gid != now.st_gid) &&
		fchown(fd, t->st.st_uid, t->st.st_gid) < 0)
		return -errno;
	return fchmod(fd, mode) < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* Gives the new file its temporary name, then the final one. From then on a failure does not tell
 * which contents the disk has. */
static int put_in_place(
	const struct target *t, int fd, char name[NAME_BYTES], struct msg_file_result *done)
{
	char self[64];

	if (!name[0]) {
		make_name(name);
		(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
		if (linkat(AT_FDCWD, self, t->dir_fd, name, AT_SYMLINK_FOLLOW) < 0)
			return -errno;
	}
	if (renameat(t->dir_fd, name, t->dir_fd, t->name) < 0)
		return -errno;
	name[0] = '\0';
	if (fsync(t->dir_fd) >= 0)
		return 0;
	done->flags |= FILE_UNKNOWN;
	return -errno;
}

static int replace(const struct files_op *op, const struct target *t, const uint8_t *p, size_t n,
	struct msg_file_result *done)
{
	_cleanup_close_ int fd = -EBADF;
	const char *what = "create a file";
	char name[NAME_BYTES];
	int r = open_new(t, name, &fd);

	if (r >= 0) {
		what = "write";
		r = fill_new(t, fd, p, n);
	}
	if (r >= 0) {
		what = "rename";
		op->commit(op->userdata);
		r = put_in_place(t, fd, name, done);
	}
	if (name[0])
		(void)unlinkat(t->dir_fd, name, 0);
	if (r < 0)
		return files_fail(done, r, what);
	done->size = n;
	return 0;
}

int files_write(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret)
{
	_cleanup_(target_done) struct target t = { .dir_fd = -EBADF };
	int r = find_target(op, m->path, true, &t, ret);

	return r < 0 ? r : replace(op, &t, m->text.data, m->text.n, ret);
}

/* Reads the file that is edited. */
static int read_target(const struct target *t, struct buf *ret)
{
	_cleanup_close_ int fd = openat(
		t->dir_fd, t->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return -errno;
	do
		n = buf_read_fd(ret, fd, 256 * 1024);
	while (n > 0);
	return n == -ENOBUFS || buf_len(ret) > EDIT_MAX ? -EFBIG : (int)n;
}

static const uint8_t *find(const uint8_t *p, const uint8_t *end, const struct msg_blob *old)
{
	return p < end ? memmem(p, (size_t)(end - p), old->data, old->n) : NULL;
}

static uint32_t count(const struct buf *b, const struct msg_blob *old)
{
	const uint8_t *end = b->data + b->end, *p = find(b->data + b->start, end, old);
	uint32_t n = 0;

	for (; p; p = find(p + old->n, end, old))
		n++;
	return n;
}

/* Appends the contents with each occurrence replaced. */
static int replace_text(const struct buf *b, const struct msg_file *m, struct buf *ret)
{
	const uint8_t *p = b->data + b->start, *end = b->data + b->end, *at;
	int r = 0;

	while (r >= 0 && (at = find(p, end, &m->old_text))) {
		put_bytes(ret, p, (size_t)(at - p), &r);
		put_bytes(ret, m->text.data, m->text.n, &r);
		p = at + m->old_text.n;
	}
	put_bytes(ret, p, (size_t)(end - p), &r);
	return r == -ENOBUFS ? -EFBIG : r;
}

static int edit(const struct files_op *op, const struct msg_file *m, const struct target *t,
	struct buf *old, struct buf *changed, struct msg_file_result *ret)
{
	int r = read_target(t, old);

	if (r < 0)
		return files_fail(ret, r, "read");
	ret->found = count(old, &m->old_text);
	if (ret->found == 0)
		return files_fail(ret, -ENODATA, "find the old text");
	if (ret->found > 1 && !(m->flags & FILE_REPLACE_ALL))
		return files_fail(ret, -ENOTUNIQ, "find the old text");
	r = replace_text(old, m, changed);
	if (r < 0)
		return files_fail(ret, r, "replace the text");
	return replace(op, t, buf_head(changed), buf_len(changed), ret);
}

int files_edit(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret)
{
	_cleanup_(target_done) struct target t = { .dir_fd = -EBADF };
	struct buf old, changed;
	int r = find_target(op, m->path, false, &t, ret);

	if (r >= 0 && !t.exists)
		r = files_fail(ret, -ENOENT, "open");
	if (r < 0)
		return r;
	buf_init(&old, EDIT_MAX + 1); /* the last byte tells that there is more */
	buf_init(&changed, EDIT_MAX);
	r = edit(op, m, &t, &old, &changed, ret);
	buf_done(&old);
	buf_done(&changed);
	return r;
}
