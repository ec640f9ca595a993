/* SPDX-License-Identifier: MIT */
/*
 * An operation on a workspace's files from the call to its result. Called by rpc/file.c; the request
 * itself is agent/file.c's.
 *
 * What must stay true: a result fits into a reply, whatever bytes the guest sends, and what is left
 * out of it is reported as truncated; bytes that are not UTF-8 are shown as U+FFFD, and said to be
 * so; paths of a list are below the path that was asked for; operations that wait for a start, each
 * with its texts, are bounded per account.
 */

#include "daemon/core/workspace-file.h"

#include "daemon/account.h"
#include "daemon/agent/file.h"
#include "daemon/core/workspace-internal.h"
#include "proto/api.h"
#include "proto/json.h"
#include "proto/utf8.h"

/* Bytes of JSON for the texts of one result: the reply has more members. */
#define TEXT_JSON_MAX (LIMIT_REPLY_BYTES - 256 * 1024)
enum { ENTRY_JSON = 128 }; /* of an entry, beside its texts */

static const char unknown[] = "\xef\xbf\xbd"; /* U+FFFD */

struct operation {
	LIST_ENTRY(operation) entry;
	bool waits;        /* for the start: it is in core->operations */
	struct manager *m; /* borrowed */
	char id[API_ID_SIZE];
	struct msg_file request; /* owned until file has it */
	struct file *file;       /* owned; NULL before the start */
	workspace_file_done_fn done;
	void *userdata; /* borrowed */
	uid_t account;  /* of the workspace's owner */
};

static void end_wait(struct operation *op)
{
	if (op->waits)
		LIST_REMOVE(op, entry);
	op->waits = false;
}

static struct operation *operation_free(struct operation *op)
{
	if (!op)
		return NULL;
	end_wait(op);
	file_free(op->file);
	msg_file_done(&op->request);
	free(op);
	return NULL;
}
DEFINE_CLEANUP(struct operation *, operation_free)

static void fail(struct operation *op, const struct error *err)
{
	op->done(NULL, err, op->userdata);
	operation_free(op);
}

/* Texts */

/* The bytes that a character needs as JSON text: json-c escapes control characters as \u001b. */
static size_t json_cost(uint32_t c, size_t n)
{
	if (c < 0x20)
		return 6;
	return c == '"' || c == '\\' || c == '/' ? 2 : n;
}

/* Appends UTF-8 text to out until *budget is used up. Returns how many bytes of p were taken. */
static size_t put_text(
	struct buf *out, const uint8_t *p, size_t n, size_t *budget, bool *ret_binary, int *r)
{
	size_t i = 0;

	while (*r >= 0 && i < n) {
		uint32_t c = 0;
		size_t len = utf8_decode(p + i, n - i, &c);
		size_t cost = len > 0 ? json_cost(c, len) : sizeof(unknown) - 1;

		if (cost > *budget)
			break;
		*budget -= cost;
		if (len > 0)
			put_bytes(out, p + i, len, r);
		else
			put_bytes(out, unknown, sizeof(unknown) - 1, r);
		*ret_binary = *ret_binary || len == 0;
		i += MAX_OF(len, (size_t)1);
	}
	return i;
}

static int add_text(json_object *o, const char *key, const struct buf *text)
{
	return json_add_strn(
		o, key, buf_len(text) > 0 ? (const char *)buf_head(text) : "", buf_len(text));
}

/* Adds a text whole, or nothing: then returns 1. */
static int add_whole(
	json_object *o, const char *key, const char *p, size_t n, size_t *budget, bool *ret_binary)
{
	struct buf text;
	size_t taken;
	int r = 0;

	buf_init(&text, 3 * n + 1);
	taken = put_text(&text, (const uint8_t *)p, n, budget, ret_binary, &r);
	if (r >= 0 && taken == n)
		r = add_text(o, key, &text);
	else if (r >= 0)
		r = 1;
	buf_done(&text);
	return r;
}

/* "/workspace/a/b" for "./a//b/": dots and slashes that mean nothing are left out; ".." may lead
 * through a link, and stays. */
static char *plain_path(const char *path)
{
	_cleanup_free_ char *whole =
		path[0] == '/' ? strdup(path) : str_printf("/workspace/%s", path);
	size_t to = 0;

	if (!whole)
		return NULL;
	for (const char *p = whole; *p;) {
		size_t n = strcspn(p + 1, "/");

		if (n > 0 && !(n == 1 && p[1] == '.')) {
			memmove(whole + to, p, n + 1);
			to += n + 1;
		}
		p += n + 1;
	}
	whole[to] = '\0';
	return to > 0 ? TAKE_PTR(whole) : strdup("/");
}

