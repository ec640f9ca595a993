/* SPDX-License-Identifier: MIT */
/*
 * Owns the step from a staging folder to an installed one, for environments and kernels, and the
 * removal of folders. Everything happens in a forked child, since fsync and unlink may take
 * seconds; the child has a copy of the parent's memory and makes async-signal-safe calls only.
 *
 * The staging folder was written by another user, which may be hostile: it is opened without
 * following links, and it may hold folders and singly linked regular files, nothing else.
 */

#include "daemon/image/install.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "daemon/crash.h"
#include "daemon/import/contract.h"
#include "daemon/job.h"
#include "daemon/remove.h"

#define SEAL_DEPTH_MAX       4
#define INSTALL_TIMEOUT_USEC (900 * USEC_PER_SEC)

struct install {
	char *dir, *staging, *member, *target, *meta, *note, *note_text, *ref, *ref_text,
		*sweep; /* owned */
	char **paths;   /* owned; of a removal */
	size_t n_paths;
	char ref_tmp[64], own_tmp[64];
	char target_dir[PATH_MAX], *target_name; /* target_name borrowed: target */
	install_done_fn done;
	void *userdata;
	struct job *job; /* owned */
	bool listed;
	LIST_ENTRY(install) entry;
};

static int seal_at(int dir_fd, const char *name, unsigned depth);

static int seal_entries(int fd, unsigned depth)
{
	_Alignas(struct dirent64) char block[8192];
	ssize_t n;

	while ((n = syscall(SYS_getdents64, fd, block, sizeof(block))) > 0) {
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *de = (struct dirent64 *)(void *)(block + at);
			int r;

			at += de->d_reclen;
			if (streq(de->d_name, ".") || streq(de->d_name, ".."))
				continue;
			r = seal_at(fd, de->d_name, depth + 1);
			if (r < 0)
				return r;
		}
	}

	return n < 0 ? -errno : 0;
}

/* Takes ownership of the entry and syncs it; refuses types that no import writes. */
static int seal_at(int dir_fd, const char *name, unsigned depth)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r;

	fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode) && (!S_ISREG(st.st_mode) || st.st_nlink != 1))
		return -EBADMSG;
	if ((st.st_uid != geteuid() || st.st_gid != getegid()) &&
		fchown(fd, geteuid(), getegid()) < 0)
		return -errno;
	if (fchmod(fd, S_ISDIR(st.st_mode) ? 0755 : 0644) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode)) {
		if (depth >= SEAL_DEPTH_MAX)
			return -ELOOP;
		r = seal_entries(fd, depth);
		if (r < 0)
			return r;
	}

	return fsync(fd) < 0 ? -errno : 0;
}

/* Copies data and keeps holes. */
static int copy_data(int from, int to, off_t size)
{
	off_t at = 0;

	if (ftruncate(to, size) < 0)
		return -errno;
	while (at < size) {
		off_t begin = lseek(from, at, SEEK_DATA), end;

		if (begin < 0 && errno == ENXIO)
			return 0; /* only a hole */
		if (begin < 0)
			return -errno;
		end = lseek(from, begin, SEEK_HOLE);
		if (end < 0)
			return -errno;
		for (at = begin; at < end;) {
			off_t out = at;
			ssize_t n = copy_file_range(from, &at, to, &out, (size_t)(end - at), 0);

			if (n <= 0)
				return n < 0 ? -errno : -EIO;
		}
	}
	return 0;
}

/*
 * Copies a file with its times: integrity.c takes a file newer than its folder's meta.json for one
 * that was written to after the installation.
 */
static int copy_file(int from, int to, const struct stat *st)
{
	const struct timespec times[] = { st->st_atim, st->st_mtim };
	int r = copy_data(from, to, st->st_size);

	return r < 0 ? r : futimens(to, times) < 0 ? -errno : 0;
}

static int claim_at(int from_dir, int to_dir, const char *name, unsigned depth);

static int claim_entries(int from, int to, unsigned depth)
{
	_Alignas(struct dirent64) char block[8192];
	ssize_t n;

	while ((n = syscall(SYS_getdents64, from, block, sizeof(block))) > 0) {
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *de = (struct dirent64 *)(void *)(block + at);
			int r;

			at += de->d_reclen;
			if (streq(de->d_name, ".") || streq(de->d_name, ".."))
				continue;
			r = claim_at(from, to, de->d_name, depth + 1);
			if (r < 0)
				return r;
		}
	}

	return n < 0 ? -errno : 0;
}

