/* SPDX-License-Identifier: MIT */
/*
 * Handlers of a workspace's files: list, read, write and edit. Called by the dispatcher, which has
 * checked the parameters and looked up the workspace. An operation goes on without its caller: it
 * ends by itself.
 */

#include "daemon/core/workspace-file.h"
#include "daemon/rpc/call.h"

static void on_done(json_object *result, const struct error *err, void *userdata)
{
	if (err)
		call_fail(userdata, err);
	else
		call_reply(userdata, result);
}

/* Copies a text parameter, which may contain NUL. */
static int copy_text(struct call *c, const char *param, struct msg_blob *ret)
{
	json_object *text = call_value(c, param);
	size_t n = (size_t)json_object_get_string_len(text);

	if (n == 0)
		return 0;
	ret->data = malloc(n);
	if (!ret->data)
		return -ENOMEM;
	memcpy(ret->data, json_object_get_string(text), n);
	ret->n = (uint32_t)n;
	return 0;
}

/* Begins the operation and keeps the call. Takes over the contents of m. */
static int begin(struct call *c, struct msg_file *m, int r, struct error *err)
{
	if (r >= 0) {
		m->path = strdup(call_str(c, "path"));
		r = m->path ? workspace_file(call_workspace(c), m, on_done, c, err) : -ENOMEM;
	}
	msg_file_done(m);
	if (r >= 0)
		call_keep_on(c, NULL, NULL);
	return r;
}

int rpc_file_list(struct call *c, struct error *err)
{
	struct msg_file m = {
		.op = FILE_LIST,
		.flags = call_bool(c, "recursive") ? FILE_RECURSIVE : 0,
	};

	return begin(c, &m, 0, err);
}

int rpc_file_read(struct call *c, struct error *err)
{
	struct msg_file m = {
		.op = FILE_READ,
		.max_bytes = (uint32_t)call_int(c, "max_bytes"),
		.start_line = call_given(c, "start_line") ? (uint64_t)call_int(c, "start_line") : 0,
		.max_lines = call_given(c, "max_lines") ? (uint64_t)call_int(c, "max_lines") : 0,
	};

	return begin(c, &m, 0, err);
}

int rpc_file_write(struct call *c, struct error *err)
{
	struct msg_file m = { .op = FILE_WRITE };

	return begin(c, &m, copy_text(c, "text", &m.text), err);
}

int rpc_file_edit(struct call *c, struct error *err)
{
	struct msg_file m = {
		.op = FILE_EDIT,
		.flags = call_bool(c, "replace_all") ? FILE_REPLACE_ALL : 0,
	};
	int r = copy_text(c, "old_text", &m.old_text);

	if (r >= 0)
		r = copy_text(c, "new_text", &m.text);
	return begin(c, &m, r, err);
}
