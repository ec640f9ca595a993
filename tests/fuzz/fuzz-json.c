/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of JSON from strangers: whatever the scanner passes json-c parses, what is written from
 * that passes again and means the same, and a refusal always says why.
 */

#include "proto/json.h"

#include "proto/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round(json_object *o)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *again = NULL;
	size_t n = 0;
	const char *text = json_object_to_json_string_length(
		o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);

	/* Escapes make text longer, so the reply's limits, which are the wider ones. */
	if (!text || json_parse(text, n, &json_limits_reply, &again, &err) < 0 ||
		!json_object_equal(o, again))
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
	if (scanned < 0)
		return 0;
	if (!json_utf8_valid(data, size))
		abort();
	check_round(o);
	return 0;
}
