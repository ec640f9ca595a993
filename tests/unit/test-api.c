/* SPDX-License-Identifier: MIT */
/*
 * The table of methods and the check of values against it. Run by `meson test api`. What must stay
 * true: a handler gets every field with its type and default, and every refusal names field, value
 * and range.
 */

#include "proto/api.h"

#include <check.h>

#include "proto/json.h"

static const struct api_field *params_of(const char *method)
{
	int i = api_find(method);
	ck_assert_int_ge(i, 0);
	return api_methods[i].params;
}

/* Returns the message for refused parameters, valid until the next call; NULL when they are
 * accepted. */
static const char *refused(const char *method, const char *json, size_t n_fds)
{
	static char message[1000];
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *given = json ? json_tokener_parse(json) : NULL, *o = NULL;
	int r = api_check_params(params_of(method), given, n_fds, &o, &err);
	if (r >= 0)
		return NULL;
	ck_assert_int_eq(err.code, ERROR_INVALID_ARGUMENT);
	ck_assert_ptr_nonnull(err.fix);
	ck_assert_ptr_null(o);
	(void)snprintf(message, sizeof(message), "%s|%s", err.message, err.fix ? err.fix : "");
	return message;
}

#define RUN(members) "{\"environment\":\"debian:12\",\"command\":\"true\"" members "}"

/* The object that the dispatcher must look up before a method with this parameter; API_OBJ_NONE:
 * none that belongs to a caller. */
static enum api_object kind_of(const struct api_field *f)
{
	static const struct {
		const char *kind;
		enum api_object object;
	} kinds[] = {
		{ "vm", API_OBJ_VM },
		{ "workspace", API_OBJ_WORKSPACE },
		{ "exec", API_OBJ_EXEC },
		{ "shell", API_OBJ_SHELL },
	};

	for (size_t i = 0; (f->type == API_ID || f->type == API_REF) && i < ARRAY_SIZE(kinds); i++)
		if (streq(f->names[0], kinds[i].kind))
			return kinds[i].object;
	return API_OBJ_NONE;
}

/* An id in the parameters names the method's object, which the dispatcher looks up for its owner.
 * No handler looks up one itself. */
START_TEST(ids_are_looked_up)
{
	for (size_t i = 0; i < api_n_methods; i++) {
		const struct api_method *method = &api_methods[i];
		unsigned n = 0;

		for (const struct api_field *f = method->params; f->name; f++) {
			if (f->type != API_ID && f->type != API_REF)
				continue;
			ck_assert_msg(
				kind_of(f) == method->object, "%s: %s", method->name, f->name);
			ck_assert(f->flags & API_REQUIRED);
			n++;
		}
		if (method->object == API_OBJ_NONE || method->object == API_OBJ_ENV)
			ck_assert_uint_eq(n, 0);
		else {
			ck_assert_msg(n == 1, "%s", method->name);
			ck_assert_msg(method->right == API_OWNER, "%s", method->name);
		}
	}
}
END_TEST

START_TEST(table)
{
	ck_assert_uint_eq(api_n_methods, API_M_MAX);
	for (size_t i = 0; i < api_n_methods; i++) {
		ck_assert_int_eq(api_find(api_methods[i].name), (int)i);
		ck_assert_ptr_nonnull(api_methods[i].params);
		ck_assert_ptr_nonnull(api_methods[i].result);
		for (const struct api_field *f = api_methods[i].params; f->name; f++) {
			ck_assert(f->type != API_ENUM || f->names);
			ck_assert((f->type != API_ID && f->type != API_REF) ||
				  api_id_prefix(f->names[0]));
			ck_assert(f->type != API_ARRAY || f->sub);
			ck_assert(f->type != API_INT || f->max > f->min);
			ck_assert(!f->dflt || !(f->flags & API_REQUIRED));
			ck_assert(f->dflt || (f->flags & (API_REQUIRED | API_NULLABLE)));
		}
	}
	ck_assert_int_eq(api_find("vm.nothing"), -ENOENT);
	ck_assert_int_eq(api_find(""), -ENOENT);
}
END_TEST

