/* SPDX-License-Identifier: MIT */
/*
 * The error value that a person or a client reads: names and errnos of the codes (ERROR_CODES in
 * error.h) and the operations on a value. The first error set wins: callers up the stack add a
 * prefix or a missing fix, never another message. Out of memory, an error loses its texts but keeps
 * its code.
 */

#include "proto/error.h"
#include <stdarg.h>

static const struct {
	const char *name;
	int err;
	bool retryable;
	const char *help;
} codes[] = {
#define X(sym, name, err, retry, help) [ERROR_##sym] = { name, err, retry, help },
	ERROR_CODES(X)
#undef X
};
_Static_assert(ARRAY_SIZE(codes) == ERROR_MAX, "every code has its row");

static char *copy_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

static _printf_(5, 0) int error_setv(struct error *err, enum error_code code, const char *cause,
	const char *fix, const char *message, va_list ap)
{
	if (!err || err->set)
		return -error_code_errno(err ? err->code : code);
	err->set = true;
	err->code = code;
	if (vasprintf(&err->message, message, ap) < 0)
		err->message = NULL;
	err->cause = copy_or_null(cause);
	err->fix = copy_or_null(fix);
	return -error_code_errno(code);
}

int error_set_texts(struct error *err, enum error_code code, const char *cause, const char *fix,
	const char *message, ...)
{
	va_list ap;

	va_start(ap, message);
	int r = error_setv(err, code, cause, fix, message, ap);
	va_end(ap);
	return r;
}

const char *error_errno_fix(int r)
{
	switch (r < 0 ? -r : r) {
	case ENOMEM: return "stop other programs or machines on this host, then try again";
	case ENOSPC:
	case EDQUOT:
		return "free space on the file system that holds it (df -h shows it), then try again";
	case EROFS: return "make the file system that holds it writable";
	case EIO: return "look at the disk: sudo dmesg --level err,warn";
	case EMFILE:
		return "raise the limit of open files: LimitNOFILE= of the service, ulimit -n in a shell";
	case ENFILE:
		return "raise the host's limit of open files: sudo sysctl -w fs.file-max=2000000";
	case EAGAIN:
		return "raise the limit of processes: TasksMax= of the service, ulimit -u in a shell";
	case EACCES:
	case EPERM: return "give the user that runs this permission to access it";
	case EOPNOTSUPP: return "put it on a file system that supports this";
	default: return NULL;
	}
}

int error_set_errno(
	struct error *err, enum error_code code, int r, const char *fix, const char *message, ...)
{
	char text[128];
	va_list ap;

	va_start(ap, message);
	(void)error_setv(err, code, strerror_r(r < 0 ? -r : r, text, sizeof(text)),
		fix ? fix : error_errno_fix(r), message, ap);
	va_end(ap);
	return r;
}

int error_no_memory(struct error *err, const char *message, ...)
{
	va_list ap;

	va_start(ap, message);
	(void)error_setv(
		err, ERROR_NO_MEMORY, "out of memory", error_errno_fix(-ENOMEM), message, ap);
	va_end(ap);
	return -ENOMEM;
}

int error_internal(struct error *err, const char *cause, const char *message, ...)
{
	va_list ap;

	va_start(ap, message);
	int r = error_setv(err, ERROR_INTERNAL, cause, NULL, message, ap);
	va_end(ap);
	return r;
}

int error_cancelled(struct error *err, const char *became, const char *message, ...)
{
	va_list ap;

	va_start(ap, message);
	int r = error_setv(err, ERROR_CANCELLED, became, NULL, message, ap);
	va_end(ap);
	return r;
}

bool error_is_complete(const struct error *err)
{
	return err->code == ERROR_CANCELLED ? err->cause != NULL : err->fix != NULL;
}

int error_prefix(struct error *err, const char *context, ...)
{
	_cleanup_free_ char *prefix = NULL;
	va_list ap;

	if (!err || !err->set)
		return -EIO;
	va_start(ap, context);
	int n = vasprintf(&prefix, context, ap);
	va_end(ap);
	if (n < 0)
		prefix = NULL;
	char *joined = prefix && err->message ? str_printf("%s: %s", prefix, err->message) : NULL;
	if (joined) {
		free(err->message);
		err->message = joined;
	}
	return -error_code_errno(err->code);
}

void error_default_fix(struct error *err, const char *fix)
{
	if (err && err->set && !err->fix)
		err->fix = copy_or_null(fix);
}

void error_clear(struct error *err)
{
	free(err->message);
	free(err->cause);
	free(err->fix);
	*err = (struct error)ERROR_INIT;
}

void error_move(struct error *dst, struct error *src)
{
	if (dst == src)
		return;
	if (!dst || dst->set) {
		error_clear(src);
		return;
	}
	*dst = *src;
	*src = (struct error)ERROR_INIT;
}

int error_copy(struct error *dst, const struct error *src)
{
	_cleanup_error_ struct error copy = ERROR_INIT;

	copy.set = src->set;
	copy.code = src->code;
	copy.message = copy_or_null(src->message);
	copy.cause = copy_or_null(src->cause);
	copy.fix = copy_or_null(src->fix);
	bool short_of_memory = (src->message && !copy.message) || (src->cause && !copy.cause) ||
			       (src->fix && !copy.fix);
	error_move(dst, &copy);
	return short_of_memory ? -ENOMEM : 0;
}

const char *error_code_name(enum error_code code)
{
	return (unsigned)code < ERROR_MAX ? codes[code].name : codes[ERROR_INTERNAL].name;
}

int error_code_from_name(const char *name, enum error_code *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		if (streq(codes[i].name, name)) {
			*ret = (enum error_code)i;
			return 0;
		}
	}
	return -EINVAL;
}

int error_code_errno(enum error_code code)
{
	return (unsigned)code < ERROR_MAX ? codes[code].err : codes[ERROR_INTERNAL].err;
}

bool error_code_retryable(enum error_code code)
{
	return (unsigned)code < ERROR_MAX && codes[code].retryable;
}

const char *error_code_help(enum error_code code)
{
	return (unsigned)code < ERROR_MAX ? codes[code].help : codes[ERROR_INTERNAL].help;
}

enum error_code error_code_for_errno(int r)
{
	switch (r < 0 ? -r : r) {
	case ENOSPC: return ERROR_NO_SPACE;
	case EDQUOT: return ERROR_QUOTA_EXCEEDED;
	case ENOMEM: return ERROR_NO_MEMORY;
	case EACCES:
	case EPERM: return ERROR_PERMISSION_DENIED;
	case ECANCELED: return ERROR_CANCELLED;
	case EOPNOTSUPP: return ERROR_UNSUPPORTED;
	default: return ERROR_INTERNAL;
	}
}
