/* SPDX-License-Identifier: MIT */
/*
 * Makes SQL and rows from a table's description. Called by the files of the nouns (vm.c, exec.c, workspace.c).
 *
 * What must stay true: a queued row is a copy, so the caller may change its own at once; puts and
 * deletes of one row reach the file in the order of their calls; a value that does not fit its
 * member makes the load fail, and is never truncated.
 */

#include "daemon/store/table.h"

#include <assert.h>
#include <stdarg.h>

#include "daemon/store/op.h"

enum { ROWS_MAX = 100000, SQL_MAX = 4096 };

struct table_op {
	struct store_op op;    /* first: the queue's view of it */
	const struct table *t; /* static */
	char key[32];          /* for a delete */
	void *row;             /* owned; for a put */
};

static void *member_of(const void *row, const struct column *c)
{
	return (char *)(uintptr_t)row + c->offset;
}

static char **string_of(const void *row, const struct column *c)
{
	return member_of(row, c);
}

void table_row_done(const struct table *t, void *row)
{
	for (size_t i = 0; i < t->n_columns; i++)
		if (t->columns[i].type == COLUMN_STRING)
			free(*string_of(row, &t->columns[i]));
	memset(row, 0, t->row_size);
}

/* Replaces the borrowed strings of row by copies. Without memory the remaining ones become NULL. */
static int own_strings(const struct table *t, void *row)
{
	int r = 0;

	for (size_t i = 0; i < t->n_columns; i++) {
		char **s =
			t->columns[i].type == COLUMN_STRING ? string_of(row, &t->columns[i]) : NULL;

		if (!s || !*s)
			continue;
		*s = r < 0 ? NULL : strdup(*s);
		if (!*s)
			r = -ENOMEM;
	}
	return r;
}

static int copy_into(const struct table *t, void *row, const void *src)
{
	int r;

	memcpy(row, src, t->row_size);
	r = own_strings(t, row);
	if (r < 0)
		table_row_done(t, row);
	return r;
}

int table_row_copy(const struct table *t, void *dst, const void *src)
{
	_cleanup_free_ void *row = malloc(t->row_size);
	int r = row ? copy_into(t, row, src) : -ENOMEM;

	if (r >= 0)
		memcpy(dst, row, t->row_size);
	return r;
}

/* The text of a statement. Too long a description is a bug: an assert. */
struct sql {
	char text[SQL_MAX];
	size_t n;
};

_printf_(2, 3) static void sql_add(struct sql *q, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(q->text + q->n, sizeof(q->text) - q->n, format, ap);
	va_end(ap);
	assert(n >= 0 && (size_t)n < sizeof(q->text) - q->n);
	q->n += (size_t)n;
}

static void sql_add_names(struct sql *q, const struct table *t)
{
	for (size_t i = 0; i < t->n_columns; i++)
		sql_add(q, "%s%s", i ? ", " : "", t->columns[i].name);
}

static void sql_select(struct sql *q, const struct table *t)
{
	*q = (struct sql){ .n = 0 };
	sql_add(q, "SELECT ");
	sql_add_names(q, t);
	sql_add(q, " FROM %s ORDER BY %s", t->name, t->order);
}

static void sql_put(struct sql *q, const struct table *t)
{
	*q = (struct sql){ .n = 0 };
	sql_add(q, "INSERT INTO %s (", t->name);
	sql_add_names(q, t);
	sql_add(q, ") VALUES (");
	for (size_t i = 0; i < t->n_columns; i++)
		sql_add(q, "%s?%zu", i ? ", " : "", i + 1);
	sql_add(q, ") ON CONFLICT (%s) DO UPDATE SET ", t->columns[0].name);
	for (size_t i = 1; i < t->n_columns; i++)
		sql_add(q, "%s%s = excluded.%s", i > 1 ? ", " : "", t->columns[i].name,
			t->columns[i].name);
}

