/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Words that users of docker, podman, systemctl and git type, with their counterparts here.
 */

#include "proto/base.h"

struct foreign_word {
	const char *words; /* one word, or two with a space between */
	const char *means; /* pyro's words with the same arguments; NULL: none */
	bool runs;         /* run them without a message */
	bool of_vm;        /* only if a machine's id follows */
	/* Both NULL: `means` is enough. fix is a line that runs as it stands, for when `means` does
	 * not. */
	const char *cause, *fix;
};

/* Finds the row for the words; second may be NULL. vm: a machine's id follows. NULL: no row. */
const struct foreign_word *foreign_word_find(const char *first, const char *second, bool vm);

/* A flag of `docker run`. */
struct foreign_flag {
	const char *name; /* with dashes */
	bool takes_value;
	const char *means; /* pyro's flag with the same value; NULL: none */
	const char *cause; /* cause and means NULL: accepted without effect */
	const char *fix;   /* NULL: the line without the flag */
};
const struct foreign_flag *foreign_flag_find(const char *name);