START_TEST(defaults)
{
	_cleanup_json_ json_object *given = json_tokener_parse(RUN("")), *o = NULL;
	ck_assert_int_eq(api_check_params(params_of("vm.run"), given, 0, &o, NULL), 0);
	ck_assert_int_eq(json_get_int(o, "vcpu_count", 0), 1);
	ck_assert_int_eq(json_get_int(o, "mem_mib", 0), 1024);
	ck_assert_int_eq(json_get_int(o, "disk_mib", 0), 10240);
	ck_assert_int_eq(json_get_int(o, "timeout_seconds", 0), 30);
	ck_assert_str_eq(json_get_str(o, "cwd", ""), "/workspace");
	ck_assert_str_eq(json_get_str(o, "user", ""), "root");
	ck_assert_str_eq(json_get_str(o, "accelerator", ""), "auto");
	ck_assert_ptr_null(json_get(o, "ttl_seconds"));
	ck_assert_ptr_null(json_get(o, "stdio"));
	ck_assert(!json_get_bool(o, "network", true));
	for (const struct api_field *f = params_of("vm.run"); f->name; f++)
		ck_assert(json_object_object_get_ex(o, f->name, NULL));
}
END_TEST

START_TEST(ranges)
{
	ck_assert_ptr_null(refused("vm.run", RUN(",\"vcpu_count\":32"), 0));
	ck_assert_str_eq(refused("vm.run", RUN(",\"vcpu_count\":0"), 0),
		"vcpu_count must be from 1 to 32, not 0|send \"vcpu_count\": 1");
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"vcpu_count\":1000"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"mem_mib\":1"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"mem_mib\":1000000000"), 0));
	ck_assert_ptr_null(refused("vm.run", RUN(",\"timeout_seconds\":0"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"timeout_seconds\":86401"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"timeout_seconds\":-1"), 0));
	ck_assert_ptr_null(refused("vm.run", RUN(",\"ttl_seconds\":31536000"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"ttl_seconds\":31536001"), 0));
	ck_assert_str_eq(refused("vm.run", RUN(",\"accelerator\":\"tcg\""), 0),
		"accelerator must be one of auto, kvm, emulation, not \"tcg\"|"
		"send \"accelerator\": \"auto\"");
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"accelerator\":\"kvm\\u0000\""), 0));
}
END_TEST

START_TEST(strings)
{
	char name[300], json[400];
	ck_assert_str_eq(refused("vm.run", "{\"environment\":\"x\",\"command\":\"\"}", 0),
		"command must be not empty, not \"\"|send a \"command\" that is not empty");
	ck_assert_ptr_nonnull(
		refused("vm.run", "{\"environment\":\"x\",\"command\":\"a\\u0000b\"}", 0));
	for (int n = 255; n <= 256; n++) {
		memset(name, 'a', sizeof(name));
		name[n] = '\0';
		(void)snprintf(json, sizeof(json), "{\"environment\":\"%s\"}", name);
		ck_assert_int_eq(refused("env.pull", json, 0) == NULL, n == 255);
	}
	size_t limit = 128 * 1024;
	_cleanup_free_ char *command = malloc(limit + 1);
	memset(command, 'x', limit);
	for (int over = 0; over <= 1; over++) {
		command[limit - 1 + (size_t)over] = '\0';
		if (over)
			command[limit - 1] = 'x';
		_cleanup_free_ char *line =
			str_printf("{\"environment\":\"x\",\"command\":\"%s\"}", command);
		ck_assert_int_eq(refused("vm.run", line, 0) == NULL, over == 0);
	}
}
END_TEST