/* Takes ownership of what another user wrote by copying it, where chown is not permitted. */
static int claim_at(int from_dir, int to_dir, const char *name, unsigned depth)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	struct stat st;

	from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0 || fstat(from, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode) && st.st_uid == geteuid())
		return renameat(from_dir, name, to_dir, name) < 0 ? -errno : 0;
	if (S_ISREG(st.st_mode) && st.st_nlink == 1) {
		to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		return to < 0 ? -errno : copy_file(from, to, &st);
	}
	if (!S_ISDIR(st.st_mode))
		return -EBADMSG;
	if (depth >= SEAL_DEPTH_MAX)
		return -ELOOP;
	if (mkdirat(to_dir, name, 0700) < 0)
		return -errno;
	to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return to < 0 ? -errno : claim_entries(from, to, depth);
}

/* True when another user owns an entry of the folder. */
static int is_foreign(int fd)
{
	_Alignas(struct dirent64) char block[8192];
	int foreign = 0;
	struct stat st;
	ssize_t n;

	while ((n = syscall(SYS_getdents64, fd, block, sizeof(block))) > 0)
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *de = (struct dirent64 *)(void *)(block + at);

			at += de->d_reclen;
			if (streq(de->d_name, ".."))
				continue;
			if (fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
				return -errno;
			foreign = foreign || st.st_uid != geteuid();
		}
	if (n < 0)
		return -errno;
	return lseek(fd, 0, SEEK_SET) < 0 ? -errno : foreign;
}

/*
 * Replaces the folder by a copy of our own, when pyro-import ran as a unit of another user and
 * pyrod is not root.
 */
static int claim(const struct install *i, int dir_fd)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	int r;

	from = openat(dir_fd, i->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return -errno;
	r = is_foreign(from);
	if (r <= 0)
		return r;
	if (mkdirat(dir_fd, i->own_tmp, 0700) < 0)
		return -errno;
	to = openat(dir_fd, i->own_tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = to < 0 ? -errno : claim_entries(from, to, 0);
	if (r >= 0 && renameat2(dir_fd, i->own_tmp, dir_fd, i->staging, RENAME_EXCHANGE) < 0)
		r = -errno;
	/*
	 * Removes the copy on failure, the original on success. A folder that the other user has
	 * made inaccessible stays for that user's next sweep.
	 */
	(void)remove_tree_at(dir_fd, i->own_tmp);
	return r;
}

static int put_file(int dir_fd, const char *name, const char *text)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	r = write_all(fd, text, strlen(text));
	if (r < 0)
		return r;

	return fsync(fd) < 0 ? -errno : 0;
}

static int put_ref(const struct install *i, int dir_fd)
{
	int r;

	if (!i->ref)
		return 0;
	r = put_file(dir_fd, i->ref_tmp, i->ref_text);
	crash_point();
	if (r >= 0 && renameat(dir_fd, i->ref_tmp, dir_fd, i->ref) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dir_fd, i->ref_tmp, 0);
		return r;
	}

	return fsync(dir_fd) < 0 ? -errno : 0;
}

/* Removes other files with the prefix, which this file replaces. A failure is ignored. */
static void sweep(const struct install *i, int fd)
{
	_Alignas(struct dirent64) char block[8192];
	ssize_t n;

	while ((n = syscall(SYS_getdents64, fd, block, sizeof(block))) > 0)
		for (ssize_t at = 0; at < n;) {
			struct dirent64 *de = (struct dirent64 *)(void *)(block + at);

			at += de->d_reclen;
			if (startswith(de->d_name, i->sweep) && !streq(de->d_name, i->target_name))
				(void)unlinkat(fd, de->d_name, 0);
		}
}

