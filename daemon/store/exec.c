/* SPDX-License-Identifier: MIT */
/*
 * The SQL of commands: load once at start, put, forget. Called by core/run.c and machine/recover.c. What must stay
 * true: a queued row is a copy; rows go with their machine's (vm.c), in the same transaction, or before it when
 * their command was never started.
 */

#include "daemon/store/store.h"

#include "daemon/store/op.h"

enum { ROWS_MAX = 100000 };

static const char sql_columns[] =
	"SELECT id, vm_id, owner_uid, channel, command, with_stdin, live, timeout_usec FROM exec "
	"ORDER BY vm_id, channel";
static const char sql_forget[] = "DELETE FROM exec WHERE id = ?1";
static const char sql_put[] = "INSERT OR REPLACE INTO exec VALUES (?1,?2,?3,?4,?5,?6,?7,?8)";

struct exec_op {
	struct store_op op;  /* first: the queue's view of it */
	struct exec_row row; /* owned */
};

void exec_row_done(struct exec_row *row)
{
	free(row->command);
	memset(row, 0, sizeof(*row));
}

static int column_id(sqlite3_stmt *stmt, int column, char ret[16])
{
	const char *text = (const char *)sqlite3_column_text(stmt, column);

	if (!text || strlen(text) >= 16)
		return -EUCLEAN;
	memcpy(ret, text, strlen(text) + 1);
	return 0;
}

static int read_row(sqlite3_stmt *stmt, struct exec_row *row)
{
	const char *command = (const char *)sqlite3_column_text(stmt, 4);
	int r = column_id(stmt, 0, row->id);

	if (r >= 0)
		r = column_id(stmt, 1, row->vm_id);
	if (r < 0)
		return r;
	row->owner_uid = (uid_t)sqlite3_column_int64(stmt, 2);
	row->channel = (uint32_t)sqlite3_column_int64(stmt, 3);
	row->with_stdin = sqlite3_column_int(stmt, 5) != 0;
	row->live = sqlite3_column_int(stmt, 6) != 0;
	row->timeout_usec = (uint64_t)sqlite3_column_int64(stmt, 7);
	row->command = command ? strdup(command) : NULL;
	return row->command ? 0 : -ENOMEM;
}

static int append_row(sqlite3_stmt *stmt, struct exec_row **rows, size_t *n)
{
	struct exec_row *more;

	if (*n >= ROWS_MAX)
		return -E2BIG;
	more = reallocarray(*rows, *n + 1, sizeof(**rows));
	if (!more)
		return -ENOMEM;
	*rows = more;
	memset(&more[*n], 0, sizeof(*more));
	*n += 1;
	return read_row(stmt, &more[*n - 1]);
}

int store_exec_load(struct store *s, struct exec_row **ret, size_t *ret_n, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	struct exec_row *rows = NULL;
	size_t n = 0;
	int r = store_prepare(s, sql_columns, &stmt, err);
	int rc = SQLITE_DONE;

	while (r >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
		r = append_row(stmt, &rows, &n);
	if (r >= 0 && rc != SQLITE_DONE)
		r = store_fail(s, "read commands", err);
	if (r < 0) {
		error_set_errno(err, ERROR_INTERNAL, r, "move the store away and start pyrod again",
			"cannot read the commands in the store");
		for (size_t i = 0; i < n; i++)
			exec_row_done(&rows[i]);
		free(rows);
		return r;
	}
	*ret = rows;
	*ret_n = n;
	return 0;
}

/* A bind that failed leaves NULL, which the table's NOT NULL refuses. */
static int run_put(struct store *s, struct store_op *op, struct error *err)
{
	const struct exec_row *row = &((struct exec_op *)op)->row;
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql_put, &stmt, err);

	if (r < 0)
		return r;
	(void)sqlite3_bind_text(stmt, 1, row->id, -1, SQLITE_STATIC);
	(void)sqlite3_bind_text(stmt, 2, row->vm_id, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int64(stmt, 3, row->owner_uid);
	(void)sqlite3_bind_int64(stmt, 4, row->channel);
	(void)sqlite3_bind_text(stmt, 5, row->command, -1, SQLITE_STATIC);
	(void)sqlite3_bind_int(stmt, 6, row->with_stdin);
	(void)sqlite3_bind_int(stmt, 7, row->live);
	(void)sqlite3_bind_int64(stmt, 8, (sqlite3_int64)row->timeout_usec);
	return store_step_done(s, stmt, err);
}

static void free_exec_op(struct store_op *op)
{
	struct exec_op *x = (struct exec_op *)op;

	exec_row_done(&x->row);
	free(x);
}

static struct exec_op *new_op(int (*run)(struct store *, struct store_op *, struct error *),
	store_done_fn done, void *userdata)
{
	struct exec_op *x = calloc(1, sizeof(*x));

	if (x)
		x->op = (struct store_op){
			.run = run, .free = free_exec_op, .done = done, .userdata = userdata
		};
	return x;
}

int store_exec_put(struct store *s, const struct exec_row *row, store_done_fn done, void *userdata)
{
	struct exec_op *x = new_op(run_put, done, userdata);

	if (!x)
		return -ENOMEM;
	x->row = *row;
	x->row.command = strdup(row->command);
	if (!x->row.command) {
		free_exec_op(&x->op);
		return -ENOMEM;
	}
	return store_queue(s, &x->op);
}

static int run_forget(struct store *s, struct store_op *op, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql_forget, &stmt, err);

	if (r < 0)
		return r;
	(void)sqlite3_bind_text(stmt, 1, ((struct exec_op *)op)->row.id, -1, SQLITE_STATIC);
	return store_step_done(s, stmt, err);
}

int store_exec_forget(struct store *s, const char *id, store_done_fn done, void *userdata)
{
	struct exec_op *x = new_op(run_forget, done, userdata);

	if (!x)
		return -ENOMEM;
	(void)snprintf(x->row.id, sizeof(x->row.id), "%s", id);
	return store_queue(s, &x->op);
}
