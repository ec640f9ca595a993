/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The fix of a command line that was nearly right: the line as it should have been, typos mended, and what stands
 * for the words of other programs.
 */

#include "client/cli.h"

/* The candidate nearest to word, when it is near enough for a typo; NULL: none is. Borrowed. */
struct suggestion {
	const char *word; /* what was typed */
	const char *best; /* borrowed: the nearest so far */
	size_t distance;  /* of best */
};
#define SUGGESTION(typed) \
	{ \
		.word = (typed), .distance = SIZE_MAX \
	}
void suggest_try(struct suggestion *s, const char *candidate);

/* "pyro" and argv[1..], quoted, with the words from..to (to not included) right after "pyro". NULL: out of memory, or
 * too long to be shown. Owned by the caller. */
char *suggest_moved(int argc, char **argv, int from, int to);

/* What a word of docker's at the place of a command stands for. */
struct foreign_word {
	const char *word;
	const char *means; /* words of ours that take the same arguments, NULL: there are none */
	const char *cause, *fix;
};
const struct foreign_word *foreign_word_find(const char *word);

/* A flag of `docker run`. */
struct foreign_flag {
	const char *name; /* with dashes */
	bool takes_value;
	const char *cause, *fix; /* both NULL: accepted and without an effect here */
};
const struct foreign_flag *foreign_flag_find(const char *name);
