/* SPDX-License-Identifier: MIT */
/*
 * Parses JSON from outside and builds JSON for replies. Called by the daemon's dispatcher, by
 * libpyro for replies, and wherever pyro reads its own files. What must stay true: json-c sees only
 * text that json_scan has accepted (json-scan.c); the getters never coerce; the JSON-RPC error
 * object is made here and nowhere else, so that every client sees the same members.
 */

#include "proto/json.h"

#include <assert.h>
#include <time.h>

#include "proto/limits.h"
#include "proto/utf8.h"

const struct json_limits json_limits_request = {
	.max_bytes = LIMIT_REQUEST_BYTES,
	.max_depth = LIMIT_JSON_DEPTH,
	.max_values = LIMIT_JSON_VALUES,
};

/* A reply may be a long list: its size bounds it, and the number of values follows from the
 * size. */
const struct json_limits json_limits_reply = {
	.max_bytes = LIMIT_REPLY_BYTES,
	.max_depth = LIMIT_JSON_DEPTH,
	.max_values = LIMIT_REPLY_BYTES / 2,
};

/* json-c's parser and its stack, reused for each text: creating one costs as much as parsing a
 * request. */
struct json_parser {
	const struct json_limits *limits; /* borrowed: static */
	json_tokener *tok;                /* owned */
};

struct json_parser *json_parser_free(struct json_parser *p)
{
	if (p && p->tok)
		json_tokener_free(p->tok);
	free(p);
	return NULL;
}

int json_parser_new(const struct json_limits *limits, struct json_parser **ret)
{
	_cleanup_(json_parser_freep) struct json_parser *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->limits = limits;
	/* json-c counts a scalar as a level; json_scan has bounded the depth already. */
	p->tok = json_tokener_new_ex((int)limits->max_depth + 2);
	if (!p->tok)
		return -ENOMEM;
	/* Not JSON_TOKENER_STRICT: json_scan is stricter, and with the flag json-c 0.18 refuses all
	 * non-ASCII text. */
	*ret = TAKE_PTR(p);
	return 0;
}

int json_parser_run(
	struct json_parser *p, const char *text, size_t n, json_object **ret, struct error *err)
{
	int r = json_scan(text, n, p->limits, err);
	if (r < 0)
		return r;

	json_tokener_reset(p->tok); /* the last text may have left an error state */
	_cleanup_json_ json_object *o = json_tokener_parse_ex(p->tok, text, (int)n);
	enum json_tokener_error e = json_tokener_get_error(p->tok);
	if (e == json_tokener_continue) { /* a bare number ends only at the NUL */
		o = json_tokener_parse_ex(p->tok, "", 1);
		e = json_tokener_get_error(p->tok);
	}
	if (e != json_tokener_success) {
		(void)error_set(err, ERROR_INVALID_ARGUMENT, json_tokener_error_desc(e),
			"send one JSON object (RFC 8259) in UTF-8 a line", "not valid JSON");
		return -EBADMSG;
	}
	*ret = TAKE_PTR(o);
	return 0;
}

int json_parse(const char *p, size_t n, const struct json_limits *limits, json_object **ret,
	struct error *err)
{
	_cleanup_(json_parser_freep) struct json_parser *parser = NULL;
	if (json_parser_new(limits, &parser) < 0)
		return error_no_memory(err, "out of memory parsing JSON");
	return json_parser_run(parser, p, n, ret, err);
}

json_object *json_get(json_object *o, const char *key)
{
	json_object *val = NULL;
	if (!o || !json_object_object_get_ex(o, key, &val))
		return NULL;
	return val;
}

const char *json_get_str(json_object *o, const char *key, const char *dflt)
{
	json_object *val = json_get(o, key);
	if (!val)
		return dflt;
	assert(json_object_is_type(val, json_type_string));
	return json_object_get_string(val);
}

int64_t json_get_int(json_object *o, const char *key, int64_t dflt)
{
	json_object *val = json_get(o, key);
	if (!val)
		return dflt;
	assert(json_object_is_type(val, json_type_int));
	return json_object_get_int64(val);
}

bool json_get_bool(json_object *o, const char *key, bool dflt)
{
	json_object *val = json_get(o, key);
	if (!val)
		return dflt;
	assert(json_object_is_type(val, json_type_boolean));
	return json_object_get_boolean(val);
}

int json_add(json_object *o, const char *key, json_object *val)
{
	if (json_object_object_add(o, key, val) < 0) {
		json_object_put(val);
		return -ENOMEM;
	}
	return 0;
}

/* Adds a new value; NULL means that it could not be allocated, not JSON's null. */
static int add_new(json_object *o, const char *key, json_object *val)
{
	if (!val)
		return -ENOMEM;
	return json_add(o, key, val);
}

