/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * JSON from outside. json_scan is a strict RFC 8259 scanner that runs before json-c, which by
 * itself accepts duplicate keys, NaN, single quotes, raw control bytes, overlong UTF-8 and
 * saturated integers (reliability.md section 7). The getters check the type and never coerce.
 */

#include "base.h"
#include "error.h"
#include <json-c/json.h>

struct json_limits {
	size_t max_bytes;
	unsigned max_depth;
	unsigned max_values;
};
extern const struct json_limits json_limits_request; /* LIMIT_REQUEST_BYTES, ... */
extern const struct json_limits json_limits_reply;

/*
 * 0 if [p, p+n) is exactly one JSON value: strict UTF-8, no raw control bytes, no duplicate keys,
 * no lone surrogates, integers within +-(2^53-1), finite doubles, depth and number of values
 * within the limits. Else -EBADMSG with the byte position and the reason in err
 * (invalid_argument).
 */
int json_scan(const char *p, size_t n, const struct json_limits *limits, struct error *err);

/* True if the bytes are strict UTF-8 (no overlong forms, no surrogates). */
bool json_utf8_valid(const void *text, size_t n);

/* A reusable parser for many texts with the same limits. */
struct json_parser;
int json_parser_new(const struct json_limits *limits /* static */, struct json_parser **ret);
struct json_parser *json_parser_free(struct json_parser *p);
DEFINE_CLEANUP(struct json_parser *, json_parser_free)
/* Scans, then parses. *ret is owned by the caller. */
int json_parser_run(
	struct json_parser *p, const char *text, size_t n, json_object **ret, struct error *err);
/* The same with a parser for this text alone. */
int json_parse(const char *p, size_t n, const struct json_limits *limits, json_object **ret,
	struct error *err);

static inline void json_putp(json_object **o)
{
	if (*o)
		json_object_put(*o);
}
#define _cleanup_json_ _cleanup_(json_putp)

/* Checked getters: a missing or null member gives the default; another type is a programming error
 * after api_check_params (assert), so these serve validated parameters and our own files. */
const char *json_get_str(json_object *o, const char *key, const char *dflt);
int64_t json_get_int(json_object *o, const char *key, int64_t dflt);
bool json_get_bool(json_object *o, const char *key, bool dflt);
json_object *json_get(json_object *o, const char *key); /* NULL when absent or null; borrowed */

/* Adders; -ENOMEM. json_add owns val, also on failure. */
int json_add(json_object *o, const char *key, json_object *val /* owned, may be NULL = null */);
int json_add_str(json_object *o, const char *key, const char *val /* NULL = null */);
int json_add_strn(json_object *o, const char *key, const char *val, size_t n);
int json_add_int(json_object *o, const char *key, int64_t val);
int json_add_bool(json_object *o, const char *key, bool val);
int json_add_time(json_object *o, const char *key, uint64_t wall_usec); /* 0 = null */

/* Error numbers of JSON-RPC 2.0. */
enum {
	JSON_RPC_PARSE_ERROR = -32700,
	JSON_RPC_INVALID_REQUEST = -32600,
	JSON_RPC_UNKNOWN_METHOD = -32601,
	JSON_RPC_INVALID_PARAMS = -32602,
	JSON_RPC_OTHER = -32000,
};

/* The error object of contract.md section 4: {code, message, data:{code, cause, fix, retryable}};
 * code is the JSON-RPC number from json_error_number. */
json_object *json_error_object(const struct error *err);
/* -32602 for usage and invalid_argument, else -32000. */
int json_error_number(enum error_code code);
/* The same with a given number, for a failure before a call exists. NULL when out of memory. */
json_object *json_error_object_as(const struct error *err, int number);
/* Parses such an object into ret (in the client). */
int json_error_parse(json_object *o, struct error *ret);
