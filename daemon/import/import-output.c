/* SPDX-License-Identifier: MIT */
/*
 * Writes pyro-import's stdout: one JSON object per line, flushed at once, read by pyrod's job.
 * Called by all verbs. Must stay true: text from tools or archives is made printable ASCII here, so
 * that pyrod's strict scanner accepts every line.
 */
#include "daemon/import/import.h"

#define TEXT_MAX 8192

/*
 * Replaces bytes outside printable ASCII by "?" and cuts long text: tools and archives are not
 * trusted.
 */
static char *printable(const char *s)
{
	char *copy = s ? strndup(s, TEXT_MAX) : NULL;
	for (char *p = copy; p && *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	return copy;
}

static int add_text(json_object *o, const char *key, const char *value)
{
	_cleanup_free_ char *clean = printable(value);
	return json_add_str(o, key, clean);
}

static int put_line(json_object *o)
{
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	if (!text || fputs(text, stdout) < 0 || fputc('\n', stdout) < 0 || fflush(stdout) != 0)
		return -EIO;
	return 0;
}

static int put_wrapped(const char *key, json_object *value /* owned by the callee */)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!o) {
		json_object_put(value);
		return -ENOMEM;
	}
	int r = json_add(o, key, value);
	return r < 0 ? r : put_line(o);
}

/* Ignores a failed write: progress is optional, and the result line fails too. */
void import_progress(const char *phase, int percent, const char *detail)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	if (!o || json_add_str(o, "phase", phase) < 0)
		return;
	if (percent >= 0 && json_add_int(o, "percent", percent) < 0)
		return;
	if (detail && add_text(o, "detail", detail) < 0)
		return;
	(void)put_line(o);
}

/* Exits when the line cannot be written: a weaker sandbox must not go unreported. */
void import_missing(const char *what, int r)
{
	_cleanup_json_ json_object *o = json_object_new_object();
	_cleanup_free_ char *text = str_printf("%s (%s)", what, strerror(-r));
	if (!o || !text || add_text(o, "missing", text) < 0 || put_line(o) < 0)
		_exit(1);
}

int import_fail(const struct error *err)
{
	json_object *o = json_object_new_object();
	const char *message = err->message ? err->message : "out of memory";
	if (o && json_add_str(o, "code", error_code_name(err->code)) >= 0 &&
		add_text(o, "message", message) >= 0 && add_text(o, "cause", err->cause) >= 0 &&
		add_text(o, "fix", err->fix) >= 0) {
		(void)put_wrapped("error", o);
	} else {
		json_object_put(o);
		(void)fputs("{\"error\":{\"code\":\"no_memory\",\"message\":\"out of memory\"}}\n",
			stdout);
		(void)fflush(stdout);
	}
	return 1;
}

int import_succeed(json_object *result)
{
	return put_wrapped("result", result) < 0 ? 1 : 0;
}
