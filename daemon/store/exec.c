/* SPDX-License-Identifier: MIT */
/*
 * The table of commands. Called by core/run.c and machine/recover.c. What must stay true: rows are
 * deleted with their machine's row (vm.c), or earlier when their command was never started.
 */

#include "daemon/store/table.h"

static const struct column columns[] = {
	COLUMN(exec_row, id),
	COLUMN(exec_row, vm_id),
	COLUMN(exec_row, owner_uid),
	COLUMN(exec_row, channel),
	COLUMN(exec_row, command),
	COLUMN(exec_row, with_stdin),
	COLUMN(exec_row, live),
	COLUMN(exec_row, timeout_usec),
};

const struct table exec_table = {
	.name = "exec",
	.noun = "commands",
	.order = "vm_id, channel",
	.columns = columns,
	.n_columns = ARRAY_SIZE(columns),
	.row_size = sizeof(struct exec_row),
};

void exec_row_done(struct exec_row *row)
{
	table_row_done(&exec_table, row);
}

int store_exec_load(struct store *s, struct exec_row **ret, size_t *ret_n, struct error *err)
{
	void *rows;
	int r = table_load(s, &exec_table, &rows, ret_n, err);

	if (r >= 0)
		*ret = rows;
	return r;
}

int store_exec_put(struct store *s, const struct exec_row *row, store_done_fn done, void *userdata)
{
	return table_put(s, &exec_table, row, done, userdata);
}

int store_exec_forget(struct store *s, const char *id, store_done_fn done, void *userdata)
{
	return table_delete(s, &exec_table, id, done, userdata);
}
