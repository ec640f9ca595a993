/* SPDX-License-Identifier: MIT */
/*
 * Text that users type and read: quotes a command's words into one shell line, parses sizes and
 * durations, and escapes text from the daemon, the guest or the command line. Called by the option
 * parser and by everything that prints. Keeps no state. What must stay true: the result of
 * text_escape() cannot move the cursor, change colours or reorder its line.
 */
#include "text.h"

#include <ctype.h>
#include <limits.h>

#include "proto/utf8.h"

/* Reserved words of the shell at the beginning of a line. */
static const char *const shell_reserved[] = {
	"if",
	"then",
	"else",
	"elif",
	"fi",
	"do",
	"done",
	"case",
	"esac",
	"while",
	"until",
	"for",
	"in",
	"function",
	"select",
	"time",
	"coproc",
	NULL,
};

static bool is_reserved(const char *word)
{
	for (size_t i = 0; shell_reserved[i]; i++)
		if (streq(word, shell_reserved[i]))
			return true;
	return false;
}

/* Ends a memory stream. Returns 0 with *ret (owned by the caller), or -ENOMEM. */
static int stream_finish(FILE **f, char **text, char **ret)
{
	int r = ferror(*f) ? -ENOMEM : 0;

	if (fclose(*f) != 0)
		r = -ENOMEM;
	*f = NULL;
	if (r < 0)
		return r;
	*ret = TAKE_PTR(*text);
	return 0;
}

int shell_join(char *const *words, size_t n, char **ret)
{
	_cleanup_free_ char *line = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	size_t size = 0;

	if (n == 1) {
		line = strdup(words[0]);
		if (!line)
			return -ENOMEM;
		*ret = TAKE_PTR(line);
		return 0;
	}
	f = open_memstream(&line, &size);
	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *word = NULL;

		if (i > 0)
			fputc(' ', f);
		word = is_reserved(words[i]) ? str_printf("'%s'", words[i]) : shell_quote(words[i]);
		if (!word)
			return -ENOMEM;
		fputs(word, f);
	}
	return stream_finish(&f, &line, ret);
}

/* Parses the digits at *s and moves *s behind them. */
static int take_number(const char **s, uint64_t *ret)
{
	uint64_t v = 0;
	const char *p = *s;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(v, 10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	*s = p;
	*ret = v;
	return 0;
}

int parse_size_mib(const char *s, uint64_t *ret)
{
	static const char units[] = "kmgt";
	const char *unit;
	uint64_t n;
	int r = take_number(&s, &n);

	if (r < 0)
		return r;
	if (*s == '\0') {
		*ret = n;
		return 0;
	}
	unit = strchr(units, tolower((unsigned char)*s));
	if (!unit)
		return -EINVAL;
	s++;
	if (*s != '\0' && strcasecmp(s, "b") != 0 && strcasecmp(s, "ib") != 0)
		return -EINVAL;
	if (unit == units) {
		if (n % 1024 != 0)
			return -ERANGE;
		*ret = n / 1024;
		return 0;
	}
	for (; unit > units + 1; unit--)
		if (__builtin_mul_overflow(n, 1024, &n))
			return -ERANGE;
	*ret = n;
	return 0;
}

static uint64_t unit_seconds(char unit)
{
	switch (unit) {
	case 's': return 1;
	case 'm': return 60;
	case 'h': return 3600;
	case 'd': return 86400;
	default: return 0;
	}
}

int parse_duration_seconds(const char *s, uint64_t *ret)
{
	uint64_t total = 0, n, factor, last = UINT64_MAX;
	int r;

	do {
		r = take_number(&s, &n);
		if (r < 0)
			return r;
		if (*s == '\0' && last == UINT64_MAX) {
			*ret = n;
			return 0;
		}
		factor = unit_seconds(*s);
		if (factor == 0 || factor >= last)
			return -EINVAL;
		last = factor;
		s++;
		if (__builtin_mul_overflow(n, factor, &n) ||
			__builtin_add_overflow(total, n, &total))
			return -ERANGE;
	} while (*s != '\0');
	*ret = total;
	return 0;
}

int parse_i64(const char *s, int64_t *ret)
{
	bool negative = s[0] == '-';
	uint64_t n;
	int r;

	if (negative)
		s++;
	r = take_number(&s, &n);
	if (r < 0)
		return r;
	if (*s != '\0')
		return -EINVAL;
	if (n > INT64_MAX)
		return -ERANGE;
	*ret = negative ? -(int64_t)n : (int64_t)n;
	return 0;
}

/* Returns the length of the character at p, a NUL-terminated string; 0: not UTF-8. */
static size_t utf8_char(const uint8_t *p, uint32_t *ret)
{
	return utf8_decode(p, strnlen((const char *)p, UTF8_MAX), ret);
}

bool text_is_utf8(const char *s)
{
	const uint8_t *p = (const uint8_t *)s;
	uint32_t c;

	while (*p) {
		size_t n = utf8_char(p, &c);
		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

/* True for control characters, and for those that change the order or place of others. */
static bool char_is_unsafe(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || (c >= 0x200e && c <= 0x200f) ||
	       (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

/* Writes character c in one form of escaping. n: its length at p, or 0 if p is not UTF-8. */
typedef void (*put_fn)(FILE *f, const uint8_t *p, size_t n, uint32_t c, const char *indent);

static char *escape(const char *s, put_fn put, const char *indent)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	const uint8_t *p = (const uint8_t *)s;
	size_t size = 0;
	char *done;

	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	while (*p) {
		uint32_t c = 0;
		size_t n = utf8_char(p, &c);

		put(f, p, n, c, indent);
		p += MAX_OF(n, (size_t)1);
	}
	return stream_finish(&f, &text, &done) < 0 ? NULL : done;
}

static void put_plain(FILE *f, const uint8_t *p, size_t n, uint32_t c, const char *indent)
{
	if (*p == '\n' && indent)
		fprintf(f, "\n%s", indent);
	else if (*p == '\n')
		fputs("\\n", f);
	else if (n == 0 || (n == 1 && char_is_unsafe(c)))
		fprintf(f, "\\x%02x", *p);
	else if (char_is_unsafe(c))
		fprintf(f, "\\u{%04x}", c);
	else
		fwrite(p, 1, n, f);
}

char *text_escape(const char *s, const char *indent)
{
	return escape(s, put_plain, indent);
}

/* json-c has escaped characters below 0x20 already; line ends between members stay. */
static void put_json(FILE *f, const uint8_t *p, size_t n, uint32_t c, const char *indent _unused_)
{
	if (c >= 0x20 && char_is_unsafe(c))
		fprintf(f, "\\u%04x", c);
	else
		fwrite(p, 1, MAX_OF(n, (size_t)1), f);
}

char *text_escape_json(const char *s)
{
	return escape(s, put_json, NULL);
}