static int read_text(sqlite3_stmt *stmt, int i, const struct column *c, void *member)
{
	const char *text = (const char *)sqlite3_column_text(stmt, i);
	bool is_null = sqlite3_column_type(stmt, i) == SQLITE_NULL;

	if (!text && !is_null)
		return -ENOMEM;
	if (c->type == COLUMN_STRING) {
		if (is_null)
			return c->nullable ? 0 : -EUCLEAN;
		*(char **)member = strdup(text);
		return *(char **)member ? 0 : -ENOMEM;
	}
	if (is_null || strlen(text) >= c->size)
		return -EUCLEAN;
	memcpy(member, text, strlen(text) + 1);
	return 0;
}

static int read_bytes(sqlite3_stmt *stmt, int i, const struct column *c, void *member)
{
	const void *p = sqlite3_column_blob(stmt, i);

	if (!p || (size_t)sqlite3_column_bytes(stmt, i) != c->size)
		return -EUCLEAN;
	memcpy(member, p, c->size);
	return 0;
}

static int read_int(sqlite3_stmt *stmt, int i, const struct column *c, void *member)
{
	int64_t v = sqlite3_column_int64(stmt, i);

	switch (c->type) {
	case COLUMN_BOOL:
		if (v != 0 && v != 1)
			return -EUCLEAN;
		*(bool *)member = v != 0;
		return 0;
	case COLUMN_INT32:
		if (v < INT32_MIN || v > INT32_MAX)
			return -EUCLEAN;
		*(int32_t *)member = (int32_t)v;
		return 0;
	case COLUMN_UINT32:
		if (v < 0 || v > UINT32_MAX)
			return -EUCLEAN;
		*(uint32_t *)member = (uint32_t)v;
		return 0;
	default: memcpy(member, &v, sizeof(v)); return 0;
	}
}

static int read_column(sqlite3_stmt *stmt, int i, const struct column *c, void *row)
{
	void *member = member_of(row, c);

	switch (c->type) {
	case COLUMN_STRING:
	case COLUMN_CHARS: return read_text(stmt, i, c, member);
	case COLUMN_BYTES: return read_bytes(stmt, i, c, member);
	default: return read_int(stmt, i, c, member);
	}
}

/* Appends the statement's current row. */
static int append_row(sqlite3_stmt *stmt, const struct table *t, char **rows, size_t *n)
{
	char *more, *row;
	int r = 0;

	if (*n >= ROWS_MAX)
		return -E2BIG;
	more = reallocarray(*rows, *n + 1, t->row_size);
	if (!more)
		return -ENOMEM;
	*rows = more;
	row = more + *n * t->row_size;
	memset(row, 0, t->row_size);
	*n += 1;
	for (size_t i = 0; i < t->n_columns && r >= 0; i++)
		r = read_column(stmt, (int)i, &t->columns[i], row);
	return r;
}