static int install_member(const struct install *i, int dir_fd)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	int r;

	from = openat(dir_fd, i->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (from < 0)
		return -errno;
	to = openat(dir_fd, i->target_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (to < 0)
		return -errno;
	r = seal_at(from, i->member, 0);
	if (r < 0)
		return r;
	crash_point();
	if (renameat(from, i->member, to, i->target_name) < 0 || fsync(to) < 0)
		return -errno;
	crash_point();
	if (i->sweep)
		sweep(i, to);

	return remove_tree_at(dir_fd, i->staging);
}

/* Writes pyrod's own small files; they replace files of the same names from the import. */
static int put_texts(const struct install *i, int dir_fd)
{
	const char *const names[] = { IMPORT_META, i->note };
	const char *const texts[] = { i->meta, i->note_text };
	_cleanup_close_ int fd =
		openat(dir_fd, i->staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	for (size_t k = 0; r >= 0 && k < ARRAY_SIZE(texts); k++) {
		if (!texts[k])
			continue;
		(void)unlinkat(fd, names[k], 0);
		r = put_file(fd, names[k], texts[k]);
	}

	return r;
}

static int install_tree(const struct install *i, int dir_fd)
{
	int r = put_texts(i, dir_fd);

	if (r < 0)
		return r;
	r = seal_at(dir_fd, i->staging, 0);
	if (r < 0)
		return r;
	crash_point();
	/* Exchanges the folders when the target exists, so that it is never absent. */
	if (renameat2(dir_fd, i->staging, dir_fd, i->target, RENAME_NOREPLACE) < 0) {
		if (errno != EEXIST)
			return -errno;
		if (renameat2(dir_fd, i->staging, dir_fd, i->target, RENAME_EXCHANGE) < 0)
			return -errno;
		crash_point();
		r = remove_tree_at(dir_fd, i->staging);
		if (r < 0)
			return r;
	}

	return fsync(dir_fd) < 0 ? -errno : 0;
}

/* Runs in the child; the exit status is an errno. */
static int install_run(void *arg)
{
	const struct install *i = arg;
	_cleanup_close_ int dir_fd = -EBADF;
	int r;

	dir_fd = open(i->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return errno;
	r = geteuid() == 0 ? 0 : claim(i, dir_fd);
	if (r >= 0)
		r = i->member ? install_member(i, dir_fd) : install_tree(i, dir_fd);
	crash_point();
	if (r >= 0)
		r = put_ref(i, dir_fd);
	crash_point();

	return -r;
}

static int remove_run(void *arg)
{
	const struct install *i = arg;
	int first = 0;

	for (size_t n = 0; n < i->n_paths; n++) {
		crash_point();
		int r = remove_tree_at(AT_FDCWD, i->paths[n]);

		if (r < 0 && first == 0)
			first = r;
	}

	return -first;
}

static void install_free(struct install *i)
{
	if (i->listed)
		LIST_REMOVE(i, entry);
	free(i->dir);
	free(i->staging);
	free(i->member);
	free(i->target);
	free(i->meta);
	free(i->note);
	free(i->note_text);
	free(i->ref);
	free(i->ref_text);
	free(i->sweep);
	install_paths_free(i->paths, i->n_paths);
	free(i);
}
DEFINE_CLEANUP(struct install *, install_free)

static void on_done(struct job *job _unused_, int status, const char *tail _unused_, void *userdata)
{
	_cleanup_(install_freep) struct install *i = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = status > 0 ? -status : -EINTR;

	if (status != 0)
		(void)error_set_errno(&err, error_code_for_errno(r), r,
			"Check the file system and pyrod's log.", "Cannot %s %s",
			i->paths ? "remove" : "install", i->paths ? i->paths[0] : i->target);
	/* The callback may free the owner, and the list with it. */
	LIST_REMOVE(i, entry);
	i->listed = false;
	if (i->done)
		i->done(status == 0 ? NULL : &err, i->userdata);
}

void install_cancel_all(struct installs *list)
{
	struct install *i;

	while ((i = LIST_FIRST(list))) {
		i->job = job_cancel(i->job);
		install_free(i);
	}
}

static int run(sd_event *event, struct installs *list, struct install *i, const char *name,
	int (*fn)(void *))
{
	int r = job_start(event,
		&(struct job_spec){
			.name = name,
			.child = { .fn = fn, .arg = i, .stdin_fd = -EBADF },
			.timeout_usec = INSTALL_TIMEOUT_USEC,
			.on_done = on_done,
			.userdata = i,
		},
		&i->job);

	if (r < 0)
		return r;
	LIST_INSERT_HEAD(list, i, entry);
	i->listed = true;

	return 0;
}

static int copy(char **ret, const char *s)
{
	*ret = s ? strdup(s) : NULL;

	return s && !*ret ? -ENOMEM : 0;
}

static int install_copy(struct install *i, const struct install_spec *s)
{
	char *slash;

	if (copy(&i->dir, s->dir) < 0 || copy(&i->staging, s->staging) < 0 ||
		copy(&i->member, s->member) < 0 || copy(&i->target, s->target) < 0 ||
		copy(&i->meta, s->meta) < 0 || copy(&i->note, s->note) < 0 ||
		copy(&i->note_text, s->note_text) < 0 || copy(&i->ref, s->ref) < 0 ||
		copy(&i->ref_text, s->ref_text) < 0 || copy(&i->sweep, s->sweep) < 0)
		return -ENOMEM;
	if (strlen(i->target) >= sizeof(i->target_dir))
		return -ENAMETOOLONG;
	memcpy(i->target_dir, i->target, strlen(i->target) + 1);
	slash = strrchr(i->target_dir, '/');
	i->target_name = slash ? i->target + (slash - i->target_dir) + 1 : i->target;
	if (slash)
		*slash = '\0';
	else
		memcpy(i->target_dir, ".", sizeof("."));
	/* prune.c recognises both by the name of the staging folder. */
	(void)snprintf(i->own_tmp, sizeof(i->own_tmp), "%.40s.own", s->staging);
	(void)snprintf(i->ref_tmp, sizeof(i->ref_tmp), ".staging-ref-%.40s",
		startswith(s->staging, ".staging-") ? s->staging + 9 : s->staging);

	return 0;
}

int install_start(sd_event *event, struct installs *list, const struct install_spec *spec,
	install_done_fn done, void *userdata, struct error *err)
{
	_cleanup_(install_freep) struct install *i = calloc(1, sizeof(*i));
	int r;

	r = i ? install_copy(i, spec) : -ENOMEM;
	if (r >= 0) {
		i->done = done;
		i->userdata = userdata;
		r = run(event, list, i, "install", install_run);
	}
	if (r < 0)
		return error_set_errno(
			err, error_code_for_errno(r), r, NULL, "Cannot install %s", spec->target);
	TAKE_PTR(i);

	return 0;
}

int install_remove(sd_event *event, struct installs *list, const char *const *paths, size_t n,
	install_done_fn done, void *userdata, struct error *err)
{
	_cleanup_(install_freep) struct install *i = calloc(1, sizeof(*i));
	int r = -ENOMEM;

	if (i)
		i->paths = calloc(n + 1, sizeof(*i->paths));
	if (i && i->paths) {
		i->n_paths = n;
		r = 0;
	}
	for (size_t k = 0; r == 0 && k < n; k++)
		r = copy(&i->paths[k], paths[k]);
	if (r == 0) {
		i->done = done;
		i->userdata = userdata;
		r = run(event, list, i, "remove", remove_run);
	}
	if (r < 0)
		return error_set_errno(err, error_code_for_errno(r), r, NULL, "Cannot remove %s",
			n > 0 ? paths[0] : "nothing");
	TAKE_PTR(i);

	return 0;
}

void install_paths_free(char **paths, size_t n)
{
	for (size_t i = 0; paths && i < n; i++)
		free(paths[i]);
	free(paths);
}

int install_leftovers(const char *dir, const char *prefix, char ***ret, size_t *ret_n)
{
	char **paths = NULL;
	struct dirent *de;
	size_t n = 0;
	int r = 0;
	DIR *d = opendir(dir);

	if (!d)
		return -errno;
	while (r == 0 && (de = readdir(d))) {
		char **more;

		if (!startswith(de->d_name, prefix))
			continue;
		more = reallocarray(paths, n + 1, sizeof(*paths));
		r = more ? 0 : -ENOMEM;
		if (r < 0)
			break;
		paths = more;
		paths[n] = str_printf("%s/%s", dir, de->d_name);
		r = paths[n] ? 0 : -ENOMEM;
		n += r == 0;
	}
	(void)closedir(d);
	if (r < 0) {
		install_paths_free(paths, n);
		return r;
	}
	*ret = paths;
	*ret_n = n;

	return 0;
}