START_TEST(types)
{
	static const char *const bad[] = {
		"{\"environment\":1,\"command\":\"x\"}",
		"{\"environment\":null,\"command\":\"x\"}",
		RUN(",\"vcpu_count\":\"1\""),
		RUN(",\"vcpu_count\":1.0"),
		RUN(",\"vcpu_count\":true"),
		RUN(",\"network\":1"),
		RUN(",\"network\":\"true\""),
		RUN(",\"env\":[]"),
		RUN(",\"env\":{\"A\":1}"),
		RUN(",\"env\":{\"A\":null}"),
		RUN(",\"env\":{\"A\":\"x\\u0000\"}"),
		RUN(",\"cwd\":{}"),
	};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		ck_assert_msg(refused("vm.run", bad[i], 0) != NULL, "%s", bad[i]);
	ck_assert_ptr_nonnull(refused("vm.list", "[]", 0));
	ck_assert_ptr_null(refused("vm.list", NULL, 0));
	ck_assert_ptr_null(refused("vm.run", RUN(",\"vcpu_count\":null"), 0));
}
END_TEST

START_TEST(unknown)
{
	const char *text = refused("vm.status", "{\"vm_id\":\"vm-000000000000\",\"nme\":1}", 0);
	ck_assert_str_eq(text, "unknown parameter nme|the known ones are vm_id");
	ck_assert_str_eq(refused("env.list", "{\"x\":1}", 0), "unknown parameter x|it takes none");
	text = refused("vm.run", "{\"environment\":\"x\"}", 0);
	ck_assert_ptr_nonnull(strstr(text, "parameter command is missing"));
}
END_TEST

START_TEST(ids)
{
	static const struct {
		const char *id;
		bool good;
	} rows[] = {
		{ "vm-0123456789ab", true },
		{ "vm-0", true },
		{ "vm-", false },
		{ "vm-0123456789abc", false },
		{ "vm-0123456789AB", false },
		{ "wt-0123456789ab", false },
		{ "ws-../../etc", false },
		{ "vm-../../etc", false },
		{ "vm-0\\u0000", false },
		{ "", false },
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char json[100];
		(void)snprintf(json, sizeof(json), "{\"vm_id\":\"%s\"}", rows[i].id);
		ck_assert_msg(
			(refused("vm.status", json, 0) == NULL) == rows[i].good, "%s", rows[i].id);
	}
	char a[API_ID_SIZE], b[API_ID_SIZE];
	api_new_id("vm-", a);
	api_new_id("vm-", b);
	ck_assert_uint_eq(strlen(a), 15);
	ck_assert_str_ne(a, b);
	ck_assert_ptr_null(api_id_prefix("nothing"));
}
END_TEST

/* Has its own answer: people have machines and workspaces. */
START_TEST(an_id_of_a_workspace_is_no_machine)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_json_ json_object *given = json_tokener_parse("{\"vm_id\":\"ws-0123456789ab\"}");
	json_object *o = NULL;

	ck_assert_int_lt(api_check_params(params_of("vm.status"), given, 0, &o, &err), 0);
	ck_assert_int_eq(err.code, ERROR_VM_NOT_FOUND);
	ck_assert_str_eq(err.message, "machine ws-0123456789ab not found");
	ck_assert_str_eq(err.fix, "pyro workspace status ws-0123456789ab");
}
END_TEST

START_TEST(names)
{
	static const char longest[] =
		"a23456789012345678901234567890123456789012345678901234567890123";
	static const struct {
		const char *name;
		bool good;
	} rows[] = {
		{ "a", true },
		{ "0", true },
		{ "my-app_2.x", true },
		{ "ws-0123456789ab", true },
		{ "ws-", true },
		{ longest, true },
		{ "", false },
		{ ".", false },
		{ "-a", false },
		{ "_a", false },
		{ "A", false },
		{ "a b", false },
		{ "a/b", false },
		{ "a\\n", false },
		{ "a\\u0000", false },
		{ "\303\244", false },
	};

	ck_assert_uint_eq(strlen(longest), 63);
	for (size_t i = 0; i <= ARRAY_SIZE(rows); i++) {
		const char *name = i < ARRAY_SIZE(rows) ? rows[i].name
							: "a234567890123456789012345"
							  "67890123456789012345678"
							  "9012345678901234";
		bool good = i < ARRAY_SIZE(rows) && rows[i].good;
		char json[200];

		(void)snprintf(json, sizeof(json), "{\"workspace_id\":\"%s\"}", name);
		ck_assert_msg((refused("workspace.status", json, 0) == NULL) == good, "%s", name);
		(void)snprintf(json, sizeof(json), "{\"environment\":\"e\",\"name\":\"%s\"}", name);
		ck_assert_msg((refused("workspace.create", json, 0) == NULL) == good, "%s", name);
	}
	ck_assert_ptr_nonnull(strstr(refused("workspace.status", "{\"workspace_id\":\"A\"}", 0),
		"|pyro workspace list"));
}
END_TEST

