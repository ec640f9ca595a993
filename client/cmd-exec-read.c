/* SPDX-License-Identifier: MIT */
/*
 * Reads the kept output of commands: `pyro workspace exec-read` and `pyro workspace logs`. Named by
 * the verb table; client/session.c makes the first call. What must stay true: stdout gets the
 * commands' bytes as they are and nothing else; reading ends when stdout has no reader.
 */
#include "cmd.h"

#include <inttypes.h>

#include "proto/buf.h"
#include "proto/json.h"
#include "proto/limits.h"

#define FOLLOW_WAIT_MS 30000
#define TAIL_FIRST     (64 * 1024)         /* bytes before the end in which lines are looked for */
#define TAIL_MAX       (256 * 1024 * 1024) /* bytes */
#define LINES_MAX      1000000000
#define CURSOR_MAX     INT64_C(9007199254740991)

static const char *const id_exec[] = { "exec", NULL }, *const id_workspace[] = { "workspace",
	NULL };
static const char *const names_stream[] = { "both", "stdout", "stderr", NULL };

#define FIELD_TAIL(text) \
	{ \
		.name = "tail", .type = API_INT, .flags = API_NULLABLE, .max = LINES_MAX, \
		.help = (text) \
	}

const struct api_field exec_read_fields[] = {
	{ .name = "exec_id",
		.type = API_ID,
		.flags = API_REQUIRED | API_POSITIONAL,
		.names = id_exec },
	{ .name = "stream", .type = API_ENUM, .dflt = "\"both\"", .names = names_stream },
	{ .name = "cursor",
		.type = API_INT,
		.dflt = "0",
		.min = -CURSOR_MAX,
		.max = CURSOR_MAX,
		.help = "Where to begin: bytes of both streams in order of arrival; negative: that "
			"many before the end." },
	FIELD_TAIL("Only the last N lines."),
	{ .name = "follow",
		.type = API_BOOL,
		.dflt = "false",
		.cli = "-f",
		.help = "Read on until the command ends." },
	{ .name = NULL },
};

const struct api_field workspace_logs_fields[] = {
	{ .name = "workspace_id",
		.type = API_REF,
		.flags = API_REQUIRED | API_POSITIONAL,
		.names = id_workspace },
	{ .name = "exec_id",
		.type = API_ID,
		.flags = API_NULLABLE | API_POSITIONAL,
		.names = id_exec },
	FIELD_TAIL("Only the last N commands; with EXEC_ID, its last N lines."),
	{ .name = "follow",
		.type = API_BOOL,
		.dflt = "false",
		.cli = "-f",
		.help = "Read on until no command runs." },
	{ .name = NULL },
};

/* Which output is read. */
struct source {
	struct session *s;
	const char *exec_id, *stream; /* borrowed */
	bool follow;
};

/* Parts */

static int read_part(
	const struct source *src, int64_t cursor, bool text, int64_t wait_ms, json_object **ret)
{
	_cleanup_json_ json_object *params = json_object_new_object();
	int r = params ? json_add_str(params, "exec_id", src->exec_id) : -ENOMEM;

	if (r >= 0)
		r = json_add_str(params, "stream", src->stream);
	if (r >= 0)
		r = json_add_int(params, "cursor", cursor);
	if (r >= 0)
		r = json_add_int(params, "max_chars", LIMIT_READ_CHARS);
	if (r >= 0)
		r = json_add_int(params, "wait_ms", wait_ms);
	if (r >= 0)
		r = json_add_str(params, "encoding", text ? "text" : "base64");
	return r < 0 ? error_no_memory(&src->s->own, "cannot read the output")
		     : session_ask(src->s, "exec.read", params, ret);
}

static bool is_running(json_object *o)
{
	const char *state = out_member(o, "state");

	return streq(state, "preparing") || streq(state, "running");
}

static int digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* Appends the bytes of base64 text; stops at what is no base64. */
static int add_bytes(struct buf *b, const char *text)
{
	uint32_t bits = 0;
	int r = 0, n = 0;

	for (; r >= 0 && digit(*text) >= 0; text++) {
		bits = bits << 6 | (uint32_t)digit(*text);
		if (++n % 4 != 1)
			put_u8(b, (uint8_t)(bits >> (6 - 2 * ((n - 1) % 4))), &r);
	}
	return r;
}

