/* SPDX-License-Identifier: MIT */
/*
 * The values of flags and words, as their fields of the interface table say, and the errors for
 * wrong ones. Called by options.c. A field whose name ends in _mib takes sizes (2G), one that ends
 * in _seconds durations (5m). What must stay true: the fix of a wrong value is a line that can be
 * pasted.
 */
#include "client/options-internal.h"

#include <fcntl.h>
#include <pwd.h>

#include "client/correct.h"
#include "client/text.h"
#include "proto/api.h"
#include "proto/json.h"
#include "proto/limits.h"
#include "proto/utf8.h"

#define EXAMPLE_ENVIRONMENT "debian:12"

/* Returns what replaces a flag with a bad value: the flag with `good` (quoted; NULL: no flag), then
 * the verb's word that the flag took, if any. Owned by the caller; NULL: no words, or out of
 * memory. */
static char *good_flag(const struct parser *p, const char *flag, const char *good)
{
	const char *value = p->argv[p->i - 1];
	bool keep = p->i - p->from == 2 && options_is_own_word(p, value);
	_cleanup_free_ char *kept = keep ? shell_quote(value) : NULL;

	if (!kept)
		return good ? str_printf("%s %s", flag, good) : NULL;
	return good ? str_printf("%s %s %s", flag, good, kept) : TAKE_PTR(kept);
}

int options_refuse(const struct parser *p, const char *flag, const char *good, const char *cause,
	const char *message)
{
	int to = p->to ? p->to : p->i;
	_cleanup_free_ char *text = NULL, *fix = NULL;
	bool cluster = !p->to && p->argv[p->from][1] != '-' && p->argv[p->from][1] != flag[1];

	if (!p->to)
		text = good_flag(p, flag, good);
	else if (good)
		text = strdup(good);
	if (!cluster && (!good || text))
		fix = correct_line(p->argc, p->argv, p->from, to, text);
	if (!fix)
		fix = good ? str_printf("give %s as %s", flag, good)
			   : str_printf("leave out %s", flag);
	return error_set(p->err, ERROR_INVALID_ARGUMENT, cause, fix, "%s", message);
}

/* Returns a value for the fix: the largest if a number of seconds was too large, else the default.
 * Owned by the caller. NULL: there is none, and the fix leaves the option out. */
static char *good_value(const struct api_field *f, bool above)
{
	bool seconds = strstr(f->name, "_seconds") != NULL;

	if (f->type == API_INT && seconds && above)
		return str_printf("%lld", (long long)f->max);
	if (f->type == API_INT && !f->dflt)
		return NULL;
	if (f->type == API_INT)
		return str_printf("%s%s", f->dflt,
			seconds                   ? "s"
			: strstr(f->name, "_mib") ? "M"
						  : "");
	if (f->type == API_ENUM)
		return strdup(f->names[0]);
	return streq(f->name, "environment") ? strdup(EXAMPLE_ENVIRONMENT) : NULL;
}

static int bad_value(const struct parser *p, const struct api_field *f, const char *flag,
	const char *value, const char *what)
{
	_cleanup_free_ char *cause = NULL, *message = NULL, *good = good_value(f, false);
	int shown = utf8_cut(value, VALUE_SHOWN);

	if (f->type == API_INT && f->max > f->min)
		cause = str_printf(
			"the range is %lld to %lld", (long long)f->min, (long long)f->max);
	message = str_printf(
		"%s: '%.*s%s' is not %s", flag, shown, value, value[shown] ? "..." : "", what);
	return message ? options_refuse(p, flag, good, cause, message) : -ENOMEM;
}

static int out_of_range(const struct parser *p, const struct api_field *f, const char *flag,
	const char *value, int64_t v)
{
	_cleanup_free_ char *good = good_value(f, v > f->max), *message = NULL;

	message = str_printf("%s: %s is outside the range %lld to %lld", flag, value,
		(long long)f->min, (long long)f->max);
	return message ? options_refuse(p, flag, good, NULL, message) : -ENOMEM;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && streq(s + n - m, end);
}

