/* SPDX-License-Identifier: MIT */
/*
 * exec.read: a part of a command's transcript as text or base64. Made by rpc/exec.c.
 *
 * What must stay true: no character is split between two replies; next_cursor continues exactly
 * where the text ends; reading consumes nothing; a wait ends with the first output, the command's
 * end or wait_ms.
 */

#include "daemon/core/listener-internal.h"

#include "proto/json.h"
#include "proto/utf8.h"

enum { BASE64_LINE = 3 };

/* Text */

/* Bytes at the end that may be the beginning of a character. */
static size_t unfinished(const uint8_t *p, size_t n)
{
	for (size_t back = 1; back < UTF8_MAX && back <= n; back++) {
		uint8_t c = p[n - back];

		if ((c & 0xc0) == 0x80)
			continue;
		if (c >= 0xc2 && c < 0xf5 && back < (c < 0xe0 ? 2U : c < 0xf0 ? 3U : 4U))
			return back;
		return 0;
	}
	return 0;
}

/* Appends p as UTF-8 with U+FFFD for each invalid byte; at most max_chars characters. Returns the
 * bytes of p that are in it. */
static size_t put_text(
	struct buf *out, const uint8_t *p, size_t n, size_t max_chars, bool *ret_binary, int *r)
{
	size_t i = 0;

	for (size_t chars = 0; *r >= 0 && i < n && chars < max_chars; chars++) {
		size_t length = utf8_decode(p + i, n - i, NULL);

		if (length > 0)
			*r = buf_append(out, p + i, length);
		else
			*r = buf_append(out, "\xef\xbf\xbd", 3);
		*ret_binary = *ret_binary || length == 0;
		i += MAX_OF(length, (size_t)1);
	}
	return i;
}

static void put_base64(const uint8_t *p, size_t n, char *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < n; i += BASE64_LINE, out += 4) {
		size_t k = MIN_OF(n - i, (size_t)BASE64_LINE);
		uint32_t v = (uint32_t)p[i] << 16 | (k > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
			     (k > 2 ? p[i + 2] : 0);

		for (size_t d = 0; d < 4; d++)
			out[d] = d <= k ? digits[v >> (18 - 6 * d) & 63] : '=';
	}
}

/* The cursor of the byte at an offset of the text. */
static uint64_t cursor_at(const struct listener *l, size_t at)
{
	const struct text_jump *j = l->n_jumps > 0 ? &l->jumps[l->n_jumps - 1] : NULL;

	while (j && j > l->jumps && j->at > at)
		j--;
	return j ? j->cursor + (at - j->at) : l->from;
}

/* Reply */

static int add_text(struct listener *l, json_object *o, size_t *ret_used)
{
	const uint8_t *p = buf_head(&l->text);
	size_t n = buf_len(&l->text);
	bool binary = false;
	struct buf out;
	int r = 0;

	/* Before a gap no rest of a character comes. */
	if ((!l->command->settled || l->more) && l->stop == 0)
		n -= unfinished(p, n);
	buf_init(&out, 3 * LIMIT_CAPTURE_BYTES);
	*ret_used = put_text(&out, p, n, l->read.max_chars, &binary, &r);
	if (r >= 0)
		r = json_add_strn(o, "output", buf_len(&out) ? (const char *)buf_head(&out) : "",
			buf_len(&out));
	if (r >= 0 && binary)
		r = json_add_bool(o, "binary", true);
	buf_done(&out);
	return r;
}

static int add_base64(struct listener *l, json_object *o, size_t *ret_used)
{
	size_t n = MIN_OF(buf_len(&l->text), l->read.max_chars);
	size_t length = (n + BASE64_LINE - 1) / BASE64_LINE * 4;
	_cleanup_free_ char *out = malloc(length + 1);

	if (!out)
		return -ENOMEM;
	put_base64(buf_head(&l->text), n, out);
	*ret_used = n;
	return json_add_strn(o, "output", out, length);
}

static int add_end(const struct command *c, json_object *o)
{
	bool ended = c->settled && c->state == COMMAND_EXITED;
	int r = json_add(o, "exit_code", ended ? json_object_new_int(c->row.exit_code) : NULL);

	if (r >= 0)
		r = json_add_bool(o, "timed_out", ended && c->row.timed_out);
	return r < 0 ? r
		     : json_add_str(
			       o, "ended_by", ended && c->row.ended_by[0] ? c->row.ended_by : NULL);
}

/* The first byte's cursor, when the reader knows it. */
static void begin(struct listener *l, uint64_t cursor)
{
	if (!l->begun)
		l->from = cursor;
	l->begun = true;
}

