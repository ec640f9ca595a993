/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The command line that was meant, as one that can be pasted: the fix of a wrong word. All results are owned, and NULL
 * when out of memory or when a line would be too long, or hold what does not print.
 */

#include "proto/base.h"

/* The line with the words [from, to) replaced by `text`, which is quoted already; NULL: without them. */
char *correct_line(int argc, char **argv, int from, int to, const char *text);

/* The line that sends `command`, whatever bytes it has, by standard input to a shell. Options end before `verb_end`, the
 * command's own words begin at `command_at`. */
char *correct_by_stdin(char **argv, int verb_end, int command_at, const char *command);

/* True for text without control characters: what is printed of it is what can be pasted. */
bool correct_prints(const char *s);

/* Bytes as printf(1) takes them in single quotes: 'caf\351'. */
char *correct_octal(const char *bytes);
