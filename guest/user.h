/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who a command runs as, read from the guest's own /etc/passwd and /etc/group: static glibc has no
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
 * spec: NAME or UID, with an optional ":GROUP" (name or number) as docker takes it. A number
 * without a line in /etc/passwd is taken as it is, with group 0 and home "/"; so is root, as 0.
 * *ret_what (owned, one line) says what is wrong on failure.
 */
int user_find(const char *spec, struct user *ret, char **ret_what);
void user_done(struct user *u);
#define _cleanup_user_ _cleanup_(user_done)

/* The numbers of n groups by name; 0 for one that /etc/group does not have. */
int user_group_ids(const char *const *names, size_t n, uint32_t *ret);

/* The two files' format, for tests: text of passwd and group instead of the files. */
int user_find_in(
	const char *spec, const char *passwd, const char *group, struct user *ret, char **ret_what);