static int part_bytes(const struct source *src, json_object *part, struct buf *b)
{
	int r = add_bytes(b, out_member(part, "output"));

	return r < 0 ? error_set_errno(&src->s->own, error_code_for_errno(r), r, NULL,
			       "cannot keep the output of command %s", src->exec_id)
		     : 0;
}

static void note_gap(const struct source *src, json_object *part)
{
	int64_t gap = out_int(part, "gap_bytes", 0);

	if (gap > 0)
		out_note(src->s->cli, "[note] %" PRId64 " bytes of the output are no longer kept",
			gap);
}

/* Writes to stdout. Fails when it has no reader. */
static int put_bytes_out(struct buf *b)
{
	(void)fwrite(buf_head(b), 1, buf_len(b), stdout);
	buf_clear(b);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -EPIPE; /* main() reports it */
}

/* Prints from the cursor to the end that the output has now, or with follow to its last byte. */
static int print_from(const struct source *src, int64_t cursor)
{
	struct buf b;
	int64_t wait_ms = 0;
	bool more = true;
	int r = 0;

	buf_init(&b, LIMIT_READ_CHARS);
	while (r >= 0 && more) {
		_cleanup_json_ json_object *part = NULL;
		int64_t next;

		r = read_part(src, cursor, false, wait_ms, &part);
		if (r < 0)
			break;
		note_gap(src, part);
		r = part_bytes(src, part, &b);
		if (r >= 0 && buf_len(&b) > 0)
			r = put_bytes_out(&b);
		next = out_int(part, "next_cursor", 0);
		more = (out_bool(part, "truncated", false) && next > cursor) ||
		       (src->follow && is_running(part));
		wait_ms = src->follow ? FOLLOW_WAIT_MS : 0;
		cursor = next;
	}
	buf_done(&b);
	return r;
}

/* Tail */

/* Returns where the last n lines begin; 0 with *ret_all false: perhaps before the bytes. */
static size_t find_lines(const struct buf *b, int64_t n, bool *ret_all)
{
	const uint8_t *p = b->data + b->start;
	size_t at = buf_len(b);

	*ret_all = true;
	if (n == 0)
		return at;
	for (size_t i = at > 0 ? at - 1 : 0; i > 0; i--)
		if (p[i - 1] == '\n' && --n == 0)
			return i;
	*ret_all = false;
	return 0;
}

/* Reads from n bytes before the end. *ret_next: where to go on; *ret_whole: nothing is before. */
static int read_end(
	const struct source *src, int64_t n, struct buf *b, int64_t *ret_next, bool *ret_whole)
{
	int64_t cursor = -n;
	bool more = true;
	int r = 0;

	buf_clear(b);
	for (bool first = true; r >= 0 && more; first = false) {
		_cleanup_json_ json_object *part = NULL;
		int64_t next;

		r = read_part(src, cursor, false, 0, &part);
		if (r < 0)
			break;
		if (first)
			*ret_whole = out_int(part, "cursor", 0) <= out_int(part, "earliest", 0);
		r = part_bytes(src, part, b);
		next = out_int(part, "next_cursor", 0);
		more = out_bool(part, "truncated", false) && (first || next > cursor);
		cursor = next;
	}
	*ret_next = cursor;
	return r;
}

/* Prints the last lines, then follows. */
static int print_tail(const struct source *src, int64_t lines)
{
	bool whole = false, all = false;
	int64_t next = 0;
	size_t from = 0;
	struct buf b;
	int r = 0;

	buf_init(&b, TAIL_MAX);
	for (int64_t n = TAIL_FIRST; r >= 0 && !whole && !all && n <= TAIL_MAX; n *= 2) {
		r = read_end(src, n, &b, &next, &whole);
		from = find_lines(&b, lines, &all);
	}
	if (r >= 0) {
		buf_consume(&b, from);
		r = put_bytes_out(&b);
	}
	buf_done(&b);
	return r < 0 || !src->follow ? r : print_from(src, next);
}

/* exec-read */

static int exclude(const char *one, const char *other, const char *fix, struct error *err)
{
	return error_set(err, ERROR_USAGE, NULL, fix, "%s and %s exclude each other", one, other);
}

