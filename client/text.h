/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Words of the command line: shell quoting, sizes and durations as users type them, and the
 * escaping of text from outside for a terminal.
 */

#include "proto/base.h"

/*
 * Makes one shell line from the words of a command (contract.md section 1): several words are
 * quoted and joined, a single word is unchanged. *ret is owned by the caller. Returns 0 or -ENOMEM.
 */
int shell_join(char *const *words, size_t n, char **ret);

/* Converts "2G", "512M", "1024" (MiB), "1TiB" to MiB. -EINVAL; -ERANGE: overflow or not whole. */
int parse_size_mib(const char *s, uint64_t *ret);

/* Converts "90", "5m", "1h30m", "2d" to seconds. -EINVAL, -ERANGE. */
int parse_duration_seconds(const char *s, uint64_t *ret);

/* Parses the whole string as a decimal number with an optional minus. -EINVAL, -ERANGE. */
int parse_i64(const char *s, int64_t *ret);

bool text_is_utf8(const char *s);

/*
 * Returns a copy that is safe on a terminal: control characters, invalid UTF-8 and characters that
 * reorder a line become \xNN or \u{NNNN}. A newline becomes a newline and indent (indent NULL: the
 * two characters "\n"). Owned by the caller; NULL when out of memory.
 */
char *text_escape(const char *s, const char *indent);

/* Returns a copy of JSON text with unsafe characters written \uNNNN. NULL when out of memory. */
char *text_escape_json(const char *s);
