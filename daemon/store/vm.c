/* SPDX-License-Identifier: MIT */
/*
 * The SQL of machines: load once at start, put (insert or replace), delete. Called by machine/machine.c
 * and machine/start.c. What must stay true: a queued row is a copy, so the caller may change its own at
 * once; puts and deletes of one machine reach the file in the order they were queued.
 */

#include "daemon/store/store.h"

#include "daemon/store/op.h"

enum { ROWS_MAX = 100000 };

static const char sql_columns[] =
	"SELECT id, owner_uid, environment, env_digest, kernel_hash, vcpu_count, mem_mib, disk_mib, "
	"ttl_seconds, created_usec, expires_usec, one_shot, state, accelerator, start_mode, uuid, "
	"sync, vmm_pid, vmm_start_time, boot_id, last_error, vmm_invocation, environment_version, "
	"stop_reason, active_usec FROM vm ORDER BY created_usec, id";
static const char sql_put[] =
	"INSERT OR REPLACE INTO vm VALUES "
	"(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,"
	"?23,?24,?25)";
static const char sql_delete[] = "DELETE FROM vm WHERE id = ?1";
static const char sql_delete_execs[] = "DELETE FROM exec WHERE vm_id = ?1";

struct vm_op {
	struct store_op op; /* first: the queue's view of it */
	struct vm_row row;  /* owned */
};

void vm_row_done(struct vm_row *row)
{
	free(row->environment);
	free(row->env_digest);
	free(row->kernel_hash);
	free(row->last_error);
	free(row->environment_version);
	memset(row, 0, sizeof(*row));
}

static int copy_string(char **dst, const char *src)
{
	*dst = src ? strdup(src) : NULL;
	return src && !*dst ? -ENOMEM : 0;
}

int vm_row_copy(struct vm_row *dst, const struct vm_row *src)
{
	struct vm_row row = *src;

	row.environment = row.env_digest = row.kernel_hash = row.last_error =
		row.environment_version = NULL;
	if (copy_string(&row.environment, src->environment) < 0 ||
		copy_string(&row.env_digest, src->env_digest) < 0 ||
		copy_string(&row.kernel_hash, src->kernel_hash) < 0 ||
		copy_string(&row.last_error, src->last_error) < 0 ||
		copy_string(&row.environment_version, src->environment_version) < 0) {
		vm_row_done(&row);
		return -ENOMEM;
	}
	*dst = row;
	return 0;
}

static int column_string(sqlite3_stmt *stmt, int column, char **ret)
{
	return copy_string(ret, (const char *)sqlite3_column_text(stmt, column));
}

static int column_fixed(sqlite3_stmt *stmt, int column, char *ret, size_t size)
{
	const char *text = (const char *)sqlite3_column_text(stmt, column);

	if (!text || strlen(text) >= size)
		return -EUCLEAN;
	memcpy(ret, text, strlen(text) + 1);
	return 0;
}

static int column_bytes(sqlite3_stmt *stmt, int column, uint8_t *ret, size_t size)
{
	const void *p = sqlite3_column_blob(stmt, column);

	if (!p || (size_t)sqlite3_column_bytes(stmt, column) != size)
		return -EUCLEAN;
	memcpy(ret, p, size);
	return 0;
}

static int read_text(sqlite3_stmt *stmt, struct vm_row *row)
{
	int r = column_fixed(stmt, 0, row->id, sizeof(row->id));

	if (r >= 0)
		r = column_string(stmt, 2, &row->environment);
	if (r >= 0)
		r = column_string(stmt, 3, &row->env_digest);
	if (r >= 0)
		r = column_string(stmt, 4, &row->kernel_hash);
	if (r >= 0)
		r = column_fixed(stmt, 12, row->state, sizeof(row->state));
	if (r >= 0)
		r = column_fixed(stmt, 13, row->accelerator, sizeof(row->accelerator));
	if (r >= 0)
		r = column_fixed(stmt, 14, row->start_mode, sizeof(row->start_mode));
	if (r >= 0)
		r = column_bytes(stmt, 15, row->uuid, sizeof(row->uuid));
	if (r >= 0)
		r = column_bytes(stmt, 16, row->sync, sizeof(row->sync));
	if (r >= 0)
		r = column_fixed(stmt, 19, row->boot_id, sizeof(row->boot_id));
	if (r >= 0)
		r = column_string(stmt, 20, &row->last_error);
	if (r >= 0)
		r = column_fixed(stmt, 21, row->vmm_invocation, sizeof(row->vmm_invocation));
	if (r >= 0)
		r = column_string(stmt, 22, &row->environment_version);
	if (r >= 0)
		r = column_fixed(stmt, 23, row->stop_reason, sizeof(row->stop_reason));
	return r;
}

static int read_row(sqlite3_stmt *stmt, struct vm_row *row)
{
	row->owner_uid = (uid_t)sqlite3_column_int64(stmt, 1);
	row->vcpu_count = (unsigned)sqlite3_column_int64(stmt, 5);
	row->mem_mib = (uint64_t)sqlite3_column_int64(stmt, 6);
	row->disk_mib = (uint64_t)sqlite3_column_int64(stmt, 7);
	row->ttl_seconds = sqlite3_column_int64(stmt, 8);
	row->created_usec = (uint64_t)sqlite3_column_int64(stmt, 9);
	row->expires_usec = (uint64_t)sqlite3_column_int64(stmt, 10);
	row->one_shot = sqlite3_column_int(stmt, 11) != 0;
	row->vmm_pid = (pid_t)sqlite3_column_int64(stmt, 17);
	row->vmm_start_time = (uint64_t)sqlite3_column_int64(stmt, 18);
	row->active_usec = (uint64_t)sqlite3_column_int64(stmt, 24);
	return read_text(stmt, row);
}

