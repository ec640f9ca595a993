/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Words of the command line: shell quoting, sizes and durations as people type them, and the escaping
 * of text that came from outside before a terminal sees it.
 */

#include "proto/base.h"

/*
 * One shell line from the words of a command (contract.md section 1): several words are quoted and
 * joined, a single word passes as it is. *ret is owned by the caller. -ENOMEM.
 */
int shell_join(char *const *words, size_t n, char **ret);

/* "2G", "512M", "1024" (MiB), "1TiB" to MiB. -EINVAL; -ERANGE when it overflows or is no whole MiB. */
int parse_size_mib(const char *s, uint64_t *ret);

/* "90", "5m", "1h30m", "2d" to seconds. -EINVAL, -ERANGE. */
int parse_duration_seconds(const char *s, uint64_t *ret);

/* A decimal number with an optional minus, the whole string. -EINVAL, -ERANGE. */
int parse_i64(const char *s, int64_t *ret);

bool text_is_utf8(const char *s);

/*
 * A copy that is safe on a terminal: control characters, invalid UTF-8 and characters that reorder a
 * line become \xNN or \u{NNNN}. Newlines become a newline and indent (NULL: "\n" spelled out).
 * NULL when out of memory.
 */
char *text_escape(const char *s, const char *indent);

/* A copy of JSON text in which characters that play with a terminal are written \uNNNN. NULL when out of memory. */
char *text_escape_json(const char *s);
