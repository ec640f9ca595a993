/* SPDX-License-Identifier: MIT */
#pragma once

/* Builds a process environment: K=V strings, each K once. */

#include "proto/base.h"

struct env {
	char **v; /* owned, NULL-terminated; NULL when empty */
	size_t n;
};

int env_set(struct env *e, const char *entry); /* "K=V", replaces K; -EINVAL without K= */
int env_set_pair(struct env *e, const char *key, const char *value);
int env_merge(struct env *e, char *const *v, size_t n); /* each by env_set */
void env_unset(struct env *e, const char *key);
const char *env_get(const struct env *e, const char *key); /* borrowed, NULL */
void env_done(struct env *e);
#define _cleanup_env_ _cleanup_(env_done)
