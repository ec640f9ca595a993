/* SPDX-License-Identifier: MIT */
/*
 * The store thread: the only SQLite connection, a queue of calls, completion by eventfd.
 *
 * The loop thread queues calls. The store thread takes up to BATCH_MAX of them into one
 * transaction, each in its own savepoint, and hands the finished calls back. Called by core/
 * through the store_* functions of store.h.
 *
 * What must stay true:
 * - the loop thread uses the connection only before the first call is queued;
 * - a call is reported committed only after COMMIT succeeded;
 * - a file of a newer version is not written to;
 * - nothing is written after a failed fsync, since the kernel may have dropped the pages that it
 *   could not write.
 */

#include "daemon/store/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "daemon/crash.h"
#include "daemon/store/migrations.h"
#include "daemon/store/op.h"

enum {
	BATCH_MAX = 64,
	APPLICATION_ID = 0x7079726f, /* "pyro" */
	HEADER_SIZE = 100,           /* of an SQLite file; big-endian fields */
	HEADER_USER_VERSION = 60,
	HEADER_APPLICATION_ID = 68,
};

STAILQ_HEAD(op_list, store_op);

struct store {
	char *path;  /* owned */
	sqlite3 *db; /* owned */
	pthread_t thread;
	bool thread_runs;
	int event_fd;                /* owned */
	sd_event_source *done_event; /* owned */
	bool read_only;              /* set on the store thread when an fsync failed */

	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct op_list queue; /* under lock */
	struct op_list done;  /* under lock */
	bool stop;            /* under lock */
};

int store_errno(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE: return 0;
	case SQLITE_NOMEM: return -ENOMEM;
	case SQLITE_FULL: return -ENOSPC;
	case SQLITE_BUSY:
	case SQLITE_LOCKED: return -EBUSY;
	case SQLITE_READONLY: return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH: return -EACCES;
	case SQLITE_CANTOPEN: return -ENOENT;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB: return -EUCLEAN;
	case SQLITE_CONSTRAINT: return -EEXIST;
	case SQLITE_TOOBIG: return -E2BIG;
	default: return -EIO;
	}
}

int store_fail(struct store *s, const char *what, struct error *err)
{
	int rc = sqlite3_extended_errcode(s->db);
	int r = store_errno(rc);

	if (r >= 0)
		r = -EIO;
	if (rc == SQLITE_IOERR_FSYNC || rc == SQLITE_IOERR_DIR_FSYNC)
		s->read_only = true;
	error_set(err, error_code_for_errno(r), sqlite3_errmsg(s->db),
		r == -ENOSPC ? "free space on the file system of pyrod's state directory"
			     : "look at pyrod's journal and at the disk under its state directory",
		"cannot %s in %s", what, s->path);
	return r;
}

int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret, struct error *err)
{
	if (sqlite3_prepare_v3(s->db, sql, -1, 0, ret, NULL) != SQLITE_OK)
		return store_fail(s, "prepare a statement", err);
	return 0;
}

int store_step_done(struct store *s, sqlite3_stmt *stmt, struct error *err)
{
	if (sqlite3_step(stmt) != SQLITE_DONE)
		return store_fail(s, "write", err);
	return 0;
}

static int store_exec(struct store *s, const char *sql, const char *what, struct error *err)
{
	if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return store_fail(s, what, err);
	return 0;
}

/* Returns the command that moves the store and its journals to another directory. A journal that
 * stayed would be replayed into the next store. NULL when out of memory. */
static char *move_aside(const char *path, const char *where)
{
	_cleanup_free_ char *from = shell_quote(path), *dir = NULL, *to = NULL;
	const char *slash = strrchr(path, '/');

	dir = str_printf("%.*s/%s", (int)(slash ? slash - path : 1), slash ? path : ".", where);
	to = dir ? shell_quote(dir) : NULL;
	return from && to
		       ? str_printf(STORE_ASIDE "%s && mv --backup=numbered %s* %s", to, from, to)
		       : NULL;
}

static int fail_newer(const char *path, long version, struct error *err)
{
	_cleanup_free_ char *cause =
		str_printf("its schema has version %ld, this pyrod knows %d; with the newer pyro "
			   "it can be used again",
			version, store_n_migrations);
	_cleanup_free_ char *fix = move_aside(path, "newer");

	return error_set(err, ERROR_UNSUPPORTED, cause, fix,
		"the store %s was written by a newer pyro", path);
}

static int fail_damaged(const char *path, const char *cause, struct error *err)
{
	_cleanup_free_ char *fix = move_aside(path, "damaged");

	return error_set(err, ERROR_INTERNAL, cause, fix, "the store %s is damaged", path);
}

static uint32_t read_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Checks the file's header, before SQLite may write a journal beside it. Creates a missing file
 * with mode 0600. */
