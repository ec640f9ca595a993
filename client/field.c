/* SPDX-License-Identifier: MIT */
/*
 * How a field of the interface table appears on the command line. Called by the parser, help and
 * completion.
 */
#include "client/field.h"

#include "client/cli.h"
#include "proto/api.h"
#include "proto/base.h"

/* Copies the index-th comma-separated token of list to ret; false when there are fewer. */
static bool list_token(const char *list, size_t index, char *ret, size_t size)
{
	size_t n;

	for (; list && *list; list += n + (list[n] == ',')) {
		n = strcspn(list, ",");
		if (index-- == 0) {
			(void)snprintf(ret, size, "%.*s", (int)n, list);
			return true;
		}
	}
	return false;
}

bool field_flag(const struct api_field *f, size_t index, char ret[FLAG_NAME_MAX])
{
	char token[FLAG_NAME_MAX - 8];

	if ((f->flags & (API_POSITIONAL | API_NO_CLI | API_REST)) || f->type == API_FD)
		return false;
	if (index == 0) {
		(void)snprintf(ret, FLAG_NAME_MAX, "--%s%.40s", f->flags & API_NEGATED ? "no-" : "",
			f->name);
		for (char *p = ret; *p; p++)
			if (*p == '_')
				*p = '-';
		return true;
	}
	if (!list_token(f->cli, index - 1, token, sizeof(token)))
		return false;
	(void)snprintf(ret, FLAG_NAME_MAX, "%s%s",
		token[0] == '-'      ? ""
		: strlen(token) == 1 ? "-"
				     : "--",
		token);
	return true;
}

void field_metavar(const struct api_field *f, char ret[FLAG_NAME_MAX])
{
	(void)snprintf(ret, FLAG_NAME_MAX, "%.60s",
		streq(f->name, "command") ? "CMD"
		: f->type == API_REF      ? f->names[0]
					  : f->name);
	for (char *p = ret; *p; p++)
		if (*p >= 'a' && *p <= 'z')
			*p = (char)(*p - 'a' + 'A');
}

bool field_takes_value(const struct api_field *f)
{
	return f->type != API_BOOL;
}

const struct api_field *verb_fields(const struct verb *v)
{
	return v->fields ? v->fields : api_methods[v->method].params;
}