static int take_int(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	const char *what = "a whole number";
	uint64_t u = 0;
	int64_t v = 0;
	int r;

	if (ends_with(f->name, "_mib")) {
		what = "a size like 2G or 512M";
		r = parse_size_mib(value, &u);
	} else if (ends_with(f->name, "_seconds")) {
		what = "a duration like 30 or 5m";
		r = parse_duration_seconds(value, &u);
	} else {
		r = parse_i64(value, &v);
	}
	if (r < 0 || u > INT64_MAX)
		return bad_value(p, f, flag, value, what);
	if (u > 0)
		v = (int64_t)u;
	if (f->max > f->min && (v < f->min || v > f->max))
		return out_of_range(p, f, flag, value, v);
	return json_add_int(p->line->params, f->name, v);
}

/* Refuses a value that JSON cannot carry. The fix makes its bytes in the guest's shell. */
static int not_utf8_variable(
	const struct parser *p, const char *flag, const char *key, const char *value)
{
	_cleanup_free_ char *octal = correct_octal(value), *fix = NULL;

	fix = octal ? str_printf(
			      "leave out %s %s, and begin the command with: export %s=\"$(printf %s)\";",
			      flag, key, key, octal)
		    : NULL;
	return fix ? error_set(p->err, ERROR_INVALID_ARGUMENT,
			     "requests are JSON, which is UTF-8 text", fix,
			     "%s: the value of %s is not UTF-8", flag, key)
		   : -ENOMEM;
}

/* Takes K=V, or K with its value in the environment. An unset K is ignored, as in docker. */
static int take_pair(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	json_object *o = json_get(p->line->params, f->name);
	const char *eq = strchr(value, '=');
	_cleanup_free_ char *key = eq ? strndup(value, (size_t)(eq - value)) : strdup(value);
	_cleanup_free_ char *message = NULL;
	const char *v = eq ? eq + 1 : key ? getenv(key) : NULL;

	if (!key)
		return -ENOMEM;
	if (!eq && !streq(f->name, "env"))
		return bad_value(p, f, flag, value, "KEY=VALUE");
	if (key[0] == '\0') {
		message = str_printf("%s: '%.*s' has no name before '='", flag,
			utf8_cut(value, VALUE_SHOWN), value);
		return message ? options_refuse(p, flag, NULL, NULL, message) : -ENOMEM;
	}
	if (!text_is_utf8(key))
		return bad_value(p, f, flag, value, "UTF-8");
	if (v && !text_is_utf8(v))
		return not_utf8_variable(p, flag, key, v);
	if (!o) {
		o = json_object_new_object();
		if (!o || json_add(p->line->params, f->name, o) < 0)
			return -ENOMEM;
	}
	if (!v)
		return 0;
	json_object_object_del(o, key);
	return json_add_str(o, key, v);
}

/* False: *ret_known is "one of a, b, c", owned; NULL when out of memory. */
static bool find_word(const char *const *names, const char *value, char **ret_known)
{
	_cleanup_free_ char *known = NULL;

	for (size_t i = 0; names[i]; i++) {
		char *more = str_printf(
			"%s%s%s", known ? known : "", known ? ", " : "one of ", names[i]);

		if (streq(names[i], value)) {
			free(more);
			return true;
		}
		free(known);
		known = more;
	}
	*ret_known = TAKE_PTR(known);
	return false;
}

static int take_enum(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	_cleanup_free_ char *known = NULL;

	if (find_word(f->names, value, &known))
		return json_add_str(p->line->params, f->name, value);
	return bad_value(p, f, flag, value, known ? known : "allowed");
}

