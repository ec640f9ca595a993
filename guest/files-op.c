/* SPDX-License-Identifier: MIT */
/*
 * One operation on files from its message to its result, with what the operations share. Called by
 * files.c in a process of its own, and by tests.
 */

#include "guest/files-internal.h"

#include <sys/stat.h>

char *files_path(const struct files_op *op, const char *path)
{
	return path[0] == '/' ? strdup(path) : str_printf("%s/%s", op->workspace, path);
}

int files_fail(struct msg_file_result *ret, int r, const char *what)
{
	free(ret->what);
	ret->what = strdup(what);
	return r;
}

const char *files_kind(unsigned mode)
{
	if (S_ISFIFO(mode))
		return "it is a FIFO";
	if (S_ISSOCK(mode))
		return "it is a socket";
	if (S_ISLNK(mode))
		return "it became a link";
	return "it is a device";
}

void files_run(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret)
{
	static int (*const run[])(const struct files_op *op, const struct msg_file *m,
		struct msg_file_result *ret) = {
		[FILE_LIST] = files_list,
		[FILE_READ] = files_read,
		[FILE_WRITE] = files_write,
		[FILE_EDIT] = files_edit,
	};
	int r = run[m->op](op, m, ret);

	if (r >= 0)
		return;
	ret->error = (uint32_t)-r;
	ret->flags &= FILE_UNKNOWN;
	ret->content.n = 0;
	while (ret->n_entries > 0) {
		struct msg_entry *e = &ret->entries[--ret->n_entries];

		free(e->path);
		free(e->target);
	}
}
