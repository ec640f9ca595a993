/* SPDX-License-Identifier: MIT */
#pragma once

/* Files and folders of the environment, which may be anything and anywhere, and the kernel's settings. */

#include "proto/base.h"

/* A regular file, up to 1 MiB of it, without waiting; empty text when it is not there. */
int file_read(const char *path, char **ret);
/* A file with this text, 0644, in place of whatever has the name, a link included. */
int file_replace(const char *path, const char *text);
/*
 * A folder, or a link to one, 0755 where it is made. Missing parents are made, also those that a link leads to
 * (/lib, with no usr/lib yet); a file in its place, or a link that leads to itself, gives way.
 */
int file_dir(const char *path);
/* Writes a setting below /proc or /sys, which is there already. */
int file_set(const char *path, const char *text);
