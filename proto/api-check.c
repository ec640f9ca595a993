/* SPDX-License-Identifier: MIT */
/*
 * Checks values against the fields of the table: parameters before a handler sees them, results in
 * tests and debug builds. Called by the dispatcher. What must stay true: a handler gets an object
 * with every field present and of its type and needs no check of its own; every error names the
 * field, the value and what is allowed; a value is never coerced.
 */

#include "proto/api.h"

#include <inttypes.h>
#include <stdarg.h>
#include <time.h>

#include "proto/json.h"
#include "proto/limits.h"
#include "proto/utf8.h"

#define CALL_ID_MAX 64
#define SHOWN_MAX   60 /* bytes of a refused value in the message */
#define ID_DIGITS   12

struct check {
	bool result; /* checks a result: complete ids, no missing field */
	size_t n_fds;
	unsigned fds_named; /* bit i: a field names descriptor i */
	struct error *err;
};

static const char *type_word(enum api_type type)
{
	static const char *const words[API_TYPE_MAX] = {
		[API_BOOL] = "true or false",
		[API_INT] = "an integer",
		[API_STRING] = "a string",
		[API_ENUM] = "one of a few words",
		[API_ID] = "an id",
		[API_REF] = "a name or an id",
		[API_NAME] = "a name",
		[API_TIME] = "an RFC 3339 time in UTC",
		[API_OBJECT] = "an object",
		[API_ARRAY] = "an array",
		[API_CALL_ID] = "a string of at most 64 bytes or an integer",
		[API_FD] = "the index of a descriptor sent with the line",
		[API_JSON] = "a value",
	};
	return words[type];
}

/* Writes the value as JSON for a message, cut between characters. */
static void show(json_object *val, char ret[SHOWN_MAX + 8])
{
	const char *text = json_object_to_json_string_ext(val, JSON_C_TO_STRING_PLAIN);
	int cut = text ? utf8_cut(text, SHOWN_MAX) : 0;
	(void)snprintf(ret, SHOWN_MAX + 8, "%.*s%s", cut, text ? text : "",
		text && text[cut] ? "..." : "");
}

/* Returns a valid example for the fix: the nearest end of a range of seconds, the minimum of
 * another range, else the default, else any value. NULL if the description is a better fix. */
static char *good_value(const struct api_field *f, json_object *val)
{
	if (f->type == API_INT && json_object_is_type(val, json_type_int)) {
		int64_t v = json_object_get_int64(val);
		if (v < f->min)
			return str_printf("%" PRId64, f->min);
		if (v > f->max && (strstr(f->name, "_seconds") || !f->dflt))
			return str_printf("%" PRId64, f->max);
	}
	if (f->dflt)
		return strdup(f->dflt);
	switch (f->type) {
	case API_BOOL: return strdup("true");
	case API_INT: return str_printf("%" PRId64, f->min);
	case API_ENUM: return str_printf("\"%s\"", f->names[0]);
	default: return NULL;
	}
}

static int refuse(struct check *c, const char *path, const struct api_field *f, json_object *val,
	const char *fmt, ...) _printf_(5, 6);
static int refuse(struct check *c, const char *path, const struct api_field *f, json_object *val,
	const char *fmt, ...)
{
	char shown[SHOWN_MAX + 8], wanted[512];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(wanted, sizeof(wanted), fmt, ap);
	va_end(ap);
	show(val, shown);
	_cleanup_free_ char *good = c->result || !f ? NULL : good_value(f, val), *fix = NULL;
	if (f && ((f->type == API_ID && streq(f->names[0], "vm")) || f->type == API_REF))
		fix = str_printf("pyro %s list", f->names[0]);
	else if (good)
		fix = str_printf("send \"%s\": %s", path, good);
	else
		fix = str_printf("send a \"%s\" that is %s", path, wanted);
	return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL, fix, "%s must be %s, not %s", path,
		wanted, shown);
}

