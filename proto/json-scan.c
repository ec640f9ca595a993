/* SPDX-License-Identifier: MIT */
/*
 * A strict RFC 8259 scanner that all JSON from outside passes before json-c sees it. Called by
 * json_parse; has its own fuzz target. What must stay true: one pass, no recursion (a bounded stack
 * holds the open levels), memory bounded by the length of the text, and every accepted text has the
 * same meaning in every correct parser. Stricter than the RFC by intent: duplicate keys, NUL in
 * keys, lone surrogates, integers beyond +-(2^53-1), numbers of more than 128 characters and
 * doubles that are not finite are refused.
 */

#include "proto/json.h"

#include <math.h>

#include "proto/utf8.h"

#define INTEGER_MAX    INT64_C(9007199254740991) /* 2^53 - 1 */
#define NUMBER_LENGTH  128
#define SCAN_DEPTH_MAX 128 /* the stack's size; json_limits.max_depth is below it */

/* A decoded key of an object that is still open; the bytes are in the arena. */
struct key {
	size_t offset, length;
	size_t at; /* where it began in the text */
};

struct level {
	bool object;
	size_t first_key;   /* index into keys */
	size_t first_arena; /* index into arena */
};

struct scan {
	const uint8_t *p;
	size_t n, i;
	const struct json_limits *limits;
	unsigned values, depth;
	struct level levels[SCAN_DEPTH_MAX];
	struct key *keys; /* owned */
	size_t n_keys, cap_keys;
	uint8_t *arena; /* owned */
	size_t n_arena, cap_arena;
	const char *reason; /* static: why the text was refused */
	size_t reason_at;
	bool no_memory;
};

static void scan_done(struct scan *s)
{
	free(s->keys);
	free(s->arena);
}

static bool refuse_at(struct scan *s, size_t at, const char *reason)
{
	if (!s->reason) {
		s->reason = reason;
		s->reason_at = at;
	}
	return false;
}

static bool refuse(struct scan *s, const char *reason)
{
	return refuse_at(s, s->i, reason);
}

static int peek(const struct scan *s)
{
	return s->i < s->n ? s->p[s->i] : -1;
}

static void skip_space(struct scan *s)
{
	while (s->i < s->n) {
		uint8_t c = s->p[s->i];
		if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
			return;
		s->i++;
	}
}

/* Counts the leading bytes of p that are printable ASCII without quote and backslash, the most
 * common ones. */
static size_t plain_run(const uint8_t *p, size_t n)
{
	size_t i = 0;
	while (i < n && p[i] >= 0x20 && p[i] < 0x7f && p[i] != '"' && p[i] != '\\')
		i++;
	return i;
}

bool json_utf8_valid(const void *text, size_t n)
{
	const uint8_t *p = text;
	for (size_t i = 0; i < n;) {
		if (p[i] < 0x80) {
			i++;
			continue;
		}
		size_t len = utf8_decode(p + i, n - i, NULL);
		if (len == 0)
			return false;
		i += len;
	}
	return true;
}

static bool arena_add(struct scan *s, const uint8_t *p, size_t n)
{
	if (s->cap_arena - s->n_arena < n) {
		size_t cap = MAX_OF(MAX_OF(s->cap_arena * 2, s->n_arena + n), (size_t)256);
		uint8_t *a = realloc(s->arena, cap);
		if (!a) {
			s->no_memory = true;
			return false;
		}
		s->arena = a;
		s->cap_arena = cap;
	}
	memcpy(s->arena + s->n_arena, p, n);
	s->n_arena += n;
	return true;
}

static bool key_add(struct scan *s, struct key key)
{
	if (s->n_keys == s->cap_keys) {
		size_t cap = MAX_OF(s->cap_keys * 2, (size_t)16);
		struct key *k = reallocarray(s->keys, cap, sizeof(*k));
		if (!k) {
			s->no_memory = true;
			return false;
		}
		s->keys = k;
		s->cap_keys = cap;
	}
	s->keys[s->n_keys++] = key;
	return true;
}

static bool scan_hex4(struct scan *s, uint32_t *ret)
{
	uint32_t v = 0;
	for (int k = 0; k < 4; k++) {
		int c = peek(s);
		if (c >= '0' && c <= '9')
			v = v * 16 + (uint32_t)(c - '0');
		else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
			v = v * 16 + (uint32_t)((c | 0x20) - 'a') + 10;
		else
			return refuse(s, "a \\u escape needs four hex digits");
		s->i++;
	}
	*ret = v;
	return true;
}

