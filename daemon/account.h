/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Maps a uid to the account whose limits apply. A user may act as each of thousands of subordinate
 * uids (subuid(5)): for authority each is a separate uid, for limits all belong to their owner's
 * account.
 */

#include "proto/base.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct accounts;

/* The account of every uid whose owner is not known. The kernel's last uid, which nobody has. */
#define ACCOUNT_UNKNOWN ((uid_t)-2)
enum { ACCOUNT_TEXT_SIZE = 48 };
/* Writes "uid N has", or "uids of unknown owner have", and returns ret. */
const char *account_has(uid_t account, char ret[ACCOUNT_TEXT_SIZE]);

/* The files have the formats of subuid(5) and passwd(5) and need not exist; a changed file is read
 * again. */
int accounts_new(const char *subuid_path, const char *passwd_path, struct accounts **ret);
struct accounts *accounts_free(struct accounts *a);
DEFINE_CLEANUP(struct accounts *, accounts_free)

struct accounts_service {
	sd_event *event;
	const char *nsswitch_path; /* has the format of nsswitch.conf(5); need not exist */
	const char *program;       /* absolute path of pyro-subid */
	uid_t uid;                 /* that the program runs as; 0: pyrod's own */
	gid_t gid;
};

/* From now on a uid that is in neither file has the owner that a name service knows, if
 * nsswitch_path names one for subordinate uids. */
int accounts_use_service(struct accounts *a, const struct accounts_service *service);
/* fn is called, from the loop or accounts_refresh, when the account of a uid may have changed. */
void accounts_watch(struct accounts *a, void (*fn)(void *userdata), void *userdata);

/* Reads changed files, with a few system calls. Accepts NULL. */
void accounts_refresh(struct accounts *a);

/* Returns, as of the last refresh, the uid of the range's owner, or the first uid of the range if
 * the owner is not in the passwd file; uid itself if it is in no range or a is NULL. With a name
 * service, a uid that it has not answered about is asked about and has ACCOUNT_UNKNOWN; it never
 * waits. */
uid_t accounts_find(const struct accounts *a, uid_t uid);
