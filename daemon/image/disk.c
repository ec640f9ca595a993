/* SPDX-License-Identifier: MIT */
/*
 * Owns STATE/disks, the preformatted blank disks, and creates and removes machines' own disks. Used
 * by the start and the deletion of machines.
 *
 * `pyro-import disk` makes a blank of each size once, in a staging folder, from which it is
 * installed. Two machines that need the same new size at the same time both make it; the blanks are
 * alike. Only the blanks of the sizes used last are kept, so that requests for ever new sizes do
 * not fill the host's disk.
 *
 * A forked child copies a blank to a machine's disk: by reflink where the file system has it, else
 * sparsely. Then it removes surplus blanks; other copies from them have them open. The child makes
 * async-signal-safe calls only. A copy is made beside the target and renamed, so a disk that exists
 * is complete.
 */

#include "daemon/image/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "daemon/crash.h"
#include "daemon/image/import-job.h"
#include "daemon/image/install.h"
#include "daemon/job.h"
#include "proto/limits.h"

#define BLANK_TIMEOUT_USEC (600 * USEC_PER_SEC)
#define COPY_TIMEOUT_USEC  (600 * USEC_PER_SEC)
#define COPY_CHUNK         ((size_t)4 << 20)
#define BLANK_FILE         "blank.ext4"
#define BLANK_PREFIX       "blank-"
#define BLANKS_KEPT        4
#define BLANK_FD           3  /* in the child that copies */
#define SURPLUS_MAX        16 /* removed by one copy job; the next one removes more */

struct disk_op {
	struct manager *manager;    /* borrowed */
	char *path;                 /* owned; the disk to make or remove */
	char *part;                 /* owned; the incomplete copy */
	char *dir, *blank;          /* owned; STATE/disks, DIR/blank-MIB.ext4 */
	int blank_fd;               /* owned; the source of the copy */
	char *surplus[SURPLUS_MAX]; /* owned; blanks to remove */
	size_t n_surplus;
	struct import_job *import;         /* owned */
	char staging[IMPORT_STAGING_SIZE]; /* where the blank is made; below dir */
	struct error failure;              /* owned; reported when the staging folder is removed */
	struct installs installs;
	struct job *job;   /* owned; the copy */
	disk_done_fn done; /* NULL: the owner no longer waits */
	bool ended;        /* done has been called */
	bool disowned;     /* to be freed when it has ended */
	void *userdata;
};

static void op_free(struct disk_op *op)
{
	free(op->path);
	free(op->part);
	free(op->dir);
	free(op->blank);
	fd_close(op->blank_fd);
	for (size_t i = 0; i < op->n_surplus; i++)
		free(op->surplus[i]);
	error_clear(&op->failure);
	free(op);
}
DEFINE_CLEANUP(struct disk_op *, op_free)

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot make a disk");
}

static void finish(struct disk_op *op, const struct error *err)
{
	if (op->done)
		op->done(err, op->userdata);
	op->ended = true;
	if (op->disowned)
		op_free(op);
}

struct disk_op *disk_op_free(struct disk_op *op)
{
	if (op && op->ended) {
		op_free(op);
	} else if (op) {
		op->done = NULL;
		op->disowned = true;
	}

	return NULL;
}

static int copy_range(int from, int to, off_t at, off_t end)
{
	char block[32 * 1024];

	while (at < end) {
		off_t in = at, out = at;
		ssize_t n = copy_file_range(
			from, &in, to, &out, MIN_OF((size_t)(end - at), COPY_CHUNK), 0);

		/* Copies by read and write across file systems and on old kernels. */
		if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP ||
				     errno == ENOSYS)) {
			n = pread(from, block, MIN_OF((size_t)(end - at), sizeof(block)), at);
			if (n > 0)
				n = pwrite(to, block, (size_t)n, at);
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		at += n;
	}

	return 0;
}

/* Copies data and keeps holes. */
static int copy_sparse(int from, int to, off_t size)
{
	off_t at = 0;

	if (ftruncate(to, size) < 0)
		return -errno;
	while (at < size) {
		off_t data = lseek(from, at, SEEK_DATA), hole;
		int r;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0)
			return -errno;
		hole = lseek(from, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		r = copy_range(from, to, data, hole);
		if (r < 0)
			return r;
		at = hole;
	}

	return 0;
}

