/* SPDX-License-Identifier: MIT */
/*
 * Workspaces as JSON: the results of workspace.* (contract.md section 4). Called by rpc/.
 */

#include "daemon/core/workspace-internal.h"

#include "daemon/core/command.h"
#include "daemon/core/vm.h"
#include "proto/json.h"

static const struct vm_row *row_of(const struct workspace *ws)
{
	const struct machine *mc = workspace_machine(ws);

	return mc ? machine_row(mc) : &ws->made.plan;
}

static int add_seed(json_object *o)
{
	static const char *const texts[] = { "seed_path", "destination" };
	static const char *const numbers[] = { "entry_count", "bytes_written" };
	_cleanup_json_ json_object *seed = json_object_new_object();
	int r = seed ? json_add_str(seed, "mode", "empty") : -ENOMEM;

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(texts); i++)
		r = json_add_str(seed, texts[i], NULL);
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(numbers); i++)
		r = json_add_int(seed, numbers[i], 0);
	if (r >= 0)
		r = json_add(seed, "skipped", json_object_new_array());
	return r < 0 ? r : json_add(o, "workspace_seed", TAKE_PTR(seed));
}

static int add_names(const struct workspace *ws, json_object *o)
{
	int r = json_add_str(o, "workspace_id", ws->row.id);

	if (r >= 0)
		r = json_add_str(o, "name", ws->row.name);
	if (r >= 0)
		r = json_add(o, "labels", json_object_get(ws->labels));
	if (r >= 0)
		r = json_add_bool(o, "shared", ws->row.shared);
	return r;
}

static int add_disk(const struct workspace *ws, json_object *o)
{
	const struct machine *mc = workspace_machine(ws);
	uint64_t bytes = 0;

	if (!mc || machine_disk_bytes(mc, &bytes) < 0)
		return json_add(o, "disk_used_bytes", NULL);
	return json_add_int(o, "disk_used_bytes", (int64_t)bytes);
}

static int add_phase(const struct workspace *ws, json_object *o)
{
	int percent = -1;
	const char *phase = workspace_phase(ws, &percent);
	int r = phase ? json_add_str(o, "phase", phase) : 0;

	if (r < 0 || !phase)
		return r;
	return json_add(o, "percent", percent < 0 ? NULL : json_object_new_int(percent));
}

/* Fields of later versions: they have no value yet. */
static int add_later(json_object *o)
{
	static const char *const absent[] = { "changed", "deletes_at", "owner", "created_by" };
	int r = json_add(o, "shells", json_object_new_array());

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(absent); i++)
		r = json_add(o, absent[i], NULL);
	return r;
}

int workspace_json(const struct workspace *ws, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	const struct vm_row *row = row_of(ws);
	int r = o ? add_names(ws, o) : -ENOMEM;

	if (r >= 0)
		r = vm_add_fields(row, workspace_machine(ws), o);
	if (r >= 0)
		r = json_add_str(o, "workspace_path", "/workspace");
	if (r >= 0)
		r = add_seed(o);
	if (r >= 0)
		r = json_add_time(o, "last_activity_at", row->active_usec);
	if (r >= 0)
		r = commands_add_json(workspace_machine(ws), o);
	if (r >= 0)
		r = add_disk(ws, o);
	if (r >= 0)
		r = add_later(o);
	if (r >= 0)
		r = add_phase(ws, o);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}

static bool has_labels(const struct workspace *ws, json_object *labels)
{
	if (!labels)
		return true;
	json_object_object_foreach(labels, key, value)
	{
		json_object *own = json_get(ws->labels, key);

		if (!own || !json_object_equal(own, value))
			return false;
	}
	return true;
}

/* Latest activity first. */
static int by_activity(const void *a, const void *b)
{
	const struct workspace *x = *(const struct workspace *const *)a,
			       *y = *(const struct workspace *const *)b;
	uint64_t at_x = row_of(x)->active_usec, at_y = row_of(y)->active_usec;

	return at_x != at_y ? (at_x < at_y ? 1 : -1) : strcmp(x->row.id, y->row.id);
}

static int add_sorted(const struct workspace **sorted, size_t n, json_object *list)
{
	qsort(sorted, n, sizeof(*sorted), by_activity);
	for (size_t i = 0; i < n; i++) {
		json_object *o = NULL;
		int r = workspace_json(sorted[i], &o);

		if (r < 0)
			return r;
		if (json_object_array_add(list, o) < 0) {
			json_object_put(o);
			return -ENOMEM;
		}
	}
	return 0;
}

static int add_workspaces(
	struct core *core, const struct workspace_filter *filter, json_object *list)
{
	_cleanup_free_ const struct workspace **sorted = NULL;
	struct workspace *ws;
	size_t n = 0;

	LIST_FOREACH (ws, &core->workspaces, entry)
		n++;
	sorted = calloc(n + 1, sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	n = 0;
	LIST_FOREACH (ws, &core->workspaces, entry)
		if ((filter->all || ws->row.owner_uid == filter->uid) &&
			has_labels(ws, filter->labels))
			sorted[n++] = ws;
	return add_sorted(sorted, n, list);
}

int workspace_list_json(struct manager *m, const struct workspace_filter *filter, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_json_ json_object *list = json_object_new_array();
	int r = o && list ? add_workspaces(m->core, filter, list) : -ENOMEM;

	if (r >= 0)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(list));
	if (r >= 0)
		r = json_add(o, "workspaces", TAKE_PTR(list));
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}
