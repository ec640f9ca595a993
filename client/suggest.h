/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The fix of a command line that was nearly right: the line as it should have been, typos mended.
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