static int make_reply(struct listener *l, json_object **ret)
{
	static const char *const streams[] = { [TRANSCRIPT_BOTH] = "both",
		[1U << STREAM_STDOUT] = "stdout",
		[1U << STREAM_STDERR] = "stderr" };
	_cleanup_json_ json_object *o = json_object_new_object();
	struct command *c = l->command;
	uint64_t next = transcript_reader_cursor(l->readers[0]);
	size_t used = 0;
	int r;

	begin(l, MIN_OF(next, transcript_cursor(c->transcript)));
	next = MAX_OF(l->from, MIN_OF(next, transcript_cursor(c->transcript)));
	r = o ? json_add_str(o, "exec_id", c->row.id) : -ENOMEM;

	if (r >= 0)
		r = json_add_str(o, "state", command_state_name(command_shown(c)));
	if (r >= 0)
		r = json_add_str(o, "stream", streams[l->read.streams]);
	if (r >= 0)
		r = l->read.base64 ? add_base64(l, o, &used) : add_text(l, o, &used);
	if (l->stop > 0)
		next = l->stop;
	if (r >= 0 && used < buf_len(&l->text)) {
		next = cursor_at(l, used);
		l->more = true;
	}
	if (r >= 0)
		r = json_add_int(o, "cursor", (int64_t)l->from);
	if (r >= 0)
		r = json_add_int(o, "next_cursor", (int64_t)next);
	if (r >= 0)
		r = json_add_int(o, "earliest", (int64_t)transcript_earliest(c->transcript));
	if (r >= 0)
		r = json_add_int(o, "gap_bytes", (int64_t)l->gap);
	if (r >= 0)
		r = add_end(c, o);
	if (r >= 0)
		r = json_add_bool(
			o, "truncated", l->more || next < transcript_cursor(c->transcript));
	if (r >= 0)
		*ret = TAKE_PTR(o);
	return r;
}

static void reply(struct listener *l)
{
	json_object *o = NULL;

	if (l->finished)
		return;
	if (make_reply(l, &o) < 0)
		listener_no_memory(l);
	else
		listener_finish(l, o);
}

void read_late(struct listener *l)
{
	reply(l);
}

/* The reader's events */

static size_t max_bytes(const struct listener *l)
{
	size_t n = l->read.base64 ? l->read.max_chars : l->read.max_chars * UTF8_MAX;

	return MIN_OF(n, (size_t)LIMIT_CAPTURE_BYTES);
}

static int note_jump(struct listener *l, uint64_t cursor)
{
	size_t at = buf_len(&l->text);
	struct text_jump *more;

	if (at > 0 && cursor_at(l, at) == cursor)
		return 0;
	if ((l->n_jumps & (l->n_jumps - 1)) == 0) {
		more = reallocarray(l->jumps, MAX_OF(2 * l->n_jumps, (size_t)1), sizeof(*more));
		if (!more)
			return -ENOMEM;
		l->jumps = more;
	}
	l->jumps[l->n_jumps++] = (struct text_jump){ .at = at, .cursor = cursor };
	return 0;
}

static int on_bytes(struct transcript_reader *r, _unused_ uint8_t stream, const void *p, size_t n,
	_unused_ uint64_t usec, void *userdata)
{
	struct listener *l = userdata;
	int k;

	if (l->finished)
		return 0;
	begin(l, transcript_reader_cursor(r) - n);
	k = note_jump(l, transcript_reader_cursor(r) - n);
	if (k < 0)
		return k;
	k = buf_append(&l->text, p, n);
	if (k >= 0 && buf_len(&l->text) >= max_bytes(l)) {
		l->more = true;
		reply(l);
	}
	return k;
}

static void on_gap(struct transcript_reader *r, uint64_t n, void *userdata)
{
	struct listener *l = userdata;

	if (l->finished)
		return;
	/* What follows belongs to the next reply, which reports the gap. */
	if (buf_len(&l->text) > 0) {
		l->stop = transcript_reader_cursor(r) - n;
		reply(l);
		return;
	}
	l->gap += n;
	l->begun = true;
	l->from = transcript_reader_cursor(r);
}

/* More than the beginning of a character, whose rest may come. */
static bool has_text(const struct listener *l)
{
	size_t n = buf_len(&l->text);

	return n > 0 && (l->read.base64 || n > unfinished(buf_head(&l->text), n));
}

static void on_caught_up(_unused_ struct transcript_reader *r, void *userdata)
{
	struct listener *l = userdata;

	if (has_text(l) || l->read.wait_ms == 0 || l->command->settled)
		reply(l);
}

static void on_end(_unused_ struct transcript_reader *r, int error, void *userdata)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct listener *l = userdata;

	if (l->finished)
		return;
	l->at_end = true;
	if (error >= 0 && (l->command->settled || has_text(l))) {
		reply(l);
	} else if (error < 0) {
		error_set_errno(&err, error_code_for_errno(error), error, NULL,
			"the output of command %s cannot be read", l->command->row.id);
		listener_fail(l, &err);
	}
}

int command_read(struct command *c, const struct read_params *p,
	const struct listener_callbacks *cb, void *userdata, struct listener **ret,
	struct error *err)
{
	static const struct transcript_reader_callbacks events = {
		.on_bytes = on_bytes,
		.on_gap = on_gap,
		.on_caught_up = on_caught_up,
		.on_end = on_end,
	};
	struct listener *l;
	int r = listener_new(c, LISTENER_READS, cb, userdata, &l, err);

	if (r < 0)
		return r;
	l->read = *p;
	r = command_open(c);
	if (r >= 0)
		r = transcript_reader_new(
			c->transcript, p->cursor, p->streams, &events, l, &l->readers[0]);
	if (r >= 0 && p->since_usec > 0)
		transcript_reader_since(l->readers[0], p->since_usec);
	if (r >= 0 && p->wait_ms > 0)
		r = listener_set_timer(l, p->wait_ms);
	if (r < 0) {
		listener_discard(l);
		return error_no_memory(err, "cannot read the output of command %s", c->row.id);
	}
	transcript_reader_credit(l->readers[0], max_bytes(l));
	*ret = l;
	return 0;
}