static int check_header(const char *path, struct error *err)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	uint8_t head[HEADER_SIZE];
	ssize_t n;

	if (fd < 0)
		return error_set_errno(err, error_code_for_errno(-errno), -errno,
			"check that pyrod may write its state directory",
			"cannot open the store %s", path);
	n = pread(fd, head, sizeof(head), 0);
	if (n < 0)
		return error_set_errno(err, ERROR_INTERNAL, -errno, "check the disk",
			"cannot read the store %s", path);
	if (n == 0)
		return 0;
	if (n < HEADER_SIZE || memcmp(head, "SQLite format 3", 16) != 0)
		return fail_damaged(
			path, "it does not begin with the header of an SQLite file", err);
	if (read_be32(head + HEADER_USER_VERSION) > (uint32_t)store_n_migrations)
		return fail_newer(path, read_be32(head + HEADER_USER_VERSION), err);
	if (read_be32(head + HEADER_APPLICATION_ID) != APPLICATION_ID &&
		read_be32(head + HEADER_APPLICATION_ID) != 0)
		return fail_damaged(path, "it belongs to another program", err);
	return 0;
}

static int query_int(struct store *s, const char *sql, int64_t *ret, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql, &stmt, err);

	if (r < 0)
		return r;
	if (sqlite3_step(stmt) != SQLITE_ROW)
		return store_fail(s, "read", err);
	*ret = sqlite3_column_int64(stmt, 0);
	return 0;
}

static int quick_check(struct store *s, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, "PRAGMA quick_check(1)", &stmt, err);
	const char *text;

	if (r < 0)
		return r;
	if (sqlite3_step(stmt) != SQLITE_ROW)
		return store_fail(s, "check", err);
	text = (const char *)sqlite3_column_text(stmt, 0);
	if (!text || !streq(text, "ok"))
		return fail_damaged(s->path, text, err);
	return 0;
}

