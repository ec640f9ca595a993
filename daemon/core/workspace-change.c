/* SPDX-License-Identifier: MIT */
/*
 * What of a workspace can be changed: its name, its labels, whether MCP clients may use it; and the
 * commits of its row. Called by workspace.c and rpc/.
 *
 * What must stay true: a change is visible at once and counts for what follows, and is reported
 * after its commit; what could not be committed is taken back; a name is unique for its owner.
 */

#include "daemon/core/workspace-internal.h"

#include "daemon/crash.h"
#include "proto/json.h"
#include "proto/limits.h"

/* Commits */

struct workspace_save {
	LIST_ENTRY(workspace_save) entry;
	struct workspace *ws;     /* borrowed: whose list this is in */
	struct workspace_row row; /* owned */
	store_done_fn done;
	void *userdata;
};

static struct workspace_save *save_free(struct workspace_save *s)
{
	if (!s)
		return NULL;
	if (s->entry.le_prev)
		LIST_REMOVE(s, entry);
	workspace_row_done(&s->row);
	free(s);
	return NULL;
}
DEFINE_CLEANUP(struct workspace_save *, save_free)

/* Makes row what was committed last. */
static void take_back(struct workspace *ws)
{
	struct workspace_row row = { 0 };
	json_object *labels;

	if (ws->saved.id[0] == '\0' || workspace_row_copy(&row, &ws->saved) < 0)
		return; /* never committed; or out of memory, and the next start reads the store */
	labels = workspace_parse_labels(row.labels);
	if (!labels) {
		workspace_row_done(&row);
		return;
	}
	json_object_put(ws->labels);
	ws->labels = labels;
	workspace_row_done(&ws->row);
	ws->row = row;
}

static void on_saved(int r, const struct error *err, void *userdata)
{
	struct workspace_save *s = userdata;
	struct workspace *ws = s->ws;
	store_done_fn done = s->done;
	void *with = s->userdata;

	crash_point();
	if (r >= 0) {
		workspace_row_done(&ws->saved);
		ws->saved = s->row;
		s->row = (struct workspace_row){ 0 };
	}
	save_free(s);
	/* A later change is based on this one: its commit decides. */
	if (r < 0 && LIST_EMPTY(&ws->saves))
		take_back(ws);
	if (done)
		done(r, err, with);
	workspace_on_saved(ws);
}

int workspace_save(struct workspace *ws, store_done_fn done, void *userdata)
{
	_cleanup_(save_freep) struct workspace_save *s = calloc(1, sizeof(*s));
	int r = s ? workspace_row_copy(&s->row, &ws->row) : -ENOMEM;

	if (r < 0)
		return r;
	s->ws = ws;
	s->done = done;
	s->userdata = userdata;
	r = store_workspace_put(ws->m->store, &ws->row, on_saved, s);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&ws->saves, s, entry);
	(void)TAKE_PTR(s);
	return 0;
}

void workspace_end_saves(struct workspace *ws, const struct error *err)
{
	struct workspace_save *s;

	while ((s = LIST_FIRST(&ws->saves))) {
		if (s->done)
			s->done(-ECANCELED, err, s->userdata);
		save_free(s);
	}
}

/* Labels */

json_object *workspace_parse_labels(const char *text)
{
	json_object *o = json_tokener_parse(text);
	bool good = json_object_is_type(o, json_type_object);

	if (good) {
		json_object_object_foreach(o, key, value)
		{
			(void)key;
			good = good && json_object_is_type(value, json_type_string);
		}
	}
	if (!good)
		json_object_put(o);
	return good ? o : NULL;
}

static bool good_key(const char *key)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-";
	size_t n = strspn(key, allowed);

	return n > 0 && n <= LIMIT_LABEL_KEY_BYTES && key[n] == '\0' && key[0] != '-';
}

int workspace_check_labels(json_object *labels, struct error *err)
{
	size_t bytes = 0;

	if (json_object_object_length(labels) > LIMIT_LABELS)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"remove some: pyro workspace update --clear-label KEY WORKSPACE",
			"a workspace has at most %d labels, not %d", LIMIT_LABELS,
			json_object_object_length(labels));
	json_object_object_foreach(labels, key, value)
	{
		if (!good_key(key))
			return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
				"use a key of letters, digits and . _ / -, such as team",
				"a label's key has from 1 to %d of these characters",
				LIMIT_LABEL_KEY_BYTES);
		bytes += strlen(key) + (size_t)json_object_get_string_len(value);
	}
	if (bytes > LIMIT_LABELS_BYTES)
		return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"use shorter values, and a file in the workspace for long ones",
			"the labels of a workspace have %zu bytes, at most %d are allowed", bytes,
			LIMIT_LABELS_BYTES);
	return 0;
}