/* Joins the names to "a, b, c", cut at size. */
static void join_names(const char *const *names, char *ret, size_t size)
{
	size_t at = 0;
	ret[0] = '\0';
	for (; *names && at < size; names++) {
		int n = snprintf(ret + at, size - at, "%s%s", at > 0 ? ", " : "", *names);
		at += n > 0 ? (size_t)n : 0;
	}
}

static int check_int(struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	int64_t v = json_object_get_int64(val);
	if (v < f->min || v > f->max)
		return refuse(c, path, f, val, "from %" PRId64 " to %" PRId64, f->min, f->max);
	return 0;
}

static int check_string(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	int64_t n = json_object_get_string_len(val);
	if (!(f->flags & API_NUL) && memchr(json_object_get_string(val), '\0', (size_t)n))
		return refuse(c, path, f, val, "without NUL");
	if (n < f->min && f->min == 1)
		return refuse(c, path, f, val, "not empty");
	if (n < f->min || (f->max > 0 && n > f->max))
		return refuse(
			c, path, f, val, "from %" PRId64 " to %" PRId64 " bytes", f->min, f->max);
	return 0;
}

static int check_enum(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	char known[300];
	const char *text = json_object_get_string(val);
	if (strlen(text) == (size_t)json_object_get_string_len(val))
		for (const char *const *name = f->names; *name; name++)
			if (streq(*name, text))
				return 0;
	join_names(f->names, known, sizeof(known));
	return refuse(c, path, f, val, "one of %s", known);
}

bool api_is_name(const char *text, size_t n)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";

	return n > 0 && n <= LIMIT_NAME_BYTES && strspn(text, allowed) == n &&
	       !strchr("._-", text[0]);
}

static int check_name(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	if (api_is_name(json_object_get_string(val), (size_t)json_object_get_string_len(val)))
		return 0;
	return refuse(c, path, f, val,
		"%s of 1 to %d of the characters a-z 0-9 . _ -, the first a letter or digit",
		f->type == API_REF ? "a name or an id" : "a name", LIMIT_NAME_BYTES);
}

/* A workspace's id in place of a machine's: people have both, so it is "not found". */
static int refuse_workspace(struct check *c, const char *id)
{
	_cleanup_free_ char *fix = str_printf("pyro workspace status %s", id);

	return error_set(c->err, ERROR_VM_NOT_FOUND, "it is the id of a workspace", fix,
		"machine %s not found", id);
}

static int check_id(struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	const char *text = json_object_get_string(val), *prefix = api_id_prefix(f->names[0]);
	size_t n = (size_t)json_object_get_string_len(val), skip = strlen(prefix);
	size_t digits = startswith(text, prefix) ? strspn(text + skip, "0123456789abcdef") : 0;
	bool whole = digits == ID_DIGITS, some = digits > 0 && digits < ID_DIGITS && !c->result;
	if (!c->result && streq(f->names[0], "vm") && startswith(text, "ws-") &&
		api_is_name(text, n))
		return refuse_workspace(c, text);
	if ((!whole && !some) || skip + digits != n)
		return refuse(c, path, f, val, "\"%s\" and 12 hex digits%s", prefix,
			c->result ? "" : ", or the beginning of such an id");
	return 0;
}

int api_time_usec(const char *text, uint64_t *ret)
{
	struct tm tm = { 0 };
	/* strptime alone takes one digit for two, and spaces. */
	const char *end = strspn(text, "0123456789-T:") == strlen("2026-01-01T00:00:00")
				  ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm)
				  : NULL;
	uint64_t part = 0, unit = USEC_PER_SEC / 10;
	time_t seconds;

	if (end && *end == '.')
		for (end++; *end >= '0' && *end <= '9'; end++, unit /= 10)
			part += (uint64_t)(*end - '0') * unit;
	if (!end || !streq(end, "Z"))
		return -EBADMSG;
	seconds = timegm(&tm);
	*ret = seconds < 0 ? 0 : (uint64_t)seconds * USEC_PER_SEC + part;
	return 0;
}

static int check_time(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	uint64_t usec;

	if (api_time_usec(json_object_get_string(val), &usec) < 0)
		return refuse(c, path, f, val, "%s", type_word(API_TIME));
	return 0;
}

