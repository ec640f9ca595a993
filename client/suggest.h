/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The fix of a command line that was nearly right: the corrected line.
 */

#include "client/cli.h"

/* The candidate nearest to a mistyped word. best is NULL if no candidate is near enough. */
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

/* Makes the line "pyro" and argv[1..], quoted, with argv[from..to) moved to right after "pyro".
 * Owned by the caller; NULL: out of memory, or the line is too long to show. */
char *suggest_moved(int argc, char **argv, int from, int to);
