/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of untrusted JSON.
 * - json-c parses what the scanner accepts. Written out, it is accepted again and means the same. A
 *   refusal always has a reason.
 * - An object is also read as an error reply and written as one, as a client does with a daemon's
 *   answer.
 * - The raw bytes become a string, as a guest's output does. Fixed or cut for an error's text they
 *   are UTF-8 and otherwise unchanged.
 * - The daemon's reused parser gives the same answer as a new parser, whatever the texts before.
 */

#include "proto/json.h"

#include "proto/limits.h"
#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Parses the text of o. */
static json_object *again(json_object *o)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	json_object *ret = NULL;
	size_t n = 0;
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);

	/* Escapes make text longer, so this uses the wider limits of replies. */
	if (!text || json_parse(text, n, &json_limits_reply, &ret, &err) < 0)
		abort();
	return ret;
}

static void check_round(json_object *o)
{
	_cleanup_json_ json_object *copy = again(o);

	if (!json_object_equal(o, copy))
		abort();
}

static bool same(const char *a, const char *b)
{
	return a && b ? streq(a, b) : a == b;
}

/* A daemon's error is unchanged when a client reads it, writes it and reads it again. */
static void check_error(json_object *o)
{
	_cleanup_error_ struct error e = ERROR_INIT, second = ERROR_INIT;

	if (json_error_parse(o, &e) < 0) {
		if (e.set)
			abort();
		return;
	}
	_cleanup_json_ json_object *reply = json_error_object(&e);
	_cleanup_json_ json_object *copy = reply ? again(reply) : NULL;
	if (!copy || json_error_parse(copy, &second) < 0 || second.code != e.code ||
		!same(second.message, e.message) || !same(second.cause, e.cause) ||
		!same(second.fix, e.fix))
		abort();
}

/* Reads members by type. The getters are called only for the right type. */
static void check_members(json_object *o)
{
	json_object_object_foreach(o, key, val)
	{
		json_object *got = json_get(o, key);

		if (got != val)
			abort();
		if (!val && (json_get_str(o, key, NULL) || json_get_int(o, key, 7) != 7 ||
				    json_get_bool(o, key, false)))
			abort();
		if (json_object_is_type(val, json_type_string))
			(void)strlen(json_get_str(o, key, NULL));
		else if (json_object_is_type(val, json_type_int) &&
			 llabs(json_get_int(o, key, 0)) > INT64_C(9007199254740991))
			abort();
		else if (json_object_is_type(val, json_type_boolean))
			(void)json_get_bool(o, key, false);
	}
}

/* Valid UTF-8 becomes a reply's string and comes back unchanged. */
static void check_string(const uint8_t *data, size_t size)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	uint64_t wall = 0;

	memcpy(&wall, data, MIN_OF(size, sizeof(wall)));
	if (!o || json_add_strn(o, "text", (const char *)data, size) < 0 ||
		json_add_str(o, "none", NULL) < 0 || json_add_int(o, "n", (int32_t)wall) < 0 ||
		json_add_bool(o, "yes", size > 0) < 0)
		abort();
	int r = json_add_time(o, "time", wall);
	if (r < 0 && (r != -ERANGE || json_get(o, "time")))
		abort();
	check_round(o);
}

/* Untrusted text in an error: when fixed it is UTF-8, and unchanged if it was; when cut it fits,
 * and is UTF-8 if it was. */
static void check_text(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = calloc(1, size + 1);
	_cleanup_free_ char *mended = NULL;
	size_t max = size > 0 ? data[0] : 0, n, cut;
	bool valid;

	if (!text)
		abort();
	if (size > 0)
		memcpy(text, data, size);
	n = strlen(text);
	valid = json_utf8_valid(text, n);
	mended = utf8_repair(text);
	if (!mended || !json_utf8_valid(mended, strlen(mended)) || (valid && !streq(text, mended)))
		abort();
	cut = (size_t)utf8_cut(text, max);
	if (cut > MIN_OF(n, max) || cut + UTF8_MAX <= MIN_OF(n, max) ||
		(valid && !json_utf8_valid(text, cut)))
		abort();
}

/* Compares json_parse's result with that of the parser that all inputs share. */
static void check_kept(const char *text, size_t n, int parsed, json_object *o)
{
	static struct json_parser *parser;
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *kept = NULL;

	if (!parser && json_parser_new(&json_limits_request, &parser) < 0)
		abort();
	if (json_parser_run(parser, text, n, &kept, &err) != parsed || err.set != (parsed < 0) ||
		!json_object_equal(kept, o))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error err = ERROR_INIT, parse_err = ERROR_INIT;
	_cleanup_json_ json_object *o = NULL;
	const char *text = (const char *)data;
	int scanned = json_scan(text, size, &json_limits_request, &err);
	int parsed = json_parse(text, size, &json_limits_request, &o, &parse_err);

	if (scanned != parsed || (scanned < 0 && (!err.set || !parse_err.set)))
		abort();
	check_kept(text, size, parsed, o);
	check_text(data, size);
	if (json_utf8_valid(data, size))
		check_string(data, size);
	else if (scanned >= 0)
		abort();
	if (scanned < 0)
		return 0;
	check_round(o);
	check_error(o);
	if (json_object_is_type(o, json_type_object))
		check_members(o);
	return 0;
}
