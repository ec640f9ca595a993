/* SPDX-License-Identifier: MIT */
/*
 * The table of machines. Called by machine/. What must stay true: the rows of a machine's commands
 * and of its workspace are deleted with its own, in one transaction. A new column needs a migration in sql/, its member
 * in store.h, and its line here.
 */

#include "daemon/store/table.h"

static const struct column columns[] = {
	COLUMN(vm_row, id),
	COLUMN(vm_row, owner_uid),
	COLUMN(vm_row, environment),
	COLUMN_OR_NULL(vm_row, env_digest),
	COLUMN_OR_NULL(vm_row, kernel_hash),
	COLUMN(vm_row, vcpu_count),
	COLUMN(vm_row, mem_mib),
	COLUMN(vm_row, disk_mib),
	COLUMN(vm_row, ttl_seconds),
	COLUMN(vm_row, created_usec),
	COLUMN(vm_row, expires_usec),
	COLUMN(vm_row, state),
	COLUMN(vm_row, accelerator),
	COLUMN(vm_row, start_mode),
	COLUMN(vm_row, uuid),
	COLUMN(vm_row, sync),
	COLUMN(vm_row, vmm_pid),
	COLUMN(vm_row, vmm_start_time),
	COLUMN(vm_row, boot_id),
	COLUMN_OR_NULL(vm_row, last_error),
	COLUMN(vm_row, vmm_invocation),
	COLUMN_OR_NULL(vm_row, environment_version),
	COLUMN(vm_row, stop_reason),
	COLUMN(vm_row, active_usec),
	COLUMN(vm_row, driver),
	COLUMN(vm_row, noun),
};

static const char *const also_delete[] = {
	"DELETE FROM exec WHERE vm_id = ?1",
	"DELETE FROM workspace WHERE id = ?1",
	NULL,
};

const struct table vm_table = {
	.name = "vm",
	.noun = "machines",
	.order = "created_usec, id",
	.columns = columns,
	.n_columns = ARRAY_SIZE(columns),
	.row_size = sizeof(struct vm_row),
	.also_delete = also_delete,
};

void vm_row_done(struct vm_row *row)
{
	table_row_done(&vm_table, row);
}

int vm_row_copy(struct vm_row *dst, const struct vm_row *src)
{
	return table_row_copy(&vm_table, dst, src);
}

int store_vm_load(struct store *s, struct vm_row **ret, size_t *ret_n, struct error *err)
{
	void *rows;
	int r = table_load(s, &vm_table, &rows, ret_n, err);

	if (r >= 0)
		*ret = rows;
	return r;
}

int store_vm_put(struct store *s, const struct vm_row *row, store_done_fn done, void *userdata)
{
	return table_put(s, &vm_table, row, done, userdata);
}

int store_vm_delete(struct store *s, const char *id, store_done_fn done, void *userdata)
{
	return table_delete(s, &vm_table, id, done, userdata);
}
