/* SPDX-License-Identifier: MIT */
/*
 * Keeps output for a reply when no caller reads it live. Used by core/run.c and core/run-result.c.
 *
 * What must stay true: at most LIMIT_CAPTURE_BYTES are held, whatever the guest sends; the text is
 * valid UTF-8 and no character is split at the cut; its JSON form stays within CAPTURE_JSON_BYTES
 * plus the marker, so a reply always fits its line.
 */

#include "daemon/agent/capture.h"

#include "proto/buf.h"
#include "proto/utf8.h"

enum {
	HEAD_MAX = LIMIT_CAPTURE_BYTES / 4,
	TAIL_MAX = LIMIT_CAPTURE_BYTES - HEAD_MAX,
	MARKER_MAX = 128,
};

/* One character of the input: its bytes, whether they are UTF-8, and its size as JSON text. */
struct character {
	size_t bytes;
	bool valid;
	size_t cost;
};

void capture_done(struct capture *c)
{
	free(c->head);
	free(c->tail);
	memset(c, 0, sizeof(*c));
}

static int add_head(struct capture *c, const char *p, size_t n)
{
	size_t size = 4096;
	char *grown;

	while (size < c->head_n + n)
		size *= 2;
	grown = realloc(c->head, size);
	if (!grown)
		return -ENOMEM;
	c->head = grown;
	memcpy(c->head + c->head_n, p, n);
	c->head_n += n;
	c->total += n;
	return 0;
}

static void add_tail(struct capture *c, const char *p, size_t n)
{
	while (n > 0) {
		size_t at = (size_t)((c->total - HEAD_MAX) % TAIL_MAX);
		size_t part = MIN_OF(n, TAIL_MAX - at);

		memcpy(c->tail + at, p, part);
		c->total += part;
		p += part;
		n -= part;
	}
}

int capture_add(struct capture *c, const void *p, size_t n)
{
	const char *bytes = p;
	size_t first = MIN_OF(n, HEAD_MAX - c->head_n);

	if (first > 0) {
		int r = add_head(c, bytes, first);

		if (r < 0)
			return r;
	}
	if (n == first)
		return 0;
	if (!c->tail)
		c->tail = malloc(TAIL_MAX);
	if (!c->tail)
		return -ENOMEM;
	add_tail(c, bytes + first, n - first);
	return 0;
}

static size_t sequence_length(uint8_t lead)
{
	if (lead < 0x80)
		return 1;
	if (lead >= 0xc2 && lead < 0xe0)
		return 2;
	if (lead >= 0xe0 && lead < 0xf0)
		return 3;
	if (lead >= 0xf0 && lead < 0xf5)
		return 4;
	return 0;
}

static size_t ascii_cost(uint8_t c)
{
	if (c == '"' || c == '\\' || c == '/' || (c >= '\b' && c <= '\r' && c != '\v'))
		return 2;
	return c < 0x20 ? 6 : 1;
}

static struct character next_character(const uint8_t *p, size_t n)
{
	size_t length = utf8_decode(p, n, NULL);

	if (length == 1)
		return (struct character){ 1, true, ascii_cost(p[0]) };
	if (length == 0)
		return (struct character){ 1, false, 3 };
	return (struct character){ length, true, length };
}

static size_t span_cost(const uint8_t *p, size_t n)
{
	size_t cost = 0;

	for (size_t i = 0; i < n;) {
		struct character ch = next_character(p + i, n - i);

		cost += ch.cost;
		i += ch.bytes;
	}
	return cost;
}

/* Returns how many leading bytes fit into the cost. */
static size_t fit_front(const uint8_t *p, size_t n, size_t cost)
{
	size_t i = 0;

	while (i < n) {
		struct character ch = next_character(p + i, n - i);

		if (ch.cost > cost)
			break;
		cost -= ch.cost;
		i += ch.bytes;
	}
	return i;
}

/* Returns where the longest suffix that fits into the cost begins. */
static size_t fit_back(const uint8_t *p, size_t n, size_t cost)
{
	size_t left = span_cost(p, n);
	size_t i = 0;

	while (left > cost) {
		struct character ch = next_character(p + i, n - i);

		left -= ch.cost;
		i += ch.bytes;
	}
	return i;
}

