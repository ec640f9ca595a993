/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Maps a uid to the account whose limits apply. A user may act as each of thousands of subordinate
 * uids (subuid(5)): for authority each is a separate uid, for limits all belong to their owner's
 * account.
 */

#include "proto/base.h"
#include <sys/types.h>

struct accounts;

/* The files have the formats of subuid(5) and passwd(5) and need not exist; a changed file is read
 * again. */
int accounts_new(const char *subuid_path, const char *passwd_path, struct accounts **ret);
struct accounts *accounts_free(struct accounts *a);
DEFINE_CLEANUP(struct accounts *, accounts_free)

/* Reads changed files, with a few system calls. Accepts NULL. */
void accounts_refresh(struct accounts *a);

/* Returns, as of the last refresh, the uid of the range's owner, or the first uid of the range if
 * the owner is not in the passwd file; uid itself if it is in no range or a is NULL. */
uid_t accounts_find(const struct accounts *a, uid_t uid);
