/* SPDX-License-Identifier: MIT */
/*
 * Workspaces as JSON: the results of workspace.* (contract.md section 4). Called by rpc/. What must
 * stay true: a list fits a reply, however long labels and commands are.
 */

#include "daemon/core/workspace-internal.h"

#include "daemon/core/command.h"
#include "daemon/core/vm.h"
#include "proto/json.h"
#include "proto/limits.h"

#define LIST_BYTES_WITH_COMMANDS (LIMIT_REPLY_BYTES / 2)
#define LIST_BYTES               (LIMIT_REPLY_BYTES - 64 * 1024) /* the rest: the reply around it */

/* As replies are sent. */
#define REPLY_FORMAT (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)

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

/* Leaves out its commands, but for their number. */
static int leave_out_commands(json_object *o)
{
	int r = json_add(o, "running", json_object_new_array());

	return r < 0 ? r : json_add(o, "last_command", NULL);
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

/* Appends a row and adds its length. Returns 0 with *bytes above max if it does not fit. */
static int add_row(
	const struct workspace *ws, bool brief, size_t max, json_object *list, size_t *bytes)
{
	_cleanup_json_ json_object *o = NULL;
	int r = workspace_json(ws, &o);
	size_t n;

	if (r >= 0 && brief)
		r = leave_out_commands(o);
	if (r < 0)
		return r;
	if (!json_object_to_json_string_length(o, REPLY_FORMAT, &n))
		return -ENOMEM;
	*bytes += n + 1; /* with the comma */
	if (*bytes > max)
		return 0;
	if (json_object_array_add(list, o) < 0)
		return -ENOMEM;
	TAKE_PTR(o);
	return 0;
}

/* Makes the list of as many as max bytes hold. */
static int make_list(const struct workspace **sorted, size_t n, bool brief, size_t max,
	json_object **ret, bool *ret_whole)
{
	_cleanup_json_ json_object *list = json_object_new_array();
	size_t bytes = 0;
	int r = list ? 0 : -ENOMEM;

	for (size_t i = 0; r >= 0 && bytes <= max && i < n; i++)
		r = add_row(sorted[i], brief, max, list, &bytes);
	if (r < 0)
		return r;
	*ret_whole = bytes <= max;
	*ret = TAKE_PTR(list);
	return 0;
}

/* Makes the list with their commands, without them if it is long, and not whole if it is too long
 * even then. */
static int make_fitting(
	const struct workspace **sorted, size_t n, json_object **ret, bool *ret_whole)
{
	_cleanup_json_ json_object *list = NULL;
	bool whole = true;
	int r = make_list(sorted, n, false, LIST_BYTES_WITH_COMMANDS, &list, &whole);

	if (r >= 0 && !whole) {
		json_object_put(TAKE_PTR(list));
		r = make_list(sorted, n, true, LIST_BYTES, &list, &whole);
	}
	if (r < 0)
		return r;
	*ret_whole = whole;
	*ret = TAKE_PTR(list);
	return 0;
}

static int make_filtered(struct core *core, const struct workspace_filter *filter,
	json_object **ret, bool *ret_whole)
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
	qsort(sorted, n, sizeof(*sorted), by_activity);
	return make_fitting(sorted, n, ret, ret_whole);
}

int workspace_list_json(struct manager *m, const struct workspace_filter *filter, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_json_ json_object *list = NULL;
	bool whole = true;
	int r = o ? make_filtered(m->core, filter, &list, &whole) : -ENOMEM;

	if (r >= 0)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(list));
	if (r >= 0)
		r = json_add(o, "workspaces", TAKE_PTR(list));
	if (r >= 0 && !whole)
		r = json_add_bool(o, "truncated", true);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}
