/* SPDX-License-Identifier: MIT */
/*
 * Corrects a command line with a wrong word. Called by the option parser and main.c. What must stay
 * true: a line made here, pasted into a shell, does what it shows. Where that is impossible no line
 * is made.
 */
#include "correct.h"

#include "client/text.h"

#define LINE_BYTES 1000 /* bytes; longer lines are not shown */

bool correct_prints(const char *s)
{
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return false;
	return text_is_utf8(s);
}

/* Appends to *line, after a space. */
static int add(char **line, const char *text)
{
	char *more = *line ? str_printf("%s %s", *line, text) : strdup(text);

	if (!more)
		return -ENOMEM;
	free(*line);
	*line = more;
	return 0;
}

static int add_words(char **line, char **argv, int from, int to)
{
	int r = 0;

	for (int i = from; r >= 0 && i < to; i++) {
		_cleanup_free_ char *word = shell_quote(argv[i]);

		r = word ? add(line, word) : -ENOMEM;
		if (r >= 0 && strlen(*line) > LINE_BYTES)
			r = -E2BIG;
	}
	return r;
}

static char *finish(char **line, int r)
{
	return r >= 0 && correct_prints(*line) ? TAKE_PTR(*line) : NULL;
}

char *correct_line(int argc, char **argv, int from, int to, const char *text)
{
	_cleanup_free_ char *line = strdup("pyro");
	int r = line ? add_words(&line, argv, 1, from) : -ENOMEM;

	if (r >= 0 && text)
		r = add(&line, text);
	if (r >= 0)
		r = add_words(&line, argv, to, argc);
	return finish(&line, r);
}

char *correct_octal(const char *bytes)
{
	_cleanup_free_ char *text = malloc(4 * strlen(bytes) + 3);
	char *to = text;

	if (!text)
		return NULL;
	*to++ = '\'';
	for (const unsigned char *p = (const unsigned char *)bytes; *p; p++) {
		if (*p < 0x20 || *p > 0x7e || *p == '\\' || *p == '\'' || *p == '%')
			to += snprintf(to, 5, "\\%03o", *p);
		else
			*to++ = (char)*p;
	}
	*to++ = '\'';
	*to = '\0';
	return TAKE_PTR(text);
}

char *correct_by_stdin(char **argv, int verb_end, int command_at, const char *command)
{
	_cleanup_free_ char *bytes = correct_octal(command), *line = NULL;
	int r;

	if (!bytes || strlen(bytes) > LINE_BYTES)
		return NULL;
	line = str_printf("printf %s | pyro", bytes);
	r = line ? add_words(&line, argv, 1, verb_end) : -ENOMEM;
	if (r >= 0)
		r = add(&line, "-i");
	if (r >= 0)
		r = add_words(&line, argv, verb_end, command_at);
	if (r >= 0)
		r = add(&line, "sh");
	return finish(&line, r);
}