int json_add_str(json_object *o, const char *key, const char *val)
{
	if (!val)
		return json_add(o, key, NULL);
	return add_new(o, key, json_object_new_string(val));
}

int json_add_strn(json_object *o, const char *key, const char *val, size_t n)
{
	if (n > INT32_MAX)
		return -EMSGSIZE;
	return add_new(o, key, json_object_new_string_len(val, (int)n));
}

int json_add_int(json_object *o, const char *key, int64_t val)
{
	return add_new(o, key, json_object_new_int64(val));
}

int json_add_bool(json_object *o, const char *key, bool val)
{
	return add_new(o, key, json_object_new_boolean(val));
}

/* Writes v in n decimal digits, then after; returns the end. */
static char *put_digits(char *p, int v, int n, char after)
{
	for (int i = n - 1; i >= 0; i--, v /= 10)
		p[i] = (char)('0' + v % 10);
	p[n] = after;
	return p + n + 1;
}

/* Formats by hand: two calls of strftime took a twentieth of the time of a vm.status. */
int json_add_time(json_object *o, const char *key, uint64_t wall)
{
	if (wall == 0)
		return json_add(o, key, NULL);
	time_t t = (time_t)(wall / USEC_PER_SEC);
	struct tm tm;
	char text[sizeof("9999-12-31T23:59:59Z")], *p = text;
	if (!gmtime_r(&t, &tm) || tm.tm_year > 9999 - 1900)
		return -ERANGE;
	p = put_digits(p, tm.tm_year + 1900, 4, '-');
	p = put_digits(p, tm.tm_mon + 1, 2, '-');
	p = put_digits(p, tm.tm_mday, 2, 'T');
	p = put_digits(p, tm.tm_hour, 2, ':');
	p = put_digits(p, tm.tm_min, 2, ':');
	p = put_digits(p, tm.tm_sec, 2, 'Z');
	return add_new(o, key, json_object_new_string_len(text, (int)(p - text)));
}

/* Error texts quote paths, guests and tools: an invalid UTF-8 byte must not make the reply fail. */
static int add_text(json_object *o, const char *key, const char *val)
{
	if (!val || json_utf8_valid(val, strlen(val)))
		return json_add_str(o, key, val);
	_cleanup_free_ char *repaired = utf8_repair(val);
	return repaired ? json_add_str(o, key, repaired) : -ENOMEM;
}

#ifdef PYRO_CHECK_RESULTS
static void error_verify(const struct error *err)
{
	if (err->message && !error_is_complete(err))
		(void)dprintf(STDERR_FILENO, "an error without a fix: %s: %s\n",
			error_code_name(err->code), err->message);
}
#else
static void error_verify(_unused_ const struct error *err)
{
}
#endif

json_object *json_error_object_as(const struct error *err, int number)
{
	error_verify(err);
	_cleanup_json_ json_object *o = json_object_new_object(), *data = json_object_new_object();
	if (!o || !data)
		return NULL;
	const char *name = error_code_name(err->code);
	if (json_add_int(o, "code", number) < 0 ||
		add_text(o, "message", err->message ? err->message : name) < 0 ||
		json_add_str(data, "code", name) < 0 || add_text(data, "cause", err->cause) < 0 ||
		add_text(data, "fix", err->fix) < 0 ||
		json_add_bool(data, "retryable", error_code_retryable(err->code)) < 0 ||
		json_add(o, "data", TAKE_PTR(data)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

int json_error_number(enum error_code code)
{
	bool params = code == ERROR_INVALID_ARGUMENT || code == ERROR_USAGE;
	return params ? JSON_RPC_INVALID_PARAMS : JSON_RPC_OTHER;
}

json_object *json_error_object(const struct error *err)
{
	return json_error_object_as(err, json_error_number(err->code));
}

/* Returns the member's text; NULL if it is absent, null or not a string: an error reply is read
 * leniently. */
static const char *text_of(json_object *o, const char *key)
{
	json_object *val = json_get(o, key);
	return json_object_is_type(val, json_type_string) ? json_object_get_string(val) : NULL;
}

int json_error_parse(json_object *o, struct error *ret)
{
	if (!json_object_is_type(o, json_type_object))
		return -EBADMSG;
	json_object *data = json_get(o, "data");
	if (data && !json_object_is_type(data, json_type_object))
		return -EBADMSG;
	const char *message = text_of(o, "message"), *name = text_of(data, "code");
	if (!message)
		return -EBADMSG;
	enum error_code code = ERROR_INTERNAL;
	if (name && error_code_from_name(name, &code) < 0)
		code = ERROR_INTERNAL; /* an unknown code comes from a newer daemon */
	(void)error_set(ret, code, text_of(data, "cause"), text_of(data, "fix"), "%s", message);
	return 0;
}
