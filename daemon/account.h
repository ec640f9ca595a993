/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Whose limits count for a uid. A user may have thousands of subordinate uids (subuid(5)) and act as each of them;
 * for authority each is a uid of its own, for limits all are their owner's account.
 */

#include "proto/base.h"
#include <sys/types.h>

struct accounts;

/* The files are those of subuid(5) and passwd(5), read again when they change; they need not exist. */
int accounts_new(const char *subuid_path, const char *passwd_path, struct accounts **ret);
struct accounts *accounts_free(struct accounts *a);
DEFINE_CLEANUP(struct accounts *, accounts_free)

/* Reads what has changed since; some system calls. Takes NULL. */
void accounts_refresh(struct accounts *a);

/* As of the last refresh: the owner's uid; the first uid of the range when its owner is not in the passwd file (all of the range is one account
 * then); uid itself outside of all ranges, and where a is NULL. */
uid_t accounts_find(const struct accounts *a, uid_t uid);