/* Results */

static const char *type_name(uint8_t type)
{
	static const char *const names[] = {
		[ENTRY_FILE] = "file",
		[ENTRY_DIRECTORY] = "directory",
		[ENTRY_SYMLINK] = "symlink",
		[ENTRY_OTHER] = "other",
	};

	return names[type];
}

/* Returns 1 if the reply has no room for it. */
static int make_entry(
	const char *base, const struct msg_entry *e, size_t *budget, json_object **ret)
{
	_cleanup_free_ char *path = str_printf("%s/%s", streq(base, "/") ? "" : base, e->path);
	_cleanup_json_ json_object *o = json_object_new_object();
	bool binary = false;
	int r;

	if (!path || !o)
		return -ENOMEM;
	if (*budget < ENTRY_JSON)
		return 1;
	*budget -= ENTRY_JSON;
	r = add_whole(o, "path", path, strlen(path), budget, &binary);
	if (r == 0)
		r = json_add_str(o, "artifact_type", type_name(e->type));
	if (r == 0)
		r = json_add_int(o, "size_bytes", (int64_t)e->size);
	if (r == 0 && e->target)
		r = add_whole(o, "link_target", e->target, strlen(e->target), budget, &binary);
	else if (r == 0)
		r = json_add(o, "link_target", NULL);
	if (r == 0 && binary)
		r = json_add_bool(o, "binary", true);
	if (r == 0)
		*ret = TAKE_PTR(o);
	return r;
}

static int add_list(
	json_object *o, const char *path, const struct msg_file *m, const struct msg_file_result *d)
{
	json_object *entries = json_object_new_array();
	bool truncated = d->flags & FILE_TRUNCATED;
	size_t budget = TEXT_JSON_MAX;
	int r = json_add(o, "entries", entries);

	if (!entries)
		return -ENOMEM;
	for (uint32_t i = 0; r >= 0 && i < d->n_entries; i++) {
		json_object *entry = NULL;

		r = make_entry(path, &d->entries[i], &budget, &entry);
		if (r > 0) {
			truncated = true;
			r = 0;
			break;
		}
		if (r >= 0 && json_object_array_add(entries, entry) < 0) {
			json_object_put(entry);
			r = -ENOMEM;
		}
	}
	if (r >= 0)
		r = json_add_bool(o, "recursive", m->flags & FILE_RECURSIVE);
	return r < 0 ? r : json_add_bool(o, "truncated", truncated);
}

static int add_read(json_object *o, const struct msg_file *m, const struct msg_file_result *d)
{
	uint64_t first = MAX_OF(m->start_line, UINT64_C(1));
	struct msg_blob shown = d->content;
	size_t budget = TEXT_JSON_MAX;
	bool binary = false;
	struct buf text;
	int r = 0;

	buf_init(&text, (size_t)3 * d->content.n + 1);
	shown.n = (uint32_t)put_text(&text, d->content.data, d->content.n, &budget, &binary, &r);
	if (r >= 0)
		r = add_text(o, "content", &text);
	buf_done(&text);
	if (r >= 0)
		r = json_add_int(o, "size_bytes", (int64_t)d->size);
	if (r >= 0)
		r = json_add_int(o, "max_bytes", m->max_bytes);
	if (r >= 0)
		r = json_add_bool(
			o, "truncated", (d->flags & FILE_TRUNCATED) || shown.n < d->content.n);
	if (r >= 0)
		r = json_add_int(o, "start_line", (int64_t)first);
	if (r >= 0)
		r = json_add_int(o, "end_line", (int64_t)(first - 1 + file_lines(&shown)));
	if (r >= 0)
		r = json_add(o, "total_lines",
			d->flags & FILE_LINES ? json_object_new_int64((int64_t)d->total_lines)
					      : NULL);
	if (r >= 0 && binary)
		r = json_add_bool(o, "binary", true);
	return r;
}

static int add_written(json_object *o, const struct msg_file *m, const struct msg_file_result *d)
{
	int r = json_add_int(o, "size_bytes", (int64_t)d->size);

	/* An edit writes the whole file again. */
	if (r >= 0)
		r = json_add_int(o, "bytes_written", (int64_t)d->size);
	if (r >= 0 && m->op == FILE_EDIT)
		r = json_add_int(o, "replacements", d->found);
	return r;
}

