/* SPDX-License-Identifier: MIT */
/*
 * Makes suggestions for a command line that was nearly right. Called by main.c for commands and by
 * options.c for flags. What must stay true: every fix made here is a line that can be typed, with
 * the user's words quoted for the shell.
 */
#include "client/suggest.h"

#include "proto/utf8.h"

#define LINE_SHOWN_MAX  1000 /* bytes */
#define PREFIX_DISTANCE 3    /* of a candidate that begins with the word */

void suggest_try(struct suggestion *s, const char *candidate)
{
	size_t n = strlen(s->word), d;

	if (n == 0)
		return;
	/* The beginning of a candidate means it, unless another one differs by at most two
	 * letters. */
	if (n > 4 && startswith(candidate, s->word) && s->distance > PREFIX_DISTANCE) {
		s->best = candidate;
		s->distance = PREFIX_DISTANCE;
	}
	d = text_distance(s->word, candidate);
	/* One letter may be wrong in a short word, two in a long one. */
	if (d <= (n > 4 ? 2U : 1U) && d < s->distance) {
		s->best = candidate;
		s->distance = d;
	}
}

static int add_word(FILE *f, const char *word)
{
	_cleanup_free_ char *quoted = shell_quote(word);

	if (!quoted)
		return -ENOMEM;
	fprintf(f, " %s", quoted);
	return 0;
}

/* Adds the words of argv except argv[from..to). */
static int add_words(FILE *f, int argc, char **argv, int first, int from, int to)
{
	int r = 0;

	for (int i = first; i < argc && r >= 0; i++)
		if (i < from || i >= to)
			r = add_word(f, argv[i]);
	return r;
}

static char *finish(FILE **f, char **line, int r)
{
	if (fclose(*f) != 0)
		r = -ENOMEM;
	*f = NULL;
	return r < 0 || strlen(*line) > LINE_SHOWN_MAX ? NULL : TAKE_PTR(*line);
}

char *suggest_moved(int argc, char **argv, int from, int to)
{
	_cleanup_free_ char *line = NULL;
	_cleanup_fclose_ FILE *f = NULL;
	size_t size = 0;
	int r;

	f = open_memstream(&line, &size);
	if (!f)
		return NULL;
	fputs("pyro", f);
	r = add_words(f, to, argv, from, 0, 0);
	if (r >= 0)
		r = add_words(f, argc, argv, 1, from, to);
	return finish(&f, &line, r);
}