/* Appends to a list. */
static int take_element(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	json_object *list = json_get(p->line->params, f->name);
	_cleanup_free_ char *known = NULL;

	if (f->sub->type == API_ENUM && !find_word(f->sub->names, value, &known))
		return bad_value(p, f->sub, flag, value, known ? known : "allowed");
	if (!list) {
		list = json_object_new_array();
		if (!list || json_add(p->line->params, f->name, list) < 0)
			return -ENOMEM;
	}
	return json_object_array_add(list, json_object_new_string(value)) < 0 ? -ENOMEM : 0;
}

/* Takes a user's name or number. */
static int take_uid(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	const struct passwd *pw;
	uint64_t uid;

	if (parse_u64(value, 0, UINT32_MAX, &uid) >= 0)
		return json_add_int(p->line->params, f->name, (int64_t)uid);
	pw = getpwnam(value);
	if (!pw)
		return bad_value(p, f, flag, value, "a user of this host");
	return json_add_int(p->line->params, f->name, (int64_t)pw->pw_uid);
}

int options_take_field(
	struct parser *p, const struct api_field *f, const char *flag, const char *value)
{
	if (value && f->type != API_OBJECT && !text_is_utf8(value))
		return bad_value(p, f, flag, value, "UTF-8");
	if (value && value[0] == '\0' && f->type == API_STRING && f->min > 0)
		return bad_value(p, f, flag, value, "allowed: it is empty");
	switch (f->type) {
	case API_BOOL: return json_add_bool(p->line->params, f->name, !(f->flags & API_NEGATED));
	case API_INT:
		return streq(f->name, "owner") ? take_uid(p, f, flag, value)
					       : take_int(p, f, flag, value);
	case API_ARRAY: return take_element(p, f, flag, value);
	case API_ENUM: return take_enum(p, f, flag, value);
	case API_OBJECT: return take_pair(p, f, flag, value);
	case API_NAME:
		if (!api_is_name(value, strlen(value)))
			return bad_value(
				p, f, flag, value, "a name of a-z, 0-9 and . _ -, at most 63");
		return json_add_str(p->line->params, f->name, value);
	case API_STRING:
	case API_REF:
	case API_ID:
	case API_TIME: return json_add_str(p->line->params, f->name, value);
	default: return options_usage(p, "not a flag of the command line:", flag);
	}
}

/* Reads all of a file that may be a pipe; -EFBIG above what a request may hold. */
static int read_text(const char *path, char **ret, size_t *ret_n)
{
	bool in = streq(path, "-");
	_cleanup_close_ int fd = open(in ? "/dev/stdin" : path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_free_ char *text = malloc(LIMIT_REQUEST_BYTES + 1);
	size_t n = 0;

	if (fd < 0)
		return -errno;
	if (!text)
		return -ENOMEM;
	for (;;) {
		ssize_t got = read(fd, text + n, LIMIT_REQUEST_BYTES - n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		n += (size_t)got;
		if (n == LIMIT_REQUEST_BYTES)
			return -EFBIG;
	}
	*ret = TAKE_PTR(text);
	*ret_n = n;
	return 0;
}

int options_take_file(
	struct parser *p, const struct extra_flag *e, const char *flag, const char *path)
{
	_cleanup_free_ char *text = NULL;
	int shown = utf8_cut(path, VALUE_SHOWN);
	size_t n = 0;
	int r = read_text(path, &text, &n);

	if (r < 0)
		return error_set_errno(p->err, ERROR_INVALID_ARGUMENT, r,
			r == -EFBIG ? "send it to a command: pyro workspace exec -i WORKSPACE -- "
				      "'cat > PATH' < FILE"
				    : "name a file that you may read",
			"%s: cannot read '%.*s'", flag, shown, path);
	if (!json_utf8_valid(text, n))
		return error_set(p->err, ERROR_INVALID_ARGUMENT,
			"requests are JSON, which is UTF-8 text", "give a text file",
			"%s: '%.*s' is not UTF-8", flag, shown, path);
	return json_add_strn(p->line->params, e->fills, text, n);
}
