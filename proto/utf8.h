/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * UTF-8 as defined by RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
 */

#include "base.h"

#define UTF8_MAX 4 /* bytes of a sequence */

/* Returns the length (1-4) of the well-formed sequence at p and its character in *ret (may be
 * NULL); 0 if it is malformed or incomplete. n is at least 1. */
size_t utf8_decode(const void *p, size_t n, uint32_t *ret);

/* Returns the length of the longest prefix of text within max bytes that splits no character. An
 * int, for "%.*s". */
int utf8_cut(const char *text, size_t max);

/* Edit distance in bytes (insert, delete, change, swap neighbours); SIZE_MAX if a text is longer
 * than 64 bytes. */
size_t text_distance(const char *a, const char *b);

/* Returns an owned copy with U+FFFD for each byte outside a well-formed sequence; NULL when out of
 * memory. */
char *utf8_repair(const char *text);
