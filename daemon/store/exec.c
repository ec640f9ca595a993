/* SPDX-License-Identifier: MIT */
/*
 * The table of commands. Called by core/ and machine/recover.c. What must stay true: rows are
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
	COLUMN(exec_row, kept),
	COLUMN(exec_row, sequence),
	COLUMN(exec_row, state),
	COLUMN_OR_NULL(exec_row, cwd),
	COLUMN_OR_NULL(exec_row, user),
	COLUMN(exec_row, started_usec),
	COLUMN(exec_row, ended_usec),
	COLUMN(exec_row, duration_usec),
	COLUMN(exec_row, exit_code),
	COLUMN(exec_row, timed_out),
	COLUMN(exec_row, ended_by),
	COLUMN(exec_row, limit_name),
	COLUMN(exec_row, limit_value),
	COLUMN(exec_row, limit_flag),
	COLUMN(exec_row, background_left),
	COLUMN(exec_row, stdout_bytes),
	COLUMN(exec_row, stderr_bytes),
	COLUMN(exec_row, execution_mode),
	COLUMN(exec_row, accelerator),
	COLUMN(exec_row, start_mode),
	COLUMN(exec_row, stdin_bytes),
	COLUMN_OR_NULL(exec_row, last_error),
};

const struct table exec_table = {
	.name = "exec",
	.noun = "commands",
	.order = "vm_id, sequence, channel",
	.columns = columns,
	.n_columns = ARRAY_SIZE(columns),
	.row_size = sizeof(struct exec_row),
};

void exec_row_done(struct exec_row *row)
{
	table_row_done(&exec_table, row);
}

int exec_row_copy(struct exec_row *dst, const struct exec_row *src)
{
	return table_row_copy(&exec_table, dst, src);
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