static int make_result(const char *id, const struct msg_file *m, const struct msg_file_result *d,
	json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_free_ char *path = plain_path(m->path);
	int r;

	if (!o || !path)
		return -ENOMEM;
	r = json_add_str(o, "workspace_id", id);
	if (r >= 0)
		r = json_add_str(o, "path", path);
	if (r >= 0 && m->op == FILE_LIST)
		r = add_list(o, path, m, d);
	else if (r >= 0 && m->op == FILE_READ)
		r = add_read(o, m, d);
	else if (r >= 0)
		r = add_written(o, m, d);
	if (r >= 0)
		*ret = TAKE_PTR(o);
	return r;
}

/* The operation */

static void on_done(struct file *f, const struct msg_file_result *d, void *userdata)
{
	struct operation *op = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *o = NULL;

	if (make_result(op->id, file_request(f), d, &o) < 0) {
		(void)error_no_memory(&err, "cannot make the reply");
		fail(op, &err);
		return;
	}
	op->done(o, NULL, op->userdata);
	operation_free(op);
}

static void on_failed(_unused_ struct file *f, const struct error *err, void *userdata)
{
	fail(userdata, err);
}

static int begin(struct operation *op, struct workspace *ws, struct error *err)
{
	static const struct file_callbacks cb = { on_done, on_failed };
	struct machine *mc = workspace_machine(ws);
	int r;

	if (!mc)
		return error_internal(err, "a started workspace has no machine",
			"cannot reach the files of %s", op->id);
	r = file_new(op->m->event, op->id, &op->request, &cb, op, &op->file);
	if (r >= 0)
		r = machine_file(mc, op->file, err);
	if (r >= 0)
		machine_used(mc);
	return r;
}

static void on_started(const struct error *why, void *userdata)
{
	struct operation *op = userdata;
	_cleanup_error_ struct error err = ERROR_INIT;
	struct workspace *ws;
	int r = 0;

	end_wait(op);
	if (why) {
		fail(op, why);
		return;
	}
	r = workspace_find(op->m, op->id, 0, &ws, &err);
	if (r >= 0)
		r = begin(op, ws, &err);
	if (r >= 0)
		return;
	if (!err.set)
		(void)error_no_memory(&err, "cannot reach the files of %s", op->id);
	fail(op, &err);
}

/* Bounds the operations that wait for a start; those that run are bounded by machine_file. */
static int check_waiting(const struct workspace *ws, struct error *err)
{
	struct manager *m = ws->m;
	uid_t account = accounts_find(m->accounts, ws->row.owner_uid);
	struct machine *mc = workspace_machine(ws);
	char who[ACCOUNT_TEXT_SIZE];
	const struct operation *op;
	unsigned n = 0;

	if (mc && machine_is_settled(mc) && machine_state(mc) == MACHINE_STARTED)
		return 0;
	LIST_FOREACH (op, &m->core->operations, entry)
		n += op->account == account;
	if (n < LIMIT_FILES_WAITING)
		return 0;
	return error_set(err, ERROR_QUOTA_EXCEEDED, "they wait for the start of a workspace",
		"the same call again, when the workspace is started",
		"%s %u file operations that wait, which is the limit", account_has(account, who),
		n);
}

int workspace_file(struct workspace *ws, struct msg_file *m, workspace_file_done_fn done,
	void *userdata, struct error *err)
{
	_cleanup_(operation_freep) struct operation *op = calloc(1, sizeof(*op));
	const struct machine *mc = workspace_machine(ws);
	int r;

	if (!op)
		return -ENOMEM;
	r = mc ? workspace_refuse_failed(mc, err) : 0;
	if (r >= 0)
		r = check_waiting(ws, err);
	if (r < 0)
		return r;
	op->account = accounts_find(ws->m->accounts, ws->row.owner_uid);
	op->m = workspace_manager(ws);
	op->done = done;
	op->userdata = userdata;
	(void)snprintf(op->id, sizeof(op->id), "%s", workspace_id(ws));
	op->request = *m;
	*m = (struct msg_file){ 0 };
	r = workspace_start(ws, on_started, op, err);
	if (r > 0) {
		r = begin(op, ws, err);
	} else if (r == 0) {
		LIST_INSERT_HEAD(&op->m->core->operations, op, entry);
		op->waits = true;
	}
	if (r >= 0)
		TAKE_PTR(op);
	return r;
}
