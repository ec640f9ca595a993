/* SPDX-License-Identifier: MIT */
/*
 * Renders the interface table as an OpenRPC 1.3 document with JSON Schema draft 7 schemas. Called
 * by rpc.discover and at build time for openrpc.json. What must stay true: the document contains
 * nothing beyond the table, and a schema accepts every value that api-check.c accepts. The reverse
 * has three exceptions that draft 7 cannot express: the table's lengths count bytes instead of
 * characters, its strings contain no NUL, and a descriptor must be sent with the line.
 */

#include "proto/api.h"

#include "proto/json.h"
#include "proto/limits.h"

#define OPENRPC_VERSION "1.3.2"
#define INT_EXACT_MAX   ((INT64_C(1) << 53) - 1) /* json-scan.c refuses larger integers */
#define CALL_ID_MAX     64

static const char *const type_names[] = {
	[API_BOOL] = "boolean",
	[API_INT] = "integer",
	[API_STRING] = "string",
	[API_ENUM] = "string",
	[API_ID] = "string",
	[API_REF] = "string",
	[API_NAME] = "string",
	[API_TIME] = "string",
	[API_OBJECT] = "object",
	[API_ARRAY] = "array",
	[API_CALL_ID] = "string",
	[API_FD] = "integer",
	[API_JSON] = NULL,
};
_Static_assert(ARRAY_SIZE(type_names) == API_TYPE_MAX, "a name for each type");

static const char *const object_names[] = {
	[API_OBJ_NONE] = "none",
	[API_OBJ_VM] = "vm",
	[API_OBJ_WORKSPACE] = "workspace",
	[API_OBJ_EXEC] = "exec",
	[API_OBJ_SHELL] = "shell",
	[API_OBJ_ENV] = "env",
};
static const char *const right_names[] = {
	[API_ANYONE] = "anyone",
	[API_OWNER] = "owner",
	[API_ADMIN] = "admin",
};
static const char *const life_names[] = { [API_CALLER] = "caller", [API_KEPT] = "kept" };

static int append(json_object *list, json_object *val)
{
	if (val && json_object_array_add(list, val) == 0)
		return 0;
	json_object_put(val);
	return -ENOMEM;
}

static int append_null(json_object *list)
{
	return json_object_array_add(list, NULL) == 0 ? 0 : -ENOMEM;
}

/* Adds an empty list as a member of o. */
static int add_list(json_object *o, const char *key, json_object **ret)
{
	json_object *list = json_object_new_array();
	if (!list)
		return -ENOMEM;
	*ret = list; /* borrowed from o */
	return json_add(o, key, list);
}

/* Adds an empty object as a member of o. */
static int add_object(json_object *o, const char *key, json_object **ret)
{
	json_object *sub = json_object_new_object();
	if (!sub)
		return -ENOMEM;
	*ret = sub; /* borrowed from o */
	return json_add(o, key, sub);
}

static int add_help(json_object *o, const struct api_field *f)
{
	return f->help ? json_add_str(o, "description", f->help) : 0;
}

static bool may_be_null(const struct api_field *f, bool result)
{
	return (f->flags & API_NULLABLE) || (!result && !(f->flags & API_REQUIRED));
}

static int add_type(json_object *o, const struct api_field *f, bool null)
{
	json_object *list;
	if (!type_names[f->type])
		return 0;
	if (!null && f->type != API_CALL_ID)
		return json_add_str(o, "type", type_names[f->type]);
	int r = add_list(o, "type", &list);
	if (r >= 0)
		r = append(list, json_object_new_string(type_names[f->type]));
	if (r >= 0 && f->type == API_CALL_ID)
		r = append(list, json_object_new_string("integer"));
	if (r >= 0 && null)
		r = append(list, json_object_new_string("null"));
	return r;
}

static int add_range(json_object *o, const char *low, int64_t min, const char *high, int64_t max)
{
	int r = low ? json_add_int(o, low, min) : 0;
	return r >= 0 && high ? json_add_int(o, high, max) : r;
}

static int add_names(json_object *o, const struct api_field *f, bool null)
{
	json_object *list;
	int r = add_list(o, "enum", &list);
	for (const char *const *name = f->names; r >= 0 && *name; name++)
		r = append(list, json_object_new_string(*name));
	return r >= 0 && null ? append_null(list) : r;
}

static int add_id(json_object *o, const struct api_field *f, bool result)
{
	char pattern[40];
	(void)snprintf(pattern, sizeof(pattern), "^%s[0-9a-f]{%s12}$", api_id_prefix(f->names[0]),
		result ? "" : "1,");
	return json_add_str(o, "pattern", pattern);
}