static int prepare_read(struct session *s, json_object *params, struct error *err)
{
	const char *exec_id = json_get_str(params, "exec_id", "");
	bool follow = json_get_bool(params, "follow", false), tail = json_get(params, "tail");
	_cleanup_free_ char *fix = str_printf("pyro --json workspace exec-read %s", exec_id);
	_cleanup_free_ char *last = str_printf("pyro workspace exec-read --tail 10 %s", exec_id);

	if (s->cli->json && (follow || tail))
		return exclude("--json", follow ? "--follow" : "--tail", fix, err);
	if (tail && json_get(params, "cursor"))
		return exclude("--tail", "--cursor", last, err);
	json_object_object_del(params, "tail");
	json_object_object_del(params, "follow");
	/* The text is read by print_read(); this call finds the command. */
	return s->cli->json ? 0 : json_add_int(params, "max_chars", 1);
}

static void print_read(struct session *s, json_object *result)
{
	const struct source src = {
		.s = s,
		.exec_id = out_member(result, "exec_id"),
		.stream = out_member(result, "stream"),
		.follow = json_get_bool(s->line->checked, "follow", false),
	};

	/* A failure is in s->own, or main() finds that stdout is closed. */
	if (json_get(s->line->params, "tail"))
		(void)print_tail(&src, json_get_int(s->line->params, "tail", 0));
	else
		(void)print_from(&src, json_get_int(s->line->checked, "cursor", 0));
}

const struct waiting wait_exec_read = { .prepare = prepare_read, .print = print_read };

/* logs */

static int prepare_logs(struct session *s, json_object *params, struct error *err)
{
	_cleanup_free_ char *fix = str_printf(
		"pyro --json workspace logs %s", json_get_str(params, "workspace_id", ""));

	if (s->cli->json && json_get_bool(params, "follow", false))
		return exclude("--json", "--follow", fix, err);
	if (s->cli->json && json_get(params, "exec_id") && json_get(params, "tail"))
		return exclude("--json", "--tail", fix, err);
	json_object_object_del(params, "exec_id");
	json_object_object_del(params, "tail");
	json_object_object_del(params, "follow");
	return 0;
}

/* Returns the command whose id begins with the text. Borrowed. NULL, with s->own set: no command or
 * several match. */
static json_object *find_exec(struct session *s, json_object *result, const char *begin)
{
	_cleanup_free_ char *fix =
		str_printf("pyro workspace exec-list %s", out_member(result, "workspace_id"));
	json_object *execs = out_array(result, "execs"), *found = NULL;
	size_t n = 0;

	for (size_t i = 0; execs && i < json_object_array_length(execs); i++) {
		json_object *o = json_object_array_get_idx(execs, i);

		if (startswith(out_member(o, "exec_id"), begin)) {
			found = o;
			n++;
		}
	}
	if (n == 1)
		return found;
	error_set(&s->own, ERROR_EXEC_NOT_FOUND, n > 1 ? "it matches several commands" : NULL, fix,
		"command %s not found in workspace %s", begin, out_member(result, "workspace_id"));
	return NULL;
}

static void put_heading(const struct session *s, json_object *o)
{
	if (s->cli->quiet)
		return;
	fprintf(stderr,
		"[workspace-logs] sequence=%" PRId64 " exec_id=", out_int(o, "sequence", 0));
	out_text(stderr, out_member(o, "exec_id"));
	fputs(" state=", stderr);
	out_text(stderr, out_member(o, "state"));
	if (json_get(o, "exit_code"))
		fprintf(stderr, " exit_code=%" PRId64, out_int(o, "exit_code", 0));
	fputs(" command=", stderr);
	out_text(stderr, out_member(o, "command"));
	fputc('\n', stderr);
}

/* Prints the commands after that one, by their sequence. Returns the last one's, or -errno. */
static int64_t print_execs(const struct source *src, json_object *result, int64_t after)
{
	json_object *execs = out_array(result, "execs");
	size_t n = execs ? json_object_array_length(execs) : 0;
	int r = 0;

	for (size_t i = 0; r >= 0 && i < n; i++) {
		json_object *o = json_object_array_get_idx(execs, i);
		struct source one = *src;

		if (out_int(o, "sequence", 0) <= after)
			continue;
		put_heading(src->s, o);
		one.exec_id = out_member(o, "exec_id");
		r = print_from(&one, 0);
		after = out_int(o, "sequence", 0);
	}
	return r < 0 ? r : after;
}

/* Prints those that began while others were printed. The daemon forgets the oldest meanwhile. */
static void print_later(const struct source *src, const char *workspace_id, int64_t last)
{
	bool more = true;

	while (last >= 0 && more) {
		_cleanup_json_ json_object *params = json_object_new_object(), *result = NULL;
		int64_t before = last;
		int r;

		r = params ? json_add_str(params, "workspace_id", workspace_id) : -ENOMEM;
		if (r >= 0)
			r = session_ask(src->s, "exec.list", params, &result);
		last = r < 0 ? r : print_execs(src, result, last);
		more = last > before;
	}
}

