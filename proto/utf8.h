/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF.
 */

#include "base.h"

#define UTF8_MAX 4 /* bytes of a sequence */

/* The length of the well-formed sequence at p, of which n bytes (at least 1) may be read: 1-4, with the
 * character in *ret (may be NULL); 0 when there is none or it is cut. */
size_t utf8_decode(const void *p, size_t n, uint32_t *ret);

/* How many bytes of text, at most max, a reader is to see: no character is cut. An int, for "%.*s". */
int utf8_cut(const char *text, size_t max);

/* How many bytes have to be added, left out, changed or swapped with their neighbour to make one of the other; SIZE_MAX
 * when one is longer than 64 bytes. */
size_t text_distance(const char *a, const char *b);

/* A copy, owned, in which each byte that is no part of a well-formed sequence is U+FFFD; NULL when out of memory. */
char *utf8_repair(const char *text);
