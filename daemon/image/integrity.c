/* SPDX-License-Identifier: MIT */
/*
 * Owns the verdicts on installed folders, intact or damaged, and the job that reads them. Called by
 * environment.c and kernel.c, which know the paths. A check is requested by doctor, before the use
 * of a file that was written to, and after a machine that failed to start.
 *
 * What must stay true: a verdict holds only for the files that were read (device, inode, size,
 * times); one folder is read at a time; a check that failed gives no verdict; the loop reads no
 * file.
 */

#include "daemon/image/integrity.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "daemon/image/import-job.h"
#include "daemon/import/contract.h"
#include "daemon/job.h"
#include "daemon/log.h"

#define RUNNING            "running" /* in the state directory: the boot id, while a daemon runs */
#define BOOT_ID_SIZE       64
#define VERDICTS_MAX       64
#define READ_AGAIN_USEC    (600 * USEC_PER_SEC)
#define CHECK_TIMEOUT_USEC (600 * USEC_PER_SEC)
#define MARK_TIMEOUT_USEC  (60 * USEC_PER_SEC)
#define FILES_MAX          3
#define DAMAGE_UNTOLD      "it is not what was installed"

struct verdict {
	char *dir; /* owned */
	uint64_t fingerprint;
	uint64_t usec; /* monotonic */
	char *damage;  /* owned; NULL: intact */
	TAILQ_ENTRY(verdict) entry;
};
TAILQ_HEAD(verdicts, verdict);

struct waiter {
	integrity_done_fn done;
	void *userdata;
	TAILQ_ENTRY(waiter) entry;
};
TAILQ_HEAD(waiters, waiter);

struct check {
	char *dir, *id, *initrd, *initrd_digest; /* owned */
	struct integrity_target target;          /* of these */
	bool known;                              /* there is a verdict already: nothing is read */
	uint64_t fingerprint;
	struct waiters waiters;
	struct error err; /* why there is no verdict */
	TAILQ_ENTRY(check) entry;
};
TAILQ_HEAD(checks, check);

/* How a job marks a folder after it was read. */
enum mark { MARK_NONE, MARK_DAMAGED, MARK_WHOLE, MARK_STAMP };
enum { MARK_DIR_FD = 3 }; /* in the job */

struct integrity {
	struct manager *m;        /* borrowed */
	struct verdicts verdicts; /* newest first */
	size_t n_verdicts;
	struct checks checks;   /* the first one runs */
	sd_event_source *next;  /* owned: begins the first, or notifies its waiters */
	int dir_fd;             /* owned: the folder being read */
	struct import_job *job; /* owned */
	struct job *marker;     /* owned */
	enum mark mark;         /* argument of marker */
	bool after_crash;
	bool ended;              /* the first has ended; its waiters are not yet notified */
	struct waiters notified; /* of the check that has just ended */
};

static int no_memory(struct error *err)
{
	return error_no_memory(err, "Cannot check what is installed");
}

/* Lists the files whose change invalidates a verdict; returns their number. */
static size_t files_of(const struct integrity_target *t, const char *ret[FILES_MAX])
{
	size_t n = 0;

	if (startswith(t->id, "sha256:")) {
		ret[n++] = IMPORT_IMAGE;
		return n;
	}
	ret[n++] = IMPORT_VMLINUX;
	ret[n++] = IMPORT_MODULES;
	if (t->initrd)
		ret[n++] = t->initrd;
	return n;
}