static int add_name(json_object *o)
{
	char pattern[40];

	(void)snprintf(
		pattern, sizeof(pattern), "^[a-z0-9][a-z0-9._-]{0,%d}$", LIMIT_NAME_BYTES - 1);
	return json_add_str(o, "pattern", pattern);
}

static int add_schema(json_object *o, const char *key, const struct api_field *f, bool result);

/* Describes an object that has exactly these fields. */
static int add_members(json_object *o, const struct api_field *fields, bool result)
{
	json_object *properties, *required;
	int r = add_object(o, "properties", &properties);
	for (const struct api_field *f = fields; r >= 0 && f->name; f++)
		r = add_schema(properties, f->name, f, result);
	if (r >= 0)
		r = add_list(o, "required", &required);
	for (const struct api_field *f = fields; r >= 0 && f->name; f++)
		if (result ? !(f->flags & API_OPTIONAL) : f->flags & API_REQUIRED)
			r = append(required, json_object_new_string(f->name));
	return r < 0 ? r : json_add_bool(o, "additionalProperties", false);
}

static int add_strings(json_object *o, const struct api_field *f)
{
	json_object *string;
	int r = add_object(o, "additionalProperties", &string);
	if (r >= 0)
		r = json_add_str(string, "type", "string");
	return r >= 0 && f->max > 0 ? json_add_int(o, "maxProperties", f->max) : r;
}

static int add_time(json_object *o)
{
	int r = json_add_str(o, "format", "date-time");

	return r < 0 ? r
		     : json_add_str(o, "pattern",
			       "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
			       "([.][0-9]*)?Z$");
}

static int add_bounds(json_object *o, const struct api_field *f, bool null, bool result)
{
	const char *low = f->min > 0 ? "minLength" : NULL, *high = f->max > 0 ? "maxLength" : NULL;
	switch (f->type) {
	case API_INT:
		return add_range(o, "minimum", f->min, "maximum", MIN_OF(f->max, INT_EXACT_MAX));
	case API_STRING: return add_range(o, low, f->min, high, f->max);
	case API_ENUM: return add_names(o, f, null);
	case API_ID: return add_id(o, f, result);
	case API_REF:
	case API_NAME: return add_name(o);
	case API_TIME: return add_time(o);
	case API_OBJECT: return f->sub ? add_members(o, f->sub, result) : add_strings(o, f);
	case API_ARRAY: {
		int r = f->max > 0 ? json_add_int(o, "maxItems", f->max) : 0;
		return r < 0 ? r : add_schema(o, "items", f->sub, result);
	}
	case API_CALL_ID: return json_add_int(o, "maxLength", CALL_ID_MAX);
	case API_FD: return add_range(o, "minimum", 0, "maximum", LIMIT_FDS_PER_LINE - 1);
	default: return 0;
	}
}

static int add_default(json_object *o, const struct api_field *f)
{
	if (!f->dflt)
		return 0;
	json_object *val = json_tokener_parse(f->dflt);
	return val ? json_add(o, "default", val) : -ENOMEM;
}

static int fill_schema(json_object *o, const struct api_field *f, bool result)
{
	bool null = may_be_null(f, result);
	int r = add_type(o, f, null);
	if (r >= 0)
		r = add_bounds(o, f, null, result);
	return r < 0 ? r : add_default(o, f);
}

/* The nesting of the table bounds the recursion. */
static int add_schema(json_object *o, const char *key, const struct api_field *f, bool result)
{
	json_object *schema;
	int r = add_object(o, key, &schema);
	if (r >= 0)
		r = fill_schema(schema, f, result);
	return r < 0 ? r : add_help(schema, f);
}

/* Appends a Content Descriptor (OpenRPC's word for a parameter). */
static int append_param(json_object *list, const struct api_field *f)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	json_object *schema;
	int r = o ? json_add_str(o, "name", f->name) : -ENOMEM;
	if (r >= 0)
		r = add_help(o, f);
	if (r >= 0)
		r = json_add_bool(o, "required", f->flags & API_REQUIRED);
	if (r >= 0)
		r = add_object(o, "schema", &schema);
	if (r >= 0)
		r = fill_schema(schema, f, false);
	if (r >= 0 && f->type == API_FD)
		r = json_add_str(o, "x-pyro-descriptor", f->client);
	return r < 0 ? r : append(list, TAKE_PTR(o));
}