static void free_rows(struct vm_row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		vm_row_done(&rows[i]);
	free(rows);
}

/* Appends the row the statement stands at. */
static int append_row(sqlite3_stmt *stmt, struct vm_row **rows, size_t *n)
{
	struct vm_row *more;

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

int store_vm_load(struct store *s, struct vm_row **ret, size_t *ret_n, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	struct vm_row *rows = NULL;
	size_t n = 0;
	int r = store_prepare(s, sql_columns, &stmt, err);
	int rc = SQLITE_DONE;

	while (r >= 0 && (rc = sqlite3_step(stmt)) == SQLITE_ROW)
		r = append_row(stmt, &rows, &n);
	if (r >= 0 && rc != SQLITE_DONE)
		r = store_fail(s, "read machines", err);
	if (r < 0) {
		error_set_errno(err, ERROR_INTERNAL, r, "move the store away and start pyrod again",
			"cannot read the machines in the store");
		free_rows(rows, n);
		return r;
	}
	*ret = rows;
	*ret_n = n;
	return 0;
}

static void bind_text(sqlite3_stmt *stmt, int index, const char *text)
{
	(void)sqlite3_bind_text(stmt, index, text, -1, SQLITE_STATIC);
}

static void bind_row(sqlite3_stmt *stmt, const struct vm_row *row)
{
	bind_text(stmt, 1, row->id);
	(void)sqlite3_bind_int64(stmt, 2, row->owner_uid);
	bind_text(stmt, 3, row->environment);
	bind_text(stmt, 4, row->env_digest);
	bind_text(stmt, 5, row->kernel_hash);
	(void)sqlite3_bind_int64(stmt, 6, row->vcpu_count);
	(void)sqlite3_bind_int64(stmt, 7, (sqlite3_int64)row->mem_mib);
	(void)sqlite3_bind_int64(stmt, 8, (sqlite3_int64)row->disk_mib);
	(void)sqlite3_bind_int64(stmt, 9, row->ttl_seconds);
	(void)sqlite3_bind_int64(stmt, 10, (sqlite3_int64)row->created_usec);
	(void)sqlite3_bind_int64(stmt, 11, (sqlite3_int64)row->expires_usec);
	(void)sqlite3_bind_int(stmt, 12, row->one_shot);
	bind_text(stmt, 13, row->state);
	bind_text(stmt, 14, row->accelerator);
	bind_text(stmt, 15, row->start_mode);
	(void)sqlite3_bind_blob(stmt, 16, row->uuid, sizeof(row->uuid), SQLITE_STATIC);
	(void)sqlite3_bind_blob(stmt, 17, row->sync, sizeof(row->sync), SQLITE_STATIC);
	(void)sqlite3_bind_int64(stmt, 18, row->vmm_pid);
	(void)sqlite3_bind_int64(stmt, 19, (sqlite3_int64)row->vmm_start_time);
	bind_text(stmt, 20, row->boot_id);
	bind_text(stmt, 21, row->last_error);
	bind_text(stmt, 22, row->vmm_invocation);
	bind_text(stmt, 23, row->environment_version);
	bind_text(stmt, 24, row->stop_reason);
	(void)sqlite3_bind_int64(stmt, 25, (sqlite3_int64)row->active_usec);
}

/* A bind that failed leaves NULL, which the table's NOT NULL refuses, or the step reports it. */
static int run_put(struct store *s, struct store_op *op, struct error *err)
{
	struct vm_op *vm = (struct vm_op *)op;
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql_put, &stmt, err);

	if (r < 0)
		return r;
	bind_row(stmt, &vm->row);
	return store_step_done(s, stmt, err);
}

static int delete_by(struct store *s, const char *sql, const char *id, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql, &stmt, err);

	if (r < 0)
		return r;
	bind_text(stmt, 1, id);
	return store_step_done(s, stmt, err);
}

/* Its commands go with it, in one transaction. */
static int run_delete(struct store *s, struct store_op *op, struct error *err)
{
	struct vm_op *vm = (struct vm_op *)op;
	int r = delete_by(s, sql_delete_execs, vm->row.id, err);

	return r < 0 ? r : delete_by(s, sql_delete, vm->row.id, err);
}

static void free_vm_op(struct store_op *op)
{
	struct vm_op *vm = (struct vm_op *)op;

	vm_row_done(&vm->row);
	free(vm);
}

static struct vm_op *vm_op_new(store_done_fn done, void *userdata)
{
	struct vm_op *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->op.free = free_vm_op;
	vm->op.done = done;
	vm->op.userdata = userdata;
	return vm;
}

int store_vm_put(struct store *s, const struct vm_row *row, store_done_fn done, void *userdata)
{
	struct vm_op *vm = vm_op_new(done, userdata);

	if (!vm)
		return -ENOMEM;
	vm->op.run = run_put;
	if (vm_row_copy(&vm->row, row) < 0) {
		free_vm_op(&vm->op);
		return -ENOMEM;
	}
	return store_queue(s, &vm->op);
}

int store_vm_delete(struct store *s, const char *id, store_done_fn done, void *userdata)
{
	struct vm_op *vm = vm_op_new(done, userdata);

	if (!vm)
		return -ENOMEM;
	vm->op.run = run_delete;
	(void)snprintf(vm->row.id, sizeof(vm->row.id), "%s", id);
	return store_queue(s, &vm->op);
}
