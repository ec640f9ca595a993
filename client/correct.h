/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Makes the fix of a wrong word: a corrected command line that can be pasted. All results are owned
 * by the caller; NULL when out of memory, or when the line would be too long or contain control
 * characters.
 */

#include "proto/base.h"

/* Makes the line with the words [from, to) replaced by `text` (quoted already; NULL: left out). */
char *correct_line(int argc, char **argv, int from, int to, const char *text);

/* Makes the line that sends `command`, which may contain any bytes, to a shell by standard input.
 * The verb's own words begin at `verb_end`, the command's at `command_at`. */
char *correct_by_stdin(char **argv, int verb_end, int command_at, const char *command);

/* True for UTF-8 text without control characters, which is pasted as it is printed. */
bool correct_prints(const char *s);

/* Writes bytes as printf(1) reads them, in single quotes: 'caf\351'. */
char *correct_octal(const char *bytes);