static int add_result(json_object *o, const struct api_method *m)
{
	json_object *result, *schema;
	int r = add_object(o, "result", &result);
	if (r >= 0)
		r = json_add_str(result, "name", "result");
	if (r >= 0)
		r = add_object(result, "schema", &schema);
	if (r >= 0)
		r = json_add_str(schema, "type", "object");
	return r < 0 ? r : add_members(schema, m->result, true);
}

static int add_errors(json_object *o)
{
	json_object *list;
	int r = add_list(o, "errors", &list);
	for (enum error_code code = 0; r >= 0 && code < ERROR_MAX; code++) {
		_cleanup_json_ json_object *ref = json_object_new_object();
		char text[80];
		(void)snprintf(text, sizeof(text), "#/components/errors/%s", error_code_name(code));
		r = ref ? json_add_str(ref, "$ref", text) : -ENOMEM;
		if (r >= 0)
			r = append(list, TAKE_PTR(ref));
	}
	return r;
}

/* Adds the properties that OpenRPC lacks as x-pyro- members. */
static int add_extensions(json_object *o, const struct api_method *m)
{
	static const struct {
		const char *name;
		unsigned bit;
	} hints[] = {
		{ "x-pyro-read-only", API_READ_ONLY },
		{ "x-pyro-destructive", API_DESTRUCTIVE },
		{ "x-pyro-idempotent", API_IDEMPOTENT },
		{ "x-pyro-not-a-tool", API_NOT_A_TOOL },
		{ "x-pyro-progress", API_PROGRESS },
	};
	int r = json_add_str(o, "x-pyro-object", object_names[m->object]);
	if (r >= 0)
		r = json_add_str(o, "x-pyro-right", right_names[m->right]);
	if (r >= 0)
		r = json_add_str(o, "x-pyro-life", life_names[m->life]);
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(hints); i++)
		r = json_add_bool(o, hints[i].name, m->hints & hints[i].bit);
	return r;
}

static int append_method(json_object *list, const struct api_method *m)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	json_object *params;
	int r = o ? json_add_str(o, "name", m->name) : -ENOMEM;
	if (r >= 0)
		r = json_add_str(o, "summary", m->help);
	if (r >= 0)
		r = json_add_str(o, "paramStructure", "by-name");
	if (r >= 0)
		r = add_list(o, "params", &params);
	for (const struct api_field *f = m->params; r >= 0 && f->name; f++)
		r = append_param(params, f);
	if (r >= 0)
		r = add_result(o, m);
	if (r >= 0)
		r = add_errors(o);
	if (r >= 0)
		r = add_extensions(o, m);
	return r < 0 ? r : append(list, TAKE_PTR(o));
}

static int add_error(json_object *o, enum error_code code)
{
	json_object *e, *data;
	int r = add_object(o, error_code_name(code), &e);
	if (r >= 0)
		r = json_add_int(e, "code", json_error_number(code));
	if (r >= 0)
		r = json_add_str(e, "message", error_code_help(code));
	if (r >= 0)
		r = add_object(e, "data", &data);
	if (r >= 0)
		r = json_add_str(data, "code", error_code_name(code));
	return r < 0 ? r : json_add_bool(data, "retryable", error_code_retryable(code));
}

static int add_components(json_object *o)
{
	json_object *components, *errors;
	int r = add_object(o, "components", &components);
	if (r >= 0)
		r = add_object(components, "errors", &errors);
	for (enum error_code code = 0; r >= 0 && code < ERROR_MAX; code++)
		r = add_error(errors, code);
	return r;
}

static int add_info(json_object *o)
{
	json_object *info, *license;
	int r = add_object(o, "info", &info);
	if (r >= 0)
		r = json_add_str(info, "title", "pyrod");
	if (r >= 0)
		r = json_add_str(info, "description",
			"JSON-RPC 2.0 over a UNIX stream socket, one object a line; docs/PROTOCOL.md.");
	if (r >= 0)
		r = json_add_str(info, "version", PYRO_VERSION);
	if (r >= 0)
		r = json_add_int(info, "x-pyro-api-version", API_VERSION);
	if (r >= 0)
		r = add_object(info, "license", &license);
	return r < 0 ? r : json_add_str(license, "name", "MIT");
}

int api_openrpc(struct json_object **ret)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	json_object *methods;
	int r = o ? json_add_str(o, "openrpc", OPENRPC_VERSION) : -ENOMEM;
	if (r >= 0)
		r = add_info(o);
	if (r >= 0)
		r = add_list(o, "methods", &methods);
	for (size_t i = 0; r >= 0 && i < api_n_methods; i++)
		r = append_method(methods, &api_methods[i]);
	if (r >= 0)
		r = add_components(o);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(o);
	return 0;
}
