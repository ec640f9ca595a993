/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The environment that a login shell creates, captured once per user: commands then run in it with
 * a plain shell, which saves each the run time of the profile.
 */

#include "guest/environ.h"
#include "guest/loop.h"
#include "guest/user.h"

struct logins;

/* Embedded in an object that waits for a capture. */
struct login_wait {
	TAILQ_ENTRY(login_wait) entry;
	/* login is borrowed; NULL if the capture failed: run a login shell instead. */
	void (*on_login)(struct login_wait *w, const struct env *login);
	void *userdata;      /* borrowed: the owner */
	struct login *login; /* borrowed: set while waiting */
};

struct logins_params {
	struct loop *loop;     /* borrowed */
	int cgroup_fd;         /* borrowed: the common node, or -EBADF */
	uint32_t pids_max;     /* of a capture */
	const char *workspace; /* borrowed: absolute */
	int disk_fd;           /* borrowed: of the workspace on the own disk, or -EBADF */
};

int logins_new(const struct logins_params *p, struct logins **ret);
struct logins *logins_free(struct logins *ls);

/* Returns 1 with the environment in *ret (NULL if the capture failed), 0 if w is called later,
 * -errno. */
int logins_get(
	struct logins *ls, const struct user *u, struct login_wait *w, const struct env **ret);
/* Starts the capture unless it was started, so that a later logins_get waits less. */
int logins_begin(struct logins *ls, const struct user *u);
/* True if the environment is captured or being captured. */
bool logins_known(struct logins *ls, const struct user *u);
void logins_cancel(struct login_wait *w);

/* Parses the output of the capturing shell: after the marker, K=V separated by NUL. Exported for
 * tests. */
extern const char login_script[];
int login_parse(const uint8_t *p, size_t n, struct env *ret);
