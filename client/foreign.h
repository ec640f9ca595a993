/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Words that users of docker, podman, systemctl and git type: what stands for each here, or what comes nearest.
 */

#include "proto/base.h"

struct foreign_word {
	const char *words; /* of them: one, or two with a space between */
	const char *means; /* words of ours that take the same arguments; NULL: there are none */
	bool runs;         /* those are run, nothing is said */
	bool of_vm;        /* only with the id of a machine among what follows */
	/* Both NULL: the word is one for another. fix is a line that runs as it is, for where `means` does not. */
	const char *cause, *fix;
};

/* The row for the words; second may be NULL. vm: the id of a machine follows. NULL: none. */
const struct foreign_word *foreign_word_find(const char *first, const char *second, bool vm);

/* A flag of `docker run`. */
struct foreign_flag {
	const char *name; /* with dashes */
	bool takes_value;
	const char *means; /* a flag of ours that takes the same value; NULL: there is none */
	const char *cause; /* both NULL: accepted and without an effect here */
	const char *fix;   /* NULL: the line without the flag */
};
const struct foreign_flag *foreign_flag_find(const char *name);
