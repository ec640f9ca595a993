/* SPDX-License-Identifier: MIT */
/*
 * What to say to a command line that was nearly right. Called by main.c for commands and by options.c for flags. What
 * must stay true: every fix made here is a line that can be typed, with the user's own words quoted for the shell.
 */
#include "client/suggest.h"

#include "proto/utf8.h"

#define LINE_SHOWN_MAX 1000 /* bytes */

void suggest_try(struct suggestion *s, const char *candidate)
{
	size_t n = strlen(s->word), d;

	if (n == 0)
		return;
	d = text_distance(s->word, candidate);
	/* Of a short word a single letter may be wrong, of a long one two. */
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

/* Words of argv but those from..to. */
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

static const struct foreign_word foreign_words[] = {
	{ "images", "env list", NULL, NULL },
	{ "pull", "env pull", NULL, NULL },
	{ "ps", NULL, "workspaces and what runs in them come with a later version",
		"pyro vm list" },
	{ "exec", NULL, "a machine that stays takes one command, and is deleted after it",
		"pyro vm exec VM_ID -- CMD" },
	{ "ssh", NULL, "this version runs commands without a terminal",
		"pyro run -i debian:12 -- sh" },
	{ "cp", NULL, "files go in and out by standard input and output",
		"tar c FILE | pyro run -i debian:12 -- tar xv" },
	{ "rmi", "env prune", NULL, NULL },
	{ "version", NULL, NULL, "pyro --version" },
	{ "info", "doctor", NULL, NULL },
};

const struct foreign_word *foreign_word_find(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_words); i++)
		if (streq(foreign_words[i].word, word))
			return &foreign_words[i];
	return NULL;
}

#define NO_VOLUMES \
	"a machine shares no folder with the host", \
		"tar c FOLDER | pyro run -i debian:12 -- sh -c 'tar x && ls FOLDER'"
#define NO_PORTS "this version gives machines no network", "leave it out"

static const struct foreign_flag foreign_flags[] = {
	{ "--rm", false, NULL, NULL }, /* of vm exec; run has both in its help */
	{ "--init", false, NULL, NULL },
	{ "-v", true, NO_VOLUMES },
	{ "--volume", true, NO_VOLUMES },
	{ "--mount", true, NO_VOLUMES },
	{ "-p", true, NO_PORTS },
	{ "--publish", true, NO_PORTS },
};

const struct foreign_flag *foreign_flag_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign_flags); i++)
		if (streq(foreign_flags[i].name, name))
			return &foreign_flags[i];
	return NULL;
}