static size_t utf8_put(uint32_t c, uint8_t ret[4])
{
	if (c < 0x80) {
		ret[0] = (uint8_t)c;
		return 1;
	}
	if (c < 0x800) {
		ret[0] = (uint8_t)(0xc0 | c >> 6);
		ret[1] = (uint8_t)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		ret[0] = (uint8_t)(0xe0 | c >> 12);
		ret[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
		ret[2] = (uint8_t)(0x80 | (c & 0x3f));
		return 3;
	}
	ret[0] = (uint8_t)(0xf0 | c >> 18);
	ret[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
	ret[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
	ret[3] = (uint8_t)(0x80 | (c & 0x3f));
	return 4;
}

/* Scans one code point after "\u": one escape, or a pair of surrogates. */
static bool scan_unicode(struct scan *s, uint32_t *ret)
{
	size_t at = s->i - 2;
	uint32_t c, low;
	if (!scan_hex4(s, &c))
		return false;
	if (c >= 0xdc00 && c <= 0xdfff)
		return refuse_at(s, at, "a lone surrogate");
	if (c >= 0xd800 && c <= 0xdbff) {
		if (s->n - s->i < 2 || s->p[s->i] != '\\' || s->p[s->i + 1] != 'u')
			return refuse_at(s, at, "a lone surrogate");
		s->i += 2;
		if (!scan_hex4(s, &low))
			return false;
		if (low < 0xdc00 || low > 0xdfff)
			return refuse_at(s, at, "a lone surrogate");
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	}
	*ret = c;
	return true;
}

/* Scans an escape after its backslash. key: the decoded bytes go to the arena. */
static bool scan_escape(struct scan *s, bool key)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	int c = peek(s);
	uint8_t bytes[4];
	size_t n = 1;
	const char *hit = c > 0 ? strchr(from, c) : NULL;
	if (hit) {
		s->i++;
		bytes[0] = (uint8_t)to[hit - from];
	} else if (c == 'u') {
		uint32_t u;
		s->i++;
		if (!scan_unicode(s, &u))
			return false;
		if (key && u == 0)
			return refuse(s, "NUL in a key");
		n = utf8_put(u, bytes);
	} else {
		return refuse(s, "an unknown escape");
	}
	return !key || arena_add(s, bytes, n);
}

/* Scans a string from its opening quote. */
static bool scan_string(struct scan *s, bool key)
{
	s->i++;
	while (s->i < s->n) {
		size_t plain = plain_run(s->p + s->i, s->n - s->i);
		if (key && plain > 0 && !arena_add(s, s->p + s->i, plain))
			return false;
		s->i += plain;
		if (s->i == s->n)
			break;
		uint8_t c = s->p[s->i];
		if (c == '"') {
			s->i++;
			return true;
		}
		if (c == '\\') {
			s->i++;
			if (!scan_escape(s, key))
				return false;
			continue;
		}
		if (c < 0x20)
			return refuse(s, "a raw control byte in a string");
		size_t len = utf8_decode(s->p + s->i, s->n - s->i, NULL);
		if (len == 0)
			return refuse(s, "not valid UTF-8");
		if (key && !arena_add(s, s->p + s->i, len))
			return false;
		s->i += len;
	}
	return refuse(s, "a string does not end");
}

static size_t scan_digits(struct scan *s)
{
	size_t from = s->i;
	while (s->i < s->n && s->p[s->i] >= '0' && s->p[s->i] <= '9')
		s->i++;
	return s->i - from;
}

static bool number_in_range(struct scan *s, size_t from, bool integer)
{
	char text[NUMBER_LENGTH + 1];
	size_t len = s->i - from;
	if (len > NUMBER_LENGTH)
		return refuse_at(s, from, "a number of more than 128 characters");
	memcpy(text, s->p + from, len);
	text[len] = '\0';
	if (!integer)
		return isfinite(strtod(text, NULL)) || refuse_at(s, from, "a number out of range");
	errno = 0;
	long long v = strtoll(text, NULL, 10);
	if (errno == ERANGE || v > INTEGER_MAX || v < -INTEGER_MAX)
		return refuse_at(s, from, "an integer beyond 2^53-1");
	return true;
}

static bool scan_number(struct scan *s)
{
	size_t from = s->i;
	bool integer = true;
	if (peek(s) == '-')
		s->i++;
	size_t first = s->i, digits = scan_digits(s);
	if (digits == 0)
		return refuse(s, "not a JSON value");
	if (digits > 1 && s->p[first] == '0')
		return refuse_at(s, first, "a number with a leading zero");
	if (peek(s) == '.') {
		s->i++;
		integer = false;
		if (scan_digits(s) == 0)
			return refuse(s, "digits are missing after the point");
	}
	if (peek(s) == 'e' || peek(s) == 'E') {
		s->i++;
		integer = false;
		if (peek(s) == '+' || peek(s) == '-')
			s->i++;
		if (scan_digits(s) == 0)
			return refuse(s, "digits are missing in an exponent");
	}
	return number_in_range(s, from, integer);
}

static bool scan_literal(struct scan *s)
{
	static const char *const words[] = { "true", "false", "null" };
	for (size_t k = 0; k < ARRAY_SIZE(words); k++) {
		size_t len = strlen(words[k]);
		if (s->n - s->i >= len && memcmp(s->p + s->i, words[k], len) == 0) {
			s->i += len;
			return true;
		}
	}
	return refuse(s, "not a JSON value");
}

static int key_compare(const void *a, const void *b, void *arena)
{
	const struct key *x = a, *y = b;
	const uint8_t *bytes = arena;
	size_t common = MIN_OF(x->length, y->length);
	int c = common > 0 ? memcmp(bytes + x->offset, bytes + y->offset, common) : 0;
	return c != 0 ? c : (x->length > y->length) - (x->length < y->length);
}

/* Checks at the end of an object that no two keys are equal after decoding. Sorting bounds the cost
 * of a hostile object to n log n. */
static bool keys_unique(struct scan *s, const struct level *l)
{
	size_t n = s->n_keys - l->first_key;
	if (n > 1) {
		struct key *k = s->keys + l->first_key;
		qsort_r(k, n, sizeof(*k), key_compare, s->arena);
		for (size_t i = 1; i < n; i++)
			if (key_compare(&k[i - 1], &k[i], s->arena) == 0)
				return refuse_at(
					s, MAX_OF(k[i - 1].at, k[i].at), "a duplicate key");
	}
	s->n_keys = l->first_key;
	s->n_arena = l->first_arena;
	return true;
}

/* Scans a key and its colon. */
static bool scan_key(struct scan *s)
{
	skip_space(s);
	struct key key = { .offset = s->n_arena, .at = s->i };
	if (peek(s) != '"')
		return refuse(s, "a key must be a string in double quotes");
	if (!scan_string(s, true))
		return false;
	key.length = s->n_arena - key.offset;
	if (!key_add(s, key))
		return false;
	skip_space(s);
	if (peek(s) != ':')
		return refuse(s, "a colon is missing after a key");
	s->i++;
	return true;
}

static bool open_level(struct scan *s, bool object)
{
	if (s->depth >= s->limits->max_depth || s->depth >= SCAN_DEPTH_MAX)
		return refuse(s, "nested too deep");
	s->levels[s->depth++] = (struct level){
		.object = object,
		.first_key = s->n_keys,
		.first_arena = s->n_arena,
	};
	s->i++;
	return true;
}

/* Closes the innermost level if its bracket is next. */
static bool try_close(struct scan *s, bool *ret_closed)
{
	const struct level *l = &s->levels[s->depth - 1];
	*ret_closed = false;
	if (peek(s) != (l->object ? '}' : ']'))
		return true;
	if (l->object && !keys_unique(s, l))
		return false;
	s->i++;
	s->depth--;
	*ret_closed = true;
	return true;
}

/* Scans the start of a value; ret_open: a non-empty object or array was entered and its first value
 * is next. */
static bool scan_value(struct scan *s, bool *ret_open)
{
	*ret_open = false;
	skip_space(s);
	if (++s->values > s->limits->max_values)
		return refuse(s, "too many values");
	int c = peek(s);
	if (c == -1)
		return refuse(s, "a value is missing");
	if (c == '"')
		return scan_string(s, false);
	if (c == '-' || (c >= '0' && c <= '9'))
		return scan_number(s);
	if (c != '{' && c != '[')
		return scan_literal(s);

	bool closed;
	if (!open_level(s, c == '{'))
		return false;
	skip_space(s);
	if (!try_close(s, &closed))
		return false;
	*ret_open = !closed;
	return closed || c == '[' || scan_key(s);
}

/* Scans what follows a value and closes the levels that end here; ret_more: a comma was read and a
 * value follows. */
static bool scan_after(struct scan *s, bool *ret_more)
{
	*ret_more = false;
	while (s->depth > 0) {
		bool closed;
		skip_space(s);
		if (!try_close(s, &closed))
			return false;
		if (closed)
			continue;
		if (peek(s) != ',')
			return refuse(s, "a comma or a closing bracket is missing");
		s->i++;
		*ret_more = true;
		return !s->levels[s->depth - 1].object || scan_key(s);
	}
	skip_space(s);
	return s->i == s->n || refuse(s, "something follows the value");
}

static bool scan_text(struct scan *s)
{
	bool more = true;
	while (more) {
		bool open;
		if (!scan_value(s, &open))
			return false;
		if (!open && !scan_after(s, &more))
			return false;
	}
	return true;
}

int json_scan(const char *p, size_t n, const struct json_limits *limits, struct error *err)
{
	_cleanup_(scan_done) struct scan s = { .p = (const uint8_t *)p, .n = n, .limits = limits };
	if (n > limits->max_bytes) {
		(void)error_set(err, ERROR_INVALID_ARGUMENT, NULL,
			"pass large data by standard input",
			"not valid JSON: %zu bytes, at most %zu are allowed", n, limits->max_bytes);
		return -EBADMSG;
	}
	if (scan_text(&s))
		return 0;
	if (s.no_memory)
		return error_no_memory(err, "out of memory scanning JSON");
	(void)error_set(err, ERROR_INVALID_ARGUMENT, NULL,
		"send one JSON object (RFC 8259) in UTF-8 a line", "not valid JSON: %s at byte %zu",
		s.reason, s.reason_at);
	return -EBADMSG;
}