static int check_call_id(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	if (json_object_is_type(val, json_type_string) &&
		json_object_get_string_len(val) > CALL_ID_MAX)
		return refuse(c, path, f, val, "%s", type_word(API_CALL_ID));
	return 0;
}

static int check_fd(struct check *c, const char *path, json_object *val)
{
	int64_t v = json_object_get_int64(val);
	if (v < 0 || (uint64_t)v >= c->n_fds)
		return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL,
			"send the descriptor with the line and add \"fds\": n",
			"%s names descriptor %" PRId64 ", but %zu came with the line", path, v,
			c->n_fds);
	if (c->fds_named & (1U << v))
		return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL,
			"send a separate descriptor for each",
			"%s names descriptor %" PRId64 ", which another parameter names", path, v);
	c->fds_named |= 1U << v;
	return 0;
}

static json_type json_type_of(enum api_type type)
{
	switch (type) {
	case API_BOOL: return json_type_boolean;
	case API_INT:
	case API_FD: return json_type_int;
	case API_OBJECT: return json_type_object;
	case API_ARRAY: return json_type_array;
	default: return json_type_string;
	}
}

/* Checks a value that is neither an object nor an array. */
static int check_scalar(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	switch (f->type) {
	case API_INT: return check_int(c, path, f, val);
	case API_STRING: return check_string(c, path, f, val);
	case API_ENUM: return check_enum(c, path, f, val);
	case API_ID: return check_id(c, path, f, val);
	case API_REF:
	case API_NAME: return check_name(c, path, f, val);
	case API_TIME: return check_time(c, path, f, val);
	case API_CALL_ID: return check_call_id(c, path, f, val);
	case API_FD: return check_fd(c, path, val);
	default: return 0;
	}
}

static bool type_matches(const struct api_field *f, json_object *val)
{
	if (f->type == API_JSON ||
		(f->type == API_CALL_ID && json_object_is_type(val, json_type_int)))
		return true;
	return json_object_is_type(val, json_type_of(f->type));
}

/* Checks an object of strings: env, labels. */
static int check_strings(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	if (f->max > 0 && json_object_object_length(val) > f->max)
		return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL, "leave some of them out",
			"%s has %d members, at most %" PRId64 " are allowed", path,
			json_object_object_length(val), f->max);
	json_object_object_foreach(val, key, member)
	{
		_cleanup_free_ char *sub = str_printf("%s.%s", path, key);
		if (!sub)
			return error_no_memory(c->err, "out of memory");
		if (!json_object_is_type(member, json_type_string))
			return refuse(c, sub, NULL, member, "a string");
		static const struct api_field plain = { .type = API_STRING };
		int r = check_string(c, sub, &plain, member);
		if (r < 0)
			return r;
	}
	return 0;
}

static const struct api_field *field_of(const struct api_field *fields, const char *name)
{
	for (; fields->name; fields++)
		if (streq(fields->name, name))
			return fields;
	return NULL;
}

static int refuse_unknown(
	struct check *c, const struct api_field *fields, const char *where, const char *name)
{
	char known[1024];
	size_t at = 0;
	known[0] = '\0';
	for (const struct api_field *f = fields; f->name && at < sizeof(known); f++) {
		int n = snprintf(
			known + at, sizeof(known) - at, "%s%s", at > 0 ? ", " : "", f->name);
		at += n > 0 ? (size_t)n : 0;
	}
	_cleanup_free_ char *fix =
		known[0] ? str_printf("the known ones are %s", known) : strdup("it takes none");
	return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL, fix, "unknown %s %s%.*s",
		c->result ? "result field" : "parameter", where, utf8_cut(name, SHOWN_MAX), name);
}

/* Checks one value; check_tree walks objects and arrays. */
static int check_value(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	if (!val) {
		if (f->flags & API_NULLABLE)
			return 0;
		return refuse(c, path, f, val, "%s", type_word(f->type));
	}
	if (!type_matches(f, val))
		return refuse(c, path, f, val, "%s", type_word(f->type));
	if (f->type == API_OBJECT && !f->sub)
		return check_strings(c, path, f, val);
	if (f->type == API_ARRAY && f->max > 0 && (int64_t)json_object_array_length(val) > f->max)
		return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL, "leave some of them out",
			"%s has %zu elements, at most %" PRId64 " are allowed", path,
			json_object_array_length(val), f->max);
	return check_scalar(c, path, f, val);
}

