/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The environment a login shell would make, captured once for each user: commands then run in it by
 * a plain shell, which saves the profile's run time on every one of them.
 */

#include "guest/environ.h"
#include "guest/loop.h"
#include "guest/user.h"

struct logins;

/* Embedded by who waits for a capture. */
struct login_wait {
	TAILQ_ENTRY(login_wait) entry;
	/* login is NULL when it could not be captured: run a login shell instead. Borrowed for the
	 * call. */
	void (*on_login)(struct login_wait *w, const struct env *login);
	void *userdata;      /* borrowed: the owner */
	struct login *login; /* borrowed: set while waiting */
};

int logins_new(struct loop *l, int cgroup_fd /* borrowed, or -EBADF */, uint32_t pids_max,
	struct logins **ret); /* cgroup_fd: borrowed, or -EBADF */
struct logins *logins_free(struct logins *ls);

/* 1: *ret is the environment, or NULL when there is none to have; 0: w is called later; -errno. */
int logins_get(
	struct logins *ls, const struct user *u, struct login_wait *w, const struct env **ret);
/* Begins the capture, if it has not begun: who calls logins_get then waits the less. */
int logins_begin(struct logins *ls, const struct user *u);
/* True when the environment is there, or is being captured. */
bool logins_known(struct logins *ls, const struct user *u);
void logins_cancel(struct login_wait *w);

/* Parses what the capturing shell printed: after the marker, K=V by NUL. For tests as well. */
extern const char login_script[];
int login_parse(const uint8_t *p, size_t n, struct env *ret);