/* Returns the labels after the change. Owned; NULL when out of memory. */
static json_object *change_labels(
	const struct workspace *ws, json_object *clear, json_object *labels)
{
	json_object *o = NULL;

	if (json_object_deep_copy(ws->labels, &o, NULL) < 0)
		return NULL;
	for (size_t i = 0; clear && i < json_object_array_length(clear); i++)
		json_object_object_del(
			o, json_object_get_string(json_object_array_get_idx(clear, i)));
	if (!labels)
		return o;
	json_object_object_foreach(labels, key, value)
	{
		json_object_object_del(o, key);
		if (json_object_object_add(o, key, json_object_get(value)) < 0) {
			json_object_put(value);
			json_object_put(o);
			return NULL;
		}
	}
	return o;
}

/* Names */

static const struct workspace *find_name(struct core *core, uid_t owner, const char *name)
{
	const struct workspace *ws;

	LIST_FOREACH (ws, &core->workspaces, entry)
		if (ws->row.owner_uid == owner && ws->row.name && streq(ws->row.name, name))
			return ws;
	return NULL;
}

/* Writes the first of NAME-2, NAME-3, ... that is free. */
static void free_name(
	struct core *core, uid_t owner, const char *name, char ret[LIMIT_NAME_BYTES + 1])
{
	for (unsigned i = 2;; i++) {
		char end[16];
		int n = snprintf(end, sizeof(end), "-%u", i);

		(void)snprintf(
			ret, LIMIT_NAME_BYTES + 1, "%.*s%s", LIMIT_NAME_BYTES - n, name, end);
		if (!find_name(core, owner, ret))
			return;
	}
}

int workspace_check_name(struct core *core, uid_t owner, const char *name, const char *begin,
	const char *end, struct error *err)
{
	const struct workspace *other = find_name(core, owner, name);
	_cleanup_free_ char *cause = NULL, *fix = NULL;
	char another[LIMIT_NAME_BYTES + 1];

	if (!other)
		return 0;
	free_name(core, owner, name, another);
	cause = str_printf("it is workspace %s", other->row.id);
	fix = str_printf("%s%s %s", begin, another, end);
	return error_set(err, ERROR_NAME_TAKEN, cause, fix, "the name %s is taken", name);
}

/* Changes */

static int check_change(
	const struct workspace *ws, const struct workspace_change *change, struct error *err)
{
	if (ws->made.failure.set || (ws->machine && machine_state(ws->machine) == MACHINE_DELETING))
		return error_set(err, ERROR_WRONG_STATE, "it is being deleted",
			"pyro workspace list", "workspace %s cannot be changed", ws->row.id);
	if (!change->name || (ws->row.name && streq(change->name, ws->row.name)))
		return 0;
	return workspace_check_name(ws->m->core, ws->row.owner_uid, change->name,
		"pyro workspace update --name ", ws->row.id, err);
}

/* Makes the row and the labels after the change. */
static int make_row(const struct workspace *ws, const struct workspace_change *change,
	struct workspace_row *ret, json_object **ret_labels, struct error *err)
{
	_cleanup_(workspace_row_done) struct workspace_row row = { 0 };
	_cleanup_json_ json_object *labels =
		change_labels(ws, change->clear_labels, change->labels);
	int r = labels ? workspace_check_labels(labels, err) : -ENOMEM;

	if (r >= 0)
		r = workspace_row_copy(&row, &ws->row);
	if (r < 0)
		return r;
	if (change->name || change->clear_name) {
		free(row.name);
		row.name = change->name ? strdup(change->name) : NULL;
		if (change->name && !row.name)
			return -ENOMEM;
	}
	free(row.labels);
	row.labels = strdup(json_object_to_json_string_ext(labels, JSON_C_TO_STRING_PLAIN));
	if (!row.labels)
		return -ENOMEM;
	row.shared = row.shared || change->share;
	*ret = row;
	row = (struct workspace_row){ 0 };
	*ret_labels = TAKE_PTR(labels);
	return 0;
}

static bool is_same(const struct workspace_row *a, const struct workspace_row *b)
{
	bool name = a->name && b->name ? streq(a->name, b->name) : a->name == b->name;

	return name && streq(a->labels, b->labels) && a->shared == b->shared;
}

int workspace_update(struct workspace *ws, const struct workspace_change *change,
	store_done_fn done, void *userdata, struct error *err)
{
	_cleanup_(workspace_row_done) struct workspace_row row = { 0 };
	_cleanup_json_ json_object *labels = NULL;
	struct workspace_row before = ws->row;
	int r = check_change(ws, change, err);

	if (r >= 0)
		r = make_row(ws, change, &row, &labels, err);
	if (r < 0)
		return r;
	if (is_same(&row, &ws->row) && LIST_EMPTY(&ws->saves))
		return 1;
	ws->row = row;
	r = workspace_save(ws, done, userdata);
	if (r < 0) {
		ws->row = before;
		return r;
	}
	row = before; /* freed */
	json_object_put(ws->labels);
	ws->labels = TAKE_PTR(labels);
	return 0;
}
