/* SPDX-License-Identifier: MIT */
/*
 * Prints the results of `pyro workspace file`: contents and lists on stdout, a summary on stderr.
 * Named by the verb table; client/session.c waits.
 */
#include "cmd.h"

#include <inttypes.h>

#include "client/text.h"
#include "proto/json.h"

static bool wants_summary(const struct session *s)
{
	return !s->cli->quiet && !(s->line->extra & EXTRA_CONTENT);
}

/* Begins the summary: "[workspace-file-read] workspace_id=ID path=PATH". */
static void begin_summary(struct session *s, json_object *result)
{
	fprintf(stderr, "[workspace-file-%s] workspace_id=", s->line->verb->name);
	out_text(stderr, out_member(result, "workspace_id"));
	fputs(" path=", stderr);
	out_text(stderr, out_member(result, "path"));
}

static void print_list(struct session *s, json_object *result)
{
	static const struct out_column columns[] = {
		{ "PATH", "path" },
		{ "TYPE", "artifact_type" },
		{ "BYTES", "size_bytes" },
		{ "TARGET", "link_target" },
	};
	_cleanup_free_ char *path = text_escape(out_member(result, "path"), NULL);
	_cleanup_free_ char *empty = path ? str_printf("%s is empty", path) : NULL;

	out_list(s->cli, out_array(result, "entries"), columns, ARRAY_SIZE(columns),
		empty ? empty : "it is empty");
	if (out_bool(result, "truncated", false) && !s->cli->quiet)
		fputs("some entries are left out: list a folder below\n", stderr);
}

const struct waiting wait_file_list = { .print = print_list };

static void print_read(struct session *s, json_object *result)
{
	json_object *content = json_get(result, "content"),
		    *total = json_get(result, "total_lines");
	const char *text = json_object_get_string(content);
	size_t n = (size_t)json_object_get_string_len(content);
	int64_t first = out_int(result, "start_line", 1), last = out_int(result, "end_line", 0);

	(void)fwrite(text, 1, n, stdout);
	(void)fflush(stdout);
	if (!wants_summary(s))
		return;
	if (n > 0 && text[n - 1] != '\n')
		fputc('\n', stderr);
	begin_summary(s, result);
	fprintf(stderr, " size_bytes=%" PRId64 " lines=%" PRId64 "-%" PRId64,
		out_int(result, "size_bytes", 0), first, last);
	if (total)
		fprintf(stderr, " total_lines=%" PRId64, json_object_get_int64(total));
	fprintf(stderr, " truncated=%s%s\n",
		out_bool(result, "truncated", false) ? "true" : "false",
		out_bool(result, "binary", false) ? " binary=true" : "");
}

const struct waiting wait_file_read = { .print = print_read };

static void print_written(struct session *s, json_object *result)
{
	if (!wants_summary(s))
		return;
	begin_summary(s, result);
	fprintf(stderr, " size_bytes=%" PRId64 " bytes_written=%" PRId64,
		out_int(result, "size_bytes", 0), out_int(result, "bytes_written", 0));
	if (json_get(result, "replacements"))
		fprintf(stderr, " replacements=%" PRId64, out_int(result, "replacements", 0));
	fputc('\n', stderr);
}

const struct waiting wait_file_written = { .print = print_written };
