/* SPDX-License-Identifier: MIT */
/*
 * The table of workspaces. Called by core/workspace.c. What must stay true: a row is put before its
 * machine's row and deleted with it, in one transaction (vm.c).
 */

#include "daemon/store/table.h"

#include "daemon/store/op.h"

static const struct column columns[] = {
	COLUMN(workspace_row, id),
	COLUMN(workspace_row, owner_uid),
	COLUMN_OR_NULL(workspace_row, name),
	COLUMN(workspace_row, labels),
	COLUMN(workspace_row, commands),
	COLUMN(workspace_row, shared),
};

const struct table workspace_table = {
	.name = "workspace",
	.noun = "workspaces",
	.order = "id",
	.columns = columns,
	.n_columns = ARRAY_SIZE(columns),
	.row_size = sizeof(struct workspace_row),
	/* A row whose deletion failed after a failed creation would keep its name. */
	.before_put = "DELETE FROM workspace WHERE id != ?1 AND owner_uid = ?2 AND name = ?3 "
		      "AND id NOT IN (SELECT id FROM vm)",
};

void workspace_row_done(struct workspace_row *row)
{
	table_row_done(&workspace_table, row);
}

int workspace_row_copy(struct workspace_row *dst, const struct workspace_row *src)
{
	return table_row_copy(&workspace_table, dst, src);
}

/* Runs a statement and returns how many rows it changed. */
static int change(struct store *s, const char *sql, struct error *err)
{
	_cleanup_stmt_ sqlite3_stmt *stmt = NULL;
	int r = store_prepare(s, sql, &stmt, err);

	if (r >= 0)
		r = store_step_done(s, stmt, err);
	return r < 0 ? r : sqlite3_changes(sqlite3_db_handle(stmt));
}

int store_workspace_repair(struct store *s, struct error *err)
{
	int r = change(s,
		"DELETE FROM workspace WHERE id NOT IN (SELECT id FROM vm WHERE noun = "
		"'workspace')",
		err);

	if (r < 0)
		return r;
	return change(s,
		"INSERT INTO workspace (id, owner_uid, name, labels, commands, shared) SELECT id, "
		"owner_uid, NULL, '{}', 0, 0 FROM vm WHERE noun = 'workspace' AND id NOT IN "
		"(SELECT id FROM workspace)",
		err);
}

int store_workspace_load(
	struct store *s, struct workspace_row **ret, size_t *ret_n, struct error *err)
{
	void *rows;
	int r = table_load(s, &workspace_table, &rows, ret_n, err);

	if (r >= 0)
		*ret = rows;
	return r;
}

int store_workspace_put(
	struct store *s, const struct workspace_row *row, store_done_fn done, void *userdata)
{
	return table_put(s, &workspace_table, row, done, userdata);
}

int store_workspace_delete(struct store *s, const char *id, store_done_fn done, void *userdata)
{
	return table_delete(s, &workspace_table, id, done, userdata);
}