/* Runs in the child; the exit status is an errno. */
static int copy_run(void *arg)
{
	const struct disk_op *op = arg;
	_cleanup_close_ int to = -EBADF;
	struct stat st;
	int r = 0;

	if (fstat(BLANK_FD, &st) < 0)
		return errno;
	to = open(op->part, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return errno;
	if (ioctl(to, FICLONE, BLANK_FD) < 0)
		r = copy_sparse(BLANK_FD, to, st.st_size);
	crash_point();
	if (r == 0 && rename(op->part, op->path) < 0)
		r = -errno;
	crash_point();
	if (r < 0)
		(void)unlink(op->part);
	/* The next copy job retries what cannot be removed now. */
	for (size_t i = 0; i < op->n_surplus; i++)
		(void)unlink(op->surplus[i]);

	return -r;
}

struct blank {
	char *path; /* owned */
	struct timespec used;
};

static bool used_later(const struct blank *a, const struct blank *b)
{
	return a->used.tv_sec != b->used.tv_sec ? a->used.tv_sec > b->used.tv_sec
						: a->used.tv_nsec > b->used.tv_nsec;
}

/* Adds b to the kept blanks; the least recently used of them all becomes surplus. */
static void keep_or_not(struct disk_op *op, struct blank kept[BLANKS_KEPT - 1], struct blank b)
{
	size_t oldest = 0;

	for (size_t i = 0; i < BLANKS_KEPT - 1; i++) {
		if (!kept[i].path) {
			kept[i] = b;
			return;
		}
		if (used_later(&kept[oldest], &kept[i]))
			oldest = i;
	}
	if (used_later(&b, &kept[oldest])) {
		struct blank other = kept[oldest];

		kept[oldest] = b;
		b = other;
	}
	if (op->n_surplus < SURPLUS_MAX)
		op->surplus[op->n_surplus++] = TAKE_PTR(b.path);
	free(b.path);
}

/* Finds the blanks to remove: all but the current one and those used last. Unreadable ones stay. */
static void find_surplus(struct disk_op *op)
{
	struct blank kept[BLANKS_KEPT - 1] = { 0 };
	struct dirent *de;
	DIR *d = opendir(op->dir);

	while (d && (de = readdir(d))) {
		struct blank b = { .path = str_printf("%s/%s", op->dir, de->d_name) };
		struct stat st;

		if (!b.path || !startswith(de->d_name, BLANK_PREFIX) || streq(b.path, op->blank) ||
			lstat(b.path, &st) < 0) {
			free(b.path);
			continue;
		}
		b.used = st.st_mtim;
		keep_or_not(op, kept, b);
	}
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		free(kept[i].path);
	if (d)
		(void)closedir(d);
}

static void on_copied(
	struct job *job _unused_, int status, const char *tail _unused_, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct disk_op *op = userdata;
	int r = status > 0 ? -status : -EINTR;

	op->job = NULL;
	if (status != 0)
		(void)error_set_errno(&err, error_code_for_errno(r), r,
			r == -ENOSPC ? "Free space on the file system of pyrod's state directory."
				     : NULL,
			"Cannot make the disk %s", op->path);
	finish(op, status == 0 ? NULL : &err);
}

static int start_copy(struct disk_op *op, struct error *err)
{
	int r;

	op->blank_fd = open(op->blank, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (op->blank_fd < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"Cannot make the disk %s", op->path);
	(void)futimens(op->blank_fd, NULL); /* records the last use */
	find_surplus(op);
	r = job_start(op->manager->event,
		&(struct job_spec){
			.name = "disk-copy",
			.child = { .fn = copy_run,
				.arg = op,
				.stdin_fd = -EBADF,
				.fds = &op->blank_fd,
				.n_fds = 1 },
			.timeout_usec = COPY_TIMEOUT_USEC,
			.on_done = on_copied,
			.userdata = op,
		},
		&op->job);

	return r < 0 ? error_set_errno(err, error_code_for_errno(r), r, NULL,
			       "Cannot make the disk %s", op->path)
		     : 0;
}

/* The staging folder is removed, or left for the next start to remove. */
static void on_discarded(const struct error *err _unused_, void *userdata)
{
	struct disk_op *op = userdata;

	finish(op, &op->failure);
}

/* Removes the staging folder, then notifies the owner. */
static void fail_blank(struct disk_op *op)
{
	_cleanup_free_ char *path = str_printf("%s/%s", op->dir, op->staging);
	const char *paths[] = { path };

	if (!path || install_remove(op->manager->event, &op->installs, paths, 1, on_discarded, op,
			     NULL) < 0)
		finish(op, &op->failure);
}

static void on_blank_installed(const struct error *err, void *userdata)
{
	struct disk_op *op = userdata;

	if (err)
		(void)error_copy(&op->failure, err);
	if (err || start_copy(op, &op->failure) < 0)
		fail_blank(op);
}

static void on_blank(json_object *result, const struct error *job_err, void *userdata)
{
	struct disk_op *op = userdata;

	op->import = NULL;
	if (!result)
		(void)error_copy(&op->failure, job_err);
	/* Another machine may have made the same blank meanwhile; they are alike. */
	if (!result || install_start(op->manager->event, &op->installs,
			       &(struct install_spec){ .dir = op->dir,
				       .staging = op->staging,
				       .member = BLANK_FILE,
				       .target = strrchr(op->blank, '/') + 1 },
			       on_blank_installed, op, &op->failure) < 0)
		fail_blank(op);
}

static int start_blank(struct disk_op *op, uint64_t size_mib, struct error *err)
{
	char size[24];
	const char *const args[] = { "disk", "--size-mib", size, "--output", BLANK_FILE, NULL };
	_cleanup_close_ int dir_fd = -EBADF;
	_cleanup_free_ char *path = NULL;
	int r;

	(void)snprintf(size, sizeof(size), "%" PRIu64, size_mib);
	r = import_staging_make(op->manager, op->dir, op->staging, &dir_fd, err);
	if (r < 0)
		return r;
	r = import_job_start(op->manager,
		&(struct import_job_spec){
			.args = args,
			.dir_fd = dir_fd,
			.input_fd = -EBADF,
			.timeout_usec = BLANK_TIMEOUT_USEC,
			.failure = ERROR_START_FAILED,
			.again = "Try again; check the load and the free memory of this host.",
			.on_done = on_blank,
			.userdata = op,
		},
		&op->import, err);
	path = r < 0 ? str_printf("%s/%s", op->dir, op->staging) : NULL;
	if (path)
		(void)rmdir(path);

	return r;
}

static int op_new(struct manager *m, const char *path, disk_done_fn done, void *userdata,
	struct disk_op **ret, struct error *err)
{
	_cleanup_(op_freep) struct disk_op *op = calloc(1, sizeof(*op));

	if (op)
		op->path = strdup(path);
	if (!op || !op->path)
		return no_memory(err);
	LIST_INIT(&op->installs);
	op->manager = m;
	op->blank_fd = -EBADF;
	op->done = done;
	op->userdata = userdata;
	*ret = TAKE_PTR(op);

	return 0;
}

int disk_create(struct manager *m, const char *path, uint64_t size_mib, disk_done_fn done,
	void *userdata, struct disk_op **ret, struct error *err)
{
	_cleanup_(op_freep) struct disk_op *op = NULL;
	int r;

	if (size_mib < DISK_MIB_MIN || size_mib > DISK_MIB_MAX)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"--disk-mib 10240, disk_mib=10240",
			"A disk of %" PRIu64 " MiB cannot be made", size_mib);
	r = op_new(m, path, done, userdata, &op, err);
	if (r < 0)
		return r;
	op->part = str_printf("%s.part", path);
	op->dir = str_printf("%s/disks", m->state_dir);
	op->blank = op->dir ? str_printf("%s/" BLANK_PREFIX "%" PRIu64 ".ext4", op->dir, size_mib)
			    : NULL;
	if (!op->part || !op->blank)
		return no_memory(err);
	if (mkdir(op->dir, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, error_code_for_errno(-errno), -errno, NULL,
			"Cannot make the folder %s", op->dir);
	r = access(op->blank, R_OK) == 0 ? start_copy(op, err) : start_blank(op, size_mib, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(op);

	return 0;
}

static void on_removed(const struct error *err, void *userdata)
{
	finish(userdata, err);
}

int disk_remove(struct manager *m, const char *path, disk_done_fn done, void *userdata,
	struct disk_op **ret, struct error *err)
{
	_cleanup_(op_freep) struct disk_op *op = NULL;
	int r;

	r = op_new(m, path, done, userdata, &op, err);
	if (r < 0)
		return r;
	r = install_remove(m->event, &op->installs, &path, 1, on_removed, op, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(op);

	return 0;
}