/* Returns n less the bytes of a character that is cut off at the end. */
static size_t trim_end(const uint8_t *p, size_t n)
{
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		uint8_t c = p[n - back];

		if ((c & 0xc0) == 0x80)
			continue;
		return sequence_length(c) > back ? n - back : n;
	}
	return n;
}

static size_t trim_start(const uint8_t *p, size_t n)
{
	size_t i = 0;

	while (i < 3 && i < n && (p[i] & 0xc0) == 0x80)
		i++;
	return i;
}

static int put_text(struct buf *out, const uint8_t *p, size_t n, bool *binary)
{
	int r = 0;

	for (size_t i = 0; r >= 0 && i < n;) {
		struct character ch = next_character(p + i, n - i);

		if (ch.valid)
			r = buf_append(out, p + i, ch.bytes);
		else
			r = buf_append(out, "\xef\xbf\xbd", 3);
		*binary = *binary || !ch.valid;
		i += ch.bytes;
	}
	return r;
}

/* Joins all held bytes in order. *ret_cut is where bytes are missing, or *ret_n if none are. */
static uint8_t *assemble(const struct capture *c, size_t *ret_n, size_t *ret_cut)
{
	size_t after = (size_t)MIN_OF(c->total - c->head_n, (uint64_t)TAIL_MAX);
	bool wrapped = c->total - c->head_n > TAIL_MAX;
	size_t at = wrapped ? (size_t)((c->total - c->head_n) % TAIL_MAX) : 0;
	uint8_t *p = malloc(c->head_n + after + 1);

	if (!p)
		return NULL;
	if (c->head_n > 0)
		memcpy(p, c->head, c->head_n);
	if (after > 0) {
		memcpy(p + c->head_n, c->tail + at, after - at);
		memcpy(p + c->head_n + after - at, c->tail, at);
	}
	*ret_n = c->head_n + after;
	*ret_cut = wrapped ? c->head_n : *ret_n;
	return p;
}

static int put_cut(struct buf *out, const struct capture *c, const uint8_t *p, size_t head,
	size_t from, size_t n, bool *binary)
{
	char marker[MARKER_MAX];
	int r, length;

	head = fit_front(p, trim_end(p, head), CAPTURE_JSON_BYTES / 4);
	from += trim_start(p + from, n - from);
	from += fit_back(p + from, n - from, CAPTURE_JSON_BYTES / 4 * 3);
	length = snprintf(marker, sizeof(marker), "\n[... %llu bytes left out ...]\n",
		(unsigned long long)(c->total - head - (n - from)));
	r = put_text(out, p, head, binary);
	if (r >= 0)
		r = buf_append(out, marker, (size_t)length);
	if (r >= 0)
		r = put_text(out, p + from, n - from, binary);
	return r;
}

int capture_text(const struct capture *c, json_object **ret, bool *ret_truncated, bool *ret_binary)
{
	size_t n, cut;
	_cleanup_free_ uint8_t *p = assemble(c, &n, &cut);
	bool truncated, binary = false;
	struct buf out;
	int r;

	if (!p)
		return -ENOMEM;
	truncated = cut < n || span_cost(p, n) > CAPTURE_JSON_BYTES;
	buf_init(&out, 3 * LIMIT_CAPTURE_BYTES + MARKER_MAX);
	if (cut < n)
		r = put_cut(&out, c, p, cut, cut, n, &binary);
	else if (truncated)
		r = put_cut(&out, c, p, n / 4, n / 4, n, &binary);
	else
		r = put_text(&out, p, n, &binary);
	if (r >= 0) {
		*ret = json_object_new_string_len(
			buf_len(&out) ? (const char *)buf_head(&out) : "", (int)buf_len(&out));
		r = *ret ? 0 : -ENOMEM;
		*ret_truncated = truncated;
		*ret_binary = binary;
	}
	buf_done(&out);
	return r;
}