static int migrate(struct store *s, struct error *err)
{
	int64_t version = 0;
	int r = query_int(s, "PRAGMA user_version", &version, err);

	if (r < 0)
		return r;
	if (version > store_n_migrations)
		return fail_newer(s->path, version, err);
	for (; version < store_n_migrations; version++) {
		_cleanup_free_ char *sql = str_printf("BEGIN IMMEDIATE; %s\n"
						      "PRAGMA application_id = %d; "
						      "PRAGMA user_version = %d; COMMIT;",
			store_migrations[version], APPLICATION_ID, (int)version + 1);

		if (!sql)
			return error_no_memory(err, "cannot update the store's schema");
		r = store_exec(s, sql, "update the schema", err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int open_db(struct store *s, struct error *err)
{
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
		    SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_NOFOLLOW;
	int r = check_header(s->path, err);

	if (r < 0)
		return r;
	if (sqlite3_open_v2(s->path, &s->db, flags, NULL) != SQLITE_OK)
		return store_fail(s, "open the database", err);
	(void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	r = store_exec(s,
		"PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF;"
		"PRAGMA cell_size_check = ON; PRAGMA foreign_keys = ON;",
		"set up the connection", err);
	if (r >= 0)
		r = migrate(s, err);
	if (r >= 0)
		r = store_exec(s, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
			"set up the journal", err);
	if (r >= 0)
		r = quick_check(s, err);
	return r;
}

/* Turns SQLite's errors at opening into errors that an admin can act on. */
static int open_store(struct store *s, struct error *err)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	int r = open_db(s, &why);

	if (r == -EUCLEAN)
		return fail_damaged(s->path, why.cause, err);
	if (r == -EBUSY)
		return error_set(err, ERROR_INTERNAL, "another process holds it open",
			"stop the other pyrod first", "the store %s is in use", s->path);
	if (r < 0)
		error_move(err, &why);
	return r;
}

static void op_fail(struct store_op *op, int r, const struct error *why)
{
	error_clear(&op->err);
	op->r = r;
	(void)error_copy(&op->err, why);
}

static int run_op(struct store *s, struct store_op *op)
{
	int r = store_exec(s, "SAVEPOINT call", "begin", &op->err);

	if (r < 0)
		return r;
	r = op->run(s, op, &op->err);
	if (sqlite3_get_autocommit(s->db))
		return r < 0 ? r : -EIO; /* SQLite has rolled the whole transaction back */
	if (r < 0)
		(void)sqlite3_exec(s->db, "ROLLBACK TO call", NULL, NULL, NULL);
	if (sqlite3_exec(s->db, "RELEASE call", NULL, NULL, NULL) != SQLITE_OK)
		return store_fail(s, "end a call", &op->err);
	return r;
}

static int run_calls(struct store *s, struct op_list *batch, struct error *err)
{
	struct store_op *op;
	int r = store_exec(s, "BEGIN IMMEDIATE", "begin", err);

	if (r < 0)
		return r;
	STAILQ_FOREACH(op, batch, entry)
	{
		op->r = run_op(s, op);
		if (sqlite3_get_autocommit(s->db)) {
			(void)error_copy(err, &op->err);
			return op->r;
		}
	}
	crash_point();
	r = store_exec(s, "COMMIT", "commit", err);
	crash_point();
	if (r < 0)
		(void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

/* Runs the batch in one transaction. If that does not commit, all its calls fail. */
static void run_batch(struct store *s, struct op_list *batch)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	struct store_op *op;
	int r;

	if (s->read_only)
		r = error_set(&why, ERROR_INTERNAL, "an earlier write did not reach the disk",
			"check the disk, then restart pyrod",
			"the store %s accepts no more changes", s->path);
	else
		r = run_calls(s, batch, &why);
	if (r >= 0)
		return;
	STAILQ_FOREACH(op, batch, entry)
	op_fail(op, r, &why);
}

static void take_batch(struct store *s, struct op_list *ret)
{
	STAILQ_INIT(ret);
	for (int n = 0; n < BATCH_MAX && !STAILQ_EMPTY(&s->queue); n++) {
		struct store_op *op = STAILQ_FIRST(&s->queue);

		STAILQ_REMOVE_HEAD(&s->queue, entry);
		STAILQ_INSERT_TAIL(ret, op, entry);
	}
}

static void *store_main(void *arg)
{
	struct store *s = arg;
	struct op_list batch;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (STAILQ_EMPTY(&s->queue) && !s->stop)
			pthread_cond_wait(&s->wake, &s->lock);
		if (STAILQ_EMPTY(&s->queue))
			break;
		take_batch(s, &batch);
		pthread_mutex_unlock(&s->lock);
		run_batch(s, &batch);
		pthread_mutex_lock(&s->lock);
		STAILQ_CONCAT(&s->done, &batch);
		(void)eventfd_write(s->event_fd, 1);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static void op_free(struct store_op *op)
{
	error_clear(&op->err);
	op->free(op);
}

static int on_done(
	_unused_ sd_event_source *source, int fd, _unused_ uint32_t revents, void *userdata)
{
	struct store *s = userdata;
	struct op_list done = STAILQ_HEAD_INITIALIZER(done);
	eventfd_t count;

	(void)eventfd_read(fd, &count);
	pthread_mutex_lock(&s->lock);
	STAILQ_CONCAT(&done, &s->done);
	pthread_mutex_unlock(&s->lock);
	while (!STAILQ_EMPTY(&done)) {
		struct store_op *op = STAILQ_FIRST(&done);

		STAILQ_REMOVE_HEAD(&done, entry);
		if (op->done)
			op->done(op->r, op->r < 0 ? &op->err : NULL, op->userdata);
		op_free(op);
	}
	return 0;
}

/* Starts the thread with all signals blocked: they belong to the loop. */
static int start_thread(struct store *s)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&s->thread, NULL, store_main, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->thread_runs = r == 0;
	return -r;
}

int store_new(sd_event *event, const char *path, struct store **ret, struct error *err)
{
	struct store *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return error_no_memory(err, "cannot open the store");
	s->event_fd = -EBADF;
	STAILQ_INIT(&s->queue);
	STAILQ_INIT(&s->done);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->path = strdup(path);
	r = s->path ? open_store(s, err) : -ENOMEM;
	if (r >= 0) {
		s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = s->event_fd < 0 ? -errno : 0;
	}
	if (r >= 0)
		r = sd_event_add_io(event, &s->done_event, s->event_fd, EPOLLIN, on_done, s);
	if (r >= 0)
		r = start_thread(s);
	if (r < 0) {
		error_set_errno(
			err, ERROR_INTERNAL, r, "restart pyrod", "cannot open the store %s", path);
		store_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct store *store_free(struct store *s)
{
	struct store_op *op;

	if (!s)
		return NULL;
	if (s->thread_runs) {
		pthread_mutex_lock(&s->lock);
		s->stop = true;
		pthread_cond_signal(&s->wake);
		pthread_mutex_unlock(&s->lock);
		pthread_join(s->thread, NULL);
	}
	while ((op = STAILQ_FIRST(&s->done))) {
		STAILQ_REMOVE_HEAD(&s->done, entry);
		op_free(op);
	}
	sd_event_source_disable_unref(s->done_event);
	fd_close(s->event_fd);
	(void)sqlite3_close_v2(s->db);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
	return NULL;
}

int store_queue(struct store *s, struct store_op *op)
{
	pthread_mutex_lock(&s->lock);
	STAILQ_INSERT_TAIL(&s->queue, op, entry);
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int run_ping(
	_unused_ struct store *s, _unused_ struct store_op *op, _unused_ struct error *err)
{
	return 0;
}

static void free_ping(struct store_op *op)
{
	free(op);
}

int store_ping(struct store *s, store_done_fn done, void *userdata)
{
	struct store_op *op = calloc(1, sizeof(*op));

	if (!op)
		return -ENOMEM;
	op->run = run_ping;
	op->free = free_ping;
	op->done = done;
	op->userdata = userdata;
	return store_queue(s, op);
}
