/* SPDX-License-Identifier: MIT */
/*
 * The table as an OpenRPC document: it holds everything in the table, and fits a reply to a client.
 * Run by `meson test api-openrpc`. tests/t/test_discover.py proves that it is valid OpenRPC, and
 * that real replies match its schemas.
 */

#include "proto/api.h"

#include <check.h>

#include "proto/json.h"
#include "proto/limits.h"

static json_object *document;

static void setup(void)
{
	ck_assert_int_eq(api_openrpc(&document), 0);
}

static void teardown(void)
{
	json_object_put(document);
}

static json_object *sub(json_object *o, const char *key)
{
	json_object *val = json_get(o, key);
	ck_assert_msg(val != NULL, "%s is missing", key);
	return val;
}

START_TEST(is_what_discover_says)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = api_check_result(api_methods[API_M_rpc_discover].result, document, &err);
	ck_assert_msg(r == 0, "%s", err.message);
}
END_TEST

/* A reply with its envelope has limits on bytes, depth and number of values. */
START_TEST(fits_into_a_reply)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	size_t n;
	const char *text = json_object_to_json_string_length(document, JSON_C_TO_STRING_PLAIN, &n);
	ck_assert_uint_lt(n, LIMIT_REPLY_BYTES / 4);
	int r = json_scan(text, n, &json_limits_reply, &err);
	ck_assert_msg(r == 0, "%s", err.message);
}
END_TEST

START_TEST(has_every_method_and_parameter)
{
	json_object *methods = sub(document, "methods");
	ck_assert_uint_eq(json_object_array_length(methods), api_n_methods);
	for (size_t i = 0; i < api_n_methods; i++) {
		const struct api_method *m = &api_methods[i];
		json_object *o = json_object_array_get_idx(methods, i);
		json_object *params = sub(o, "params");
		size_t n = 0;
		ck_assert_str_eq(json_get_str(o, "name", ""), m->name);
		ck_assert_str_eq(json_get_str(o, "summary", ""), m->help);
		ck_assert_int_eq(json_get_bool(o, "x-pyro-read-only", false),
			(m->hints & API_READ_ONLY) != 0);
		for (const struct api_field *f = m->params; f->name; f++, n++) {
			json_object *p = json_object_array_get_idx(params, n);
			ck_assert_str_eq(json_get_str(p, "name", ""), f->name);
			ck_assert_int_eq(json_get_bool(p, "required", false),
				(f->flags & API_REQUIRED) != 0);
			json_object *dflt = NULL;
			bool has = json_object_object_get_ex(sub(p, "schema"), "default", &dflt);
			ck_assert_int_eq(has, f->dflt != NULL);
			if (has)
				ck_assert_str_eq(json_object_to_json_string_ext(dflt,
							 JSON_C_TO_STRING_PLAIN |
								 JSON_C_TO_STRING_NOSLASHESCAPE),
					f->dflt);
		}
		ck_assert_uint_eq(json_object_array_length(params), n);
		json_object *properties = sub(sub(sub(o, "result"), "schema"), "properties");
		for (const struct api_field *f = m->result; f->name; f++)
			(void)sub(properties, f->name);
	}
}
END_TEST

START_TEST(has_every_error)
{
	json_object *errors = sub(sub(document, "components"), "errors");
	ck_assert_int_eq(json_object_object_length(errors), ERROR_MAX);
	for (enum error_code code = 0; code < ERROR_MAX; code++) {
		json_object *e = sub(errors, error_code_name(code)), *data = sub(e, "data");
		ck_assert_int_eq(json_get_int(e, "code", 0), json_error_number(code));
		ck_assert_str_eq(json_get_str(data, "code", ""), error_code_name(code));
		ck_assert_int_eq(
			json_get_bool(data, "retryable", false), error_code_retryable(code));
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("api-openrpc");
	TCase *t = tcase_create("api-openrpc");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, is_what_discover_says);
	tcase_add_test(t, fits_into_a_reply);
	tcase_add_test(t, has_every_method_and_parameter);
	tcase_add_test(t, has_every_error);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
