/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The user a command runs as, read from the guest's /etc/passwd and /etc/group: static glibc has no
 * NSS.
 */

#include "proto/base.h"
#include <sys/types.h>

enum { USER_GROUPS_MAX = 64 };

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX];
	size_t n_groups;
	char *name;  /* owned */
	char *home;  /* owned */
	char *shell; /* owned */
};

/*
 * spec: NAME or UID, with an optional ":GROUP" (name or number) as in docker. A number without a
 * line in /etc/passwd is used as it is, with group 0 and home "/"; likewise root, as 0. On failure
 * *ret_what (owned, one line) is the reason.
 */
int user_find(const char *spec, struct user *ret, char **ret_what);
void user_done(struct user *u);
#define _cleanup_user_ _cleanup_(user_done)

/* Looks up n groups by name; 0 for one that is not in /etc/group. */
int user_group_ids(const char *const *names, size_t n, uint32_t *ret);

/* The same with the text of passwd and group, for tests. */
int user_find_in(
	const char *spec, const char *passwd, const char *group, struct user *ret, char **ret_what);