static int open_dir(const struct integrity_target *t)
{
	int fd = open(t->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Hashes names, sizes and times (FNV-1a). */
static uint64_t fingerprint(int dir_fd, const struct integrity_target *t)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	const char *files[FILES_MAX];
	size_t n = files_of(t, files);

	for (size_t i = 0; i < n; i++) {
		struct stat st = { 0 };
		uint64_t values[7];

		if (fstatat(dir_fd, files[i], &st, AT_SYMLINK_NOFOLLOW) < 0)
			st = (struct stat){ 0 };
		values[0] = st.st_dev;
		values[1] = st.st_ino;
		values[2] = (uint64_t)st.st_size;
		values[3] = (uint64_t)st.st_mtim.tv_sec;
		values[4] = (uint64_t)st.st_mtim.tv_nsec;
		values[5] = (uint64_t)st.st_ctim.tv_sec;
		values[6] = (uint64_t)st.st_ctim.tv_nsec;
		for (size_t k = 0; k < ARRAY_SIZE(values); k++)
			hash = (hash ^ values[k]) * UINT64_C(0x100000001b3);
	}
	return hash;
}

static void verdict_free(struct integrity *in, struct verdict *v)
{
	TAILQ_REMOVE(&in->verdicts, v, entry);
	in->n_verdicts--;
	free(v->dir);
	free(v->damage);
	free(v);
}

/* Returns the verdict on the folder if it still holds. */
static struct verdict *find_verdict(
	struct integrity *in, int dir_fd, const struct integrity_target *t)
{
	struct verdict *v;

	TAILQ_FOREACH (v, &in->verdicts, entry)
		if (streq(v->dir, t->dir))
			return v->fingerprint == fingerprint(dir_fd, t) ? v : NULL;
	return NULL;
}

/* Keeps a verdict; when out of memory, the mark on disk still has it. */
static void keep_verdict(struct integrity *in, const struct check *c, const char *damage)
{
	struct verdict *v, *next;

	for (v = TAILQ_FIRST(&in->verdicts); v; v = next) {
		next = TAILQ_NEXT(v, entry);
		if (streq(v->dir, c->dir))
			verdict_free(in, v);
	}
	while (in->n_verdicts >= VERDICTS_MAX)
		verdict_free(in, TAILQ_LAST(&in->verdicts, verdicts));
	v = calloc(1, sizeof(*v));
	if (!v)
		return;
	v->dir = strdup(c->dir);
	v->damage = damage ? strdup(damage) : NULL;
	v->fingerprint = c->fingerprint;
	v->usec = now_usec();
	TAILQ_INSERT_HEAD(&in->verdicts, v, entry);
	in->n_verdicts++;
	if (!v->dir || (damage && !v->damage))
		verdict_free(in, v);
}

const char *integrity_damage(struct integrity *in, const struct integrity_target *t)
{
	_cleanup_close_ int dir_fd = open_dir(t);
	struct verdict *v;

	if (dir_fd < 0)
		return NULL; /* absent */
	v = find_verdict(in, dir_fd, t);
	if (v)
		return v->damage;
	return faccessat(dir_fd, IMPORT_DAMAGED, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? DAMAGE_UNTOLD
										 : NULL;
}

uint64_t integrity_whole_usec(struct integrity *in, const struct integrity_target *t)
{
	_cleanup_close_ int dir_fd = open_dir(t);
	struct verdict *v = dir_fd < 0 ? NULL : find_verdict(in, dir_fd, t);

	return v && !v->damage ? v->usec : 0;
}

/* True when the file was written to after the file that the installation wrote last. */
static bool is_newer(int dir_fd, const char *file, const char *than)
{
	struct stat a, b;

	if (fstatat(dir_fd, file, &a, AT_SYMLINK_NOFOLLOW) < 0 ||
		fstatat(dir_fd, than, &b, AT_SYMLINK_NOFOLLOW) < 0)
		return false; /* a missing file fails when it is opened */
	return a.st_mtim.tv_sec > b.st_mtim.tv_sec ||
	       (a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec > b.st_mtim.tv_nsec);
}

static bool was_written_to(int dir_fd, const struct integrity_target *t)
{
	const char *files[FILES_MAX];
	size_t n = files_of(t, files);

	for (size_t i = 0; i < n; i++)
		if (is_newer(dir_fd, files[i],
			    t->initrd && streq(files[i], t->initrd) ? INITRD_META : IMPORT_META))
			return true;
	return false;
}

bool integrity_is_suspect(struct integrity *in, const struct integrity_target *t)
{
	_cleanup_close_ int dir_fd = open_dir(t);

	return dir_fd >= 0 && was_written_to(dir_fd, t) && !find_verdict(in, dir_fd, t);
}

/* Runs in the child. A file that no longer has the name was replaced meanwhile. */
static int mark_run(void *arg)
{
	static const char *const stamped[] = { IMPORT_META, INITRD_META };
	const enum mark what = *(const enum mark *)arg;
	int r = 0;

	if (what == MARK_DAMAGED)
		r = renameat(MARK_DIR_FD, IMPORT_META, MARK_DIR_FD, IMPORT_DAMAGED);
	else if (what == MARK_WHOLE)
		r = renameat(MARK_DIR_FD, IMPORT_DAMAGED, MARK_DIR_FD, IMPORT_META);
	if (r < 0 && errno != ENOENT)
		return errno;
	for (size_t i = 0; what != MARK_DAMAGED && i < ARRAY_SIZE(stamped); i++)
		if (utimensat(MARK_DIR_FD, stamped[i], NULL, AT_SYMLINK_NOFOLLOW) < 0 &&
			errno != ENOENT)
			return errno;
	return fsync(MARK_DIR_FD) < 0 ? errno : 0;
}

static void schedule_notify(struct integrity *in)
{
	in->ended = true;
	(void)sd_event_source_set_enabled(in->next, SD_EVENT_ONESHOT);
}

static void on_marked(
	_unused_ struct job *job, int status, _unused_ const char *tail, void *userdata)
{
	struct integrity *in = userdata;

	in->marker = NULL;
	in->dir_fd = fd_close(in->dir_fd);
	/* This daemon keeps the verdict in memory; only the next one does not know it. */
	if (status != 0)
		log_warning_errno(status > 0 ? -status : -EINTR,
			"cannot record the result of the check of %s on disk",
			TAILQ_FIRST(&in->checks)->dir);
	schedule_notify(in);
}

static void mark(struct integrity *in, enum mark what)
{
	int r;

	in->mark = what;
	r = job_start(in->m->event,
		&(struct job_spec){
			.name = "mark",
			.child = { .fn = mark_run,
				.arg = &in->mark,
				.stdin_fd = -EBADF,
				.fds = &in->dir_fd,
				.n_fds = 1 },
			.timeout_usec = MARK_TIMEOUT_USEC,
			.on_done = on_marked,
			.userdata = in,
		},
		&in->marker);
	if (r < 0) {
		log_warning_errno(r, "cannot record the result of the check of %s on disk",
			TAILQ_FIRST(&in->checks)->dir);
		in->dir_fd = fd_close(in->dir_fd);
		schedule_notify(in);
	}
}

static enum mark mark_of(int dir_fd, const struct check *c, const char *damage)
{
	bool marked = faccessat(dir_fd, IMPORT_DAMAGED, F_OK, AT_SYMLINK_NOFOLLOW) == 0;

	/* The next start of a machine makes the initramfs again; no mark is needed. */
	if (damage && startswith(damage, INITRD_PREFIX))
		return MARK_NONE;
	if (damage)
		return marked ? MARK_NONE : MARK_DAMAGED;
	if (marked)
		return MARK_WHOLE;
	return was_written_to(dir_fd, &c->target) ? MARK_STAMP : MARK_NONE;
}

static void on_read(json_object *result, const struct error *job_err, void *userdata)
{
	struct integrity *in = userdata;
	struct check *c = TAILQ_FIRST(&in->checks);
	const char *said = result ? import_str(result, "damaged") : NULL;
	char damage[IMPORT_DETAIL_MAX];
	enum mark what;

	in->job = NULL;
	if (!result) {
		(void)error_copy(&c->err, job_err);
		in->dir_fd = fd_close(in->dir_fd);
		schedule_notify(in);
		return;
	}
	if (said)
		(void)log_escape(said, strnlen(said, 200), damage, sizeof(damage));
	keep_verdict(in, c, said ? damage : NULL);
	if (said)
		log_error("%s is damaged: %s", c->dir, damage);
	what = mark_of(in->dir_fd, c, said);
	if (what != MARK_NONE) {
		mark(in, what);
		return;
	}
	in->dir_fd = fd_close(in->dir_fd);
	schedule_notify(in);
}

/* Begins the first check. */
static int begin(struct integrity *in, struct check *c)
{
	const char *const args[] = { "check", c->id, c->initrd, c->initrd_digest, NULL };
	_cleanup_close_ int dir_fd = open_dir(&c->target);
	int r;

	if (dir_fd < 0)
		return error_set_errno(&c->err, error_code_for_errno(dir_fd), dir_fd,
			"make it readable for pyrod", "Cannot read %s", c->dir);
	c->fingerprint = fingerprint(dir_fd, &c->target);
	r = import_job_start(in->m,
		&(struct import_job_spec){
			.args = args,
			.dir_fd = dir_fd,
			.input_fd = -EBADF,
			.timeout_usec = CHECK_TIMEOUT_USEC,
			.failure = ERROR_INTERNAL,
			.again = "Try again; check the load and the disk of this host.",
			.on_done = on_read,
			.userdata = in,
		},
		&in->job, &c->err);
	if (r >= 0)
		in->dir_fd = TAKE_FD(dir_fd);
	return r;
}

static void check_free(struct check *c)
{
	struct waiter *w;

	while ((w = TAILQ_FIRST(&c->waiters))) {
		TAILQ_REMOVE(&c->waiters, w, entry);
		free(w);
	}
	error_clear(&c->err);
	free(c->dir);
	free(c->id);
	free(c->initrd);
	free(c->initrd_digest);
	free(c);
}
DEFINE_CLEANUP(struct check *, check_free)

/*
 * Notifies the waiters of the first check. A callback may request a check, or forget other waiters.
 */
static void notify_waiters(struct integrity *in)
{
	_cleanup_(check_freep) struct check *c = TAILQ_FIRST(&in->checks);
	struct waiter *w;

	TAILQ_REMOVE(&in->checks, c, entry);
	in->ended = false;
	TAILQ_CONCAT(&in->notified, &c->waiters, entry);
	while ((w = TAILQ_FIRST(&in->notified))) {
		_cleanup_free_ struct waiter *first = w;

		TAILQ_REMOVE(&in->notified, w, entry);
		first->done(c->err.set ? &c->err : NULL, first->userdata);
	}
}

static int on_next(_unused_ sd_event_source *source, void *userdata)
{
	struct integrity *in = userdata;
	struct check *c;

	if (in->ended)
		notify_waiters(in);
	c = TAILQ_FIRST(&in->checks);
	if (c && !in->job && !in->marker && (c->known || begin(in, c) < 0))
		schedule_notify(in);
	return 0;
}

static int copy(char **ret, const char *s)
{
	*ret = s ? strdup(s) : NULL;
	return s && !*ret ? -ENOMEM : 0;
}

static struct check *check_new(const struct integrity_target *t)
{
	_cleanup_(check_freep) struct check *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	TAILQ_INIT(&c->waiters);
	if (copy(&c->dir, t->dir) < 0 || copy(&c->id, t->id) < 0 ||
		copy(&c->initrd, t->initrd) < 0 || copy(&c->initrd_digest, t->initrd_digest) < 0)
		return NULL;
	c->target = (struct integrity_target){ c->dir, c->id, c->initrd, c->initrd_digest };
	return TAKE_PTR(c);
}

/*
 * Finds a check of the folder to join. With again, the running check does not count: it may have
 * read a file before its last change.
 */
static struct check *find_check(struct integrity *in, const char *dir, bool again)
{
	struct check *c;

	TAILQ_FOREACH (c, &in->checks, entry)
		if (streq(c->dir, dir) && !(again && (c->known || c == TAILQ_FIRST(&in->checks))))
			return c;
	return NULL;
}

static bool was_read_lately(struct integrity *in, const struct integrity_target *t)
{
	_cleanup_close_ int dir_fd = open_dir(t);
	struct verdict *v = dir_fd < 0 ? NULL : find_verdict(in, dir_fd, t);

	return v && now_usec() - v->usec < READ_AGAIN_USEC;
}

int integrity_check(struct integrity *in, const struct integrity_target *t, bool again,
	integrity_done_fn done, void *userdata, struct error *err)
{
	_cleanup_free_ struct waiter *w = calloc(1, sizeof(*w));
	struct check *c = find_check(in, t->dir, again);

	if (!w)
		return no_memory(err);
	if (!c) {
		c = check_new(t);
		if (!c)
			return no_memory(err);
		c->known = !again && was_read_lately(in, t);
		TAILQ_INSERT_TAIL(&in->checks, c, entry);
		if (c == TAILQ_FIRST(&in->checks))
			(void)sd_event_source_set_enabled(in->next, SD_EVENT_ONESHOT);
	}
	*w = (struct waiter){ .done = done, .userdata = userdata };
	TAILQ_INSERT_TAIL(&c->waiters, w, entry);
	TAKE_PTR(w);
	return 0;
}

static void forget_in(struct waiters *list, const void *userdata)
{
	struct waiter *w, *next;

	for (w = TAILQ_FIRST(list); w; w = next) {
		next = TAILQ_NEXT(w, entry);
		if (w->userdata == userdata) {
			TAILQ_REMOVE(list, w, entry);
			free(w);
		}
	}
}

void integrity_forget(struct integrity *in, const void *userdata)
{
	struct check *c;

	TAILQ_FOREACH (c, &in->checks, entry)
		forget_in(&c->waiters, userdata);
	forget_in(&in->notified, userdata);
}

/* Writes "BOOT_ID\n" of the host, or "" when it cannot be read. */
static void read_boot_id(char ret[BOOT_ID_SIZE])
{
	_cleanup_free_ char *text = NULL;
	size_t n;

	ret[0] = '\0';
	if (read_file_at(
		    AT_FDCWD, "/proc/sys/kernel/random/boot_id", BOOT_ID_SIZE - 1, &text, &n) >= 0)
		(void)snprintf(ret, BOOT_ID_SIZE, "%s", text);
}

/*
 * Writes a file that exists while a daemon uses the state directory. It is not synced: only a crash
 * within seconds of the start loses it.
 */
static void write_running(struct integrity *in)
{
	_cleanup_free_ char *path = str_printf("%s/" RUNNING, in->m->state_dir), *left = NULL;
	_cleanup_close_ int fd = -EBADF;
	char boot[BOOT_ID_SIZE];
	size_t n;

	read_boot_id(boot);
	if (!path || !boot[0])
		return;
	in->after_crash =
		read_file_at(AT_FDCWD, path, BOOT_ID_SIZE, &left, &n) >= 0 && !streq(left, boot);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0 || write_all(fd, boot, strlen(boot)) < 0)
		log_warning_errno(-errno, "cannot write %s", path);
}

static void remove_running(struct integrity *in)
{
	_cleanup_free_ char *path = str_printf("%s/" RUNNING, in->m->state_dir);

	if (path)
		(void)unlink(path);
}

bool integrity_after_crash(const struct integrity *in)
{
	return in->after_crash;
}

int integrity_new(struct manager *m, struct integrity **ret)
{
	_cleanup_free_ struct integrity *in = calloc(1, sizeof(*in));
	int r;

	if (!in)
		return -ENOMEM;
	in->m = m;
	in->dir_fd = -EBADF;
	TAILQ_INIT(&in->verdicts);
	TAILQ_INIT(&in->checks);
	TAILQ_INIT(&in->notified);
	r = sd_event_add_defer(m->event, &in->next, on_next, in);
	if (r >= 0)
		r = sd_event_source_set_enabled(in->next, SD_EVENT_OFF);
	if (r < 0) {
		sd_event_source_disable_unref(in->next);
		return r;
	}
	write_running(in);
	*ret = TAKE_PTR(in);
	return 0;
}

struct integrity *integrity_free(struct integrity *in)
{
	struct check *c;

	if (!in)
		return NULL;
	remove_running(in);
	(void)import_job_cancel(in->job);
	(void)job_cancel(in->marker);
	sd_event_source_disable_unref(in->next);
	fd_close(in->dir_fd);
	while ((c = TAILQ_FIRST(&in->checks))) {
		TAILQ_REMOVE(&in->checks, c, entry);
		check_free(c);
	}
	while (!TAILQ_EMPTY(&in->verdicts))
		verdict_free(in, TAILQ_FIRST(&in->verdicts));
	free(in);
	return NULL;
}