static int check_tree(
	struct check *c, const char *path, const struct api_field *f, json_object *val);

/* Checks that every member is known and every required field present. prefix: "" or "runtime.". */
static int check_members(
	struct check *c, const char *prefix, const struct api_field *fields, json_object *o)
{
	json_object_object_foreach(o, key, member)
	{
		(void)member;
		if (!field_of(fields, key))
			return refuse_unknown(c, fields, prefix, key);
	}
	for (const struct api_field *f = fields; f->name; f++) {
		json_object *val = NULL;
		bool there = json_object_object_get_ex(o, f->name, &val);
		bool needed = c->result ? !(f->flags & API_OPTIONAL) : f->flags & API_REQUIRED;
		if (!there && needed)
			return error_set(c->err, ERROR_INVALID_ARGUMENT, NULL, f->help,
				"%s %s%s is missing", c->result ? "result field" : "parameter",
				prefix, f->name);
		if (!there)
			continue;
		if (!val && !c->result && !(f->flags & (API_REQUIRED | API_NULLABLE)))
			continue; /* null means the default */
		_cleanup_free_ char *path = str_printf("%s%s", prefix, f->name);
		if (!path)
			return error_no_memory(c->err, "out of memory");
		int r = check_tree(c, path, f, val);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The nesting of the table bounds the recursion. */
static int check_tree(
	struct check *c, const char *path, const struct api_field *f, json_object *val)
{
	int r = check_value(c, path, f, val);
	if (r < 0 || !val || !f->sub)
		return r;
	if (f->type == API_OBJECT) {
		_cleanup_free_ char *prefix = str_printf("%s.", path);
		if (!prefix)
			return error_no_memory(c->err, "out of memory");
		return check_members(c, prefix, f->sub, val);
	}
	for (size_t i = 0; i < json_object_array_length(val); i++) {
		_cleanup_free_ char *element = str_printf("%s[%zu]", path, i);
		if (!element)
			return error_no_memory(c->err, "out of memory");
		r = check_tree(c, element, f->sub, json_object_array_get_idx(val, i));
		if (r < 0)
			return r;
	}
	return 0;
}

/* Creates an object with every field: the given value, else the default, else null. */
static int fill_in(const struct api_field *fields, json_object *params, json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!o)
		return -ENOMEM;
	for (const struct api_field *f = fields; f->name; f++) {
		json_object *val = json_object_get(json_get(params, f->name));
		if (!val && f->dflt) {
			val = json_tokener_parse(f->dflt);
			if (!val)
				return -ENOMEM;
		}
		int r = json_add(o, f->name, val);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(o);
	return 0;
}

int api_check_params(const struct api_field *fields, struct json_object *params, size_t n_fds,
	struct json_object **ret, struct error *err)
{
	struct check c = { .n_fds = n_fds, .err = err };
	if (params) {
		if (!json_object_is_type(params, json_type_object))
			return refuse(&c, "params", NULL, params, "an object");
	}
	_cleanup_json_ json_object *empty = params ? NULL : json_object_new_object();
	int r = check_members(&c, "", fields, params ? params : empty);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_fds; i++)
		if (!(c.fds_named & (1U << i)))
			return error_set(err, ERROR_INVALID_ARGUMENT, NULL,
				"name it in a parameter, or send the line without it",
				"descriptor %zu came with the line, but no parameter names it", i);
	r = fill_in(fields, params, ret);
	if (r < 0)
		return error_no_memory(err, "out of memory checking parameters");
	return 0;
}

int api_check_result(const struct api_field *fields, struct json_object *result, struct error *err)
{
	struct check c = { .result = true, .err = err };
	if (!json_object_is_type(result, json_type_object))
		return refuse(&c, "result", NULL, result, "an object");
	return check_members(&c, "", fields, result);
}