/* Returns the index of the first command to print. */
static size_t first_exec(const struct session *s, json_object *result)
{
	json_object *execs = out_array(result, "execs");
	size_t n = execs ? json_object_array_length(execs) : 0;
	int64_t tail = json_get_int(s->line->params, "tail", LINES_MAX);

	return n > (size_t)tail ? n - (size_t)tail : 0;
}

static void print_logs(struct session *s, json_object *result)
{
	struct source src = {
		.s = s,
		.stream = "both",
		.follow = json_get_bool(s->line->checked, "follow", false),
	};
	const char *begin = json_get_str(s->line->params, "exec_id", NULL);
	json_object *execs = out_array(result, "execs");
	size_t first = first_exec(s, result);
	int64_t last = 0;

	if (begin) {
		json_object *o = find_exec(s, result, begin);

		src.exec_id = out_member(o, "exec_id");
		if (o && json_get(s->line->params, "tail"))
			(void)print_tail(&src, json_get_int(s->line->params, "tail", 0));
		else if (o)
			(void)print_from(&src, 0);
		return;
	}
	if (first > 0)
		last = out_int(json_object_array_get_idx(execs, first - 1), "sequence", 0);
	last = print_execs(&src, result, last);
	if (!execs || json_object_array_length(execs) == 0)
		out_note(s->cli, "no commands; run one: pyro workspace exec %s -- CMD",
			out_member(result, "workspace_id"));
	if (src.follow)
		print_later(&src, out_member(result, "workspace_id"), last);
}

/* Reads a stream as text. */
static int add_text(const struct source *src, json_object *o)
{
	int64_t cursor = 0;
	bool more = true;
	struct buf b;
	int r = 0;

	buf_init(&b, TAIL_MAX);
	while (r >= 0 && more) {
		_cleanup_json_ json_object *part = NULL;
		json_object *text;
		int64_t next;

		r = read_part(src, cursor, true, 0, &part);
		if (r < 0)
			break;
		text = json_get(part, "output");
		if (json_object_is_type(text, json_type_string))
			r = buf_append(&b, json_object_get_string(text),
				(size_t)json_object_get_string_len(text));
		next = out_int(part, "next_cursor", 0);
		more = out_bool(part, "truncated", false) && next > cursor;
		cursor = next;
	}
	if (r >= 0)
		r = json_add_strn(o, src->stream, buf_len(&b) > 0 ? (const char *)buf_head(&b) : "",
			buf_len(&b));
	buf_done(&b);
	return r;
}

/* Makes {workspace_id, count, entries}, with each command's output. */
static json_object *logs_json(struct session *s, json_object *result)
{
	static const char *const streams[] = { "stdout", "stderr" };
	_cleanup_json_ json_object *list = result, *o = json_object_new_object();
	const char *begin = json_get_str(s->line->params, "exec_id", NULL);
	json_object *execs = out_array(list, "execs"), *entries = json_object_new_array();
	size_t from = begin ? 0 : first_exec(s, list);
	int r = o && entries ? json_add_str(o, "workspace_id", out_member(list, "workspace_id"))
			     : -ENOMEM;

	if (begin && !find_exec(s, list, begin))
		r = -ENOENT;
	for (size_t i = from; r >= 0 && execs && i < json_object_array_length(execs); i++) {
		json_object *e = json_object_array_get_idx(execs, i);
		struct source src = { .s = s, .exec_id = out_member(e, "exec_id") };

		if (begin && !startswith(src.exec_id, begin))
			continue;
		for (size_t k = 0; r >= 0 && k < ARRAY_SIZE(streams); k++) {
			src.stream = streams[k];
			r = add_text(&src, e);
		}
		if (r >= 0 && json_object_array_add(entries, json_object_get(e)) < 0)
			r = -ENOMEM;
	}
	if (r >= 0)
		r = json_add_int(o, "count", (int64_t)json_object_array_length(entries));
	if (r >= 0)
		r = json_add(o, "entries", json_object_get(entries));
	json_object_put(entries);
	return r < 0 ? NULL : TAKE_PTR(o);
}

const struct waiting wait_workspace_logs = {
	.prepare = prepare_logs,
	.to_json = logs_json,
	.print = print_logs,
};