START_TEST(descriptors)
{
	ck_assert_ptr_null(refused("vm.run", RUN(",\"stdio\":0"), 1));
	ck_assert_ptr_null(refused("vm.run", RUN(",\"stdio\":null"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"stdio\":0"), 0));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"stdio\":1"), 1));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"stdio\":-1"), 1));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"stdio\":4294967296"), 1));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(",\"stdio\":0"), 2));
	ck_assert_ptr_nonnull(refused("vm.run", RUN(""), 1));
}
END_TEST

START_TEST(call_ids)
{
	ck_assert_ptr_null(refused("cancel", "{\"id\":1}", 0));
	ck_assert_ptr_null(refused("cancel", "{\"id\":\"x\"}", 0));
	ck_assert_ptr_nonnull(refused("cancel", "{\"id\":1.5}", 0));
	ck_assert_ptr_nonnull(refused("cancel", "{\"id\":null}", 0));
	ck_assert_ptr_nonnull(refused("cancel", "{}", 0));
}
END_TEST

START_TEST(results)
{
	static const struct {
		const char *json;
		bool good;
	} rows[] = {
		{ "{\"vm_id\":\"vm-0123456789ab\",\"deleted\":true,\"reason\":\"explicit_delete\"}",
			true },
		{ "{\"vm_id\":\"vm-01\",\"deleted\":true,\"reason\":\"explicit_delete\"}", false },
		{ "{\"vm_id\":\"vm-0123456789ab\",\"deleted\":true}", false },
		{ "{\"vm_id\":\"vm-0123456789ab\",\"deleted\":1,\"reason\":\"x\"}", false },
		{ "{\"vm_id\":\"vm-0123456789ab\",\"deleted\":true,\"reason\":null}", false },
		{ "{\"vm_id\":\"vm-0123456789ab\",\"deleted\":true,\"reason\":\"x\",\"more\":1}",
			false },
		{ "[]", false },
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ json_object *o = json_tokener_parse(rows[i].json);
		_cleanup_error_ struct error err = ERROR_INIT;
		int r = api_check_result(api_methods[API_M_vm_delete].result, o, &err);
		ck_assert_msg((r >= 0) == rows[i].good, "%s: %s", rows[i].json, err.message);
	}
}
END_TEST

START_TEST(nested_results)
{
	_cleanup_json_ json_object *o = json_tokener_parse(
		"{\"catalog_version\":\"1\",\"environments\":[{\"name\":\"a\"}]}");
	_cleanup_error_ struct error err = ERROR_INIT;
	ck_assert_int_lt(api_check_result(api_methods[API_M_env_list].result, o, &err), 0);
	ck_assert_ptr_nonnull(strstr(err.message, "environments[0].version is missing"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("api");
	TCase *t = tcase_create("api");
	tcase_add_test(t, table);
	tcase_add_test(t, ids_are_looked_up);
	tcase_add_test(t, defaults);
	tcase_add_test(t, ranges);
	tcase_add_test(t, strings);
	tcase_add_test(t, types);
	tcase_add_test(t, unknown);
	tcase_add_test(t, ids);
	tcase_add_test(t, an_id_of_a_workspace_is_no_machine);
	tcase_add_test(t, names);
	tcase_add_test(t, descriptors);
	tcase_add_test(t, call_ids);
	tcase_add_test(t, results);
	tcase_add_test(t, nested_results);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