int table_load(struct store *s, const struct table *t, void **ret, size_t *ret_n, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	char *rows = NULL, what[64];
	struct sql q;
	size_t n = 0;
	int r, rc = SQLITE_DONE;

	(void)snprintf(what, sizeof(what), "read %s", t->noun);
	sql_select(&q, t);
	r = store_prepare(s, q.text, &stmt, err);
	while (r >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
		r = append_row(stmt, t, &rows, &n);
	if (r >= 0 && rc != SQLITE_DONE)
		r = store_fail(s, what, err);
	if (r < 0) {
		error_set_errno(err, ERROR_INTERNAL, r, "move the store away and start pyrod again",
			"cannot read the %s in the store", t->noun);
		for (size_t i = 0; i < n; i++)
			table_row_done(t, rows + i * t->row_size);
		free(rows);
		return r;
	}
	*ret = rows;
	*ret_n = n;
	return 0;
}

static int bind_column(sqlite3_stmt *stmt, int i, const struct column *c, const void *row)
{
	const void *member = member_of(row, c);

	switch (c->type) {
	case COLUMN_STRING:
		return sqlite3_bind_text(stmt, i, *(char *const *)member, -1, SQLITE_STATIC);
	case COLUMN_CHARS: return sqlite3_bind_text(stmt, i, member, -1, SQLITE_STATIC);
	case COLUMN_BYTES: return sqlite3_bind_blob(stmt, i, member, (int)c->size, SQLITE_STATIC);
	case COLUMN_BOOL: return sqlite3_bind_int(stmt, i, *(const bool *)member);
	case COLUMN_INT32: return sqlite3_bind_int(stmt, i, *(const int32_t *)member);
	case COLUMN_UINT32: return sqlite3_bind_int64(stmt, i, *(const uint32_t *)member);
	default: return sqlite3_bind_int64(stmt, i, *(const int64_t *)member);
	}
}

/* Runs a statement whose parameters are the first columns of the row. */
static int run_with_row(
	struct store *s, const char *sql, const struct table_op *x, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql, &stmt, err);

	if (r < 0)
		return r;
	for (int i = 0; i < sqlite3_bind_parameter_count(stmt); i++)
		if (bind_column(stmt, i + 1, &x->t->columns[i], x->row) != SQLITE_OK)
			return store_fail(s, "bind a value", err);
	return store_step_done(s, stmt, err);
}

static int run_put(struct store *s, struct store_op *op, struct error *err)
{
	const struct table_op *x = (struct table_op *)op;
	int r = x->t->before_put ? run_with_row(s, x->t->before_put, x, err) : 0;
	struct sql q;

	if (r < 0)
		return r;
	sql_put(&q, x->t);
	return run_with_row(s, q.text, x, err);
}

static int run_by_key(struct store *s, const char *sql, const char *key, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql, &stmt, err);

	if (r < 0)
		return r;
	if (sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC) != SQLITE_OK)
		return store_fail(s, "bind a value", err);
	return store_step_done(s, stmt, err);
}

static int run_delete(struct store *s, struct store_op *op, struct error *err)
{
	const struct table_op *x = (struct table_op *)op;
	const char *const *also = x->t->also_delete;
	struct sql q = { .n = 0 };
	int r = 0;

	for (size_t i = 0; also && also[i] && r >= 0; i++)
		r = run_by_key(s, also[i], x->key, err);
	if (r < 0)
		return r;
	sql_add(&q, "DELETE FROM %s WHERE %s = ?1", x->t->name, x->t->columns[0].name);
	return run_by_key(s, q.text, x->key, err);
}

static void free_op(struct store_op *op)
{
	struct table_op *x = (struct table_op *)op;

	if (x->row)
		table_row_done(x->t, x->row);
	free(x->row);
	free(x);
}

static struct table_op *new_op(const struct table *t, store_done_fn done, void *userdata)
{
	struct table_op *x = calloc(1, sizeof(*x));

	if (x) {
		x->op = (struct store_op){ .free = free_op, .done = done, .userdata = userdata };
		x->t = t;
	}
	return x;
}

int table_put(
	struct store *s, const struct table *t, const void *row, store_done_fn done, void *userdata)
{
	struct table_op *x = new_op(t, done, userdata);

	if (!x)
		return -ENOMEM;
	x->op.run = run_put;
	x->row = calloc(1, t->row_size);
	if (!x->row || copy_into(t, x->row, row) < 0) {
		free_op(&x->op);
		return -ENOMEM;
	}
	return store_queue(s, &x->op);
}

int table_delete(
	struct store *s, const struct table *t, const char *key, store_done_fn done, void *userdata)
{
	struct table_op *x = new_op(t, done, userdata);

	if (!x)
		return -ENOMEM;
	x->op.run = run_delete;
	assert(strlen(key) < sizeof(x->key));
	memcpy(x->key, key, strlen(key) + 1);
	return store_queue(s, &x->op);
}
