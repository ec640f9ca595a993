/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How far imports can be confined on this host, for doctor and the log.
 */

#include "daemon/image/environment.h"
#include "proto/json.h"

struct confinement;

/* Starts the question; the answer comes by the loop. -ENOMEM; any other failure is the answer. */
int confinement_ask(struct environments *envs);
/* Whether there is an answer yet. 1: done comes once there is (err NULL), unless it is forgotten; 0: there is; -ENOMEM. */
bool confinement_is_known(struct environments *envs);
typedef void (*confinement_done_fn)(const struct error *err, void *userdata);
int confinement_wait(struct environments *envs, confinement_done_fn done, void *userdata);
void confinement_forget(struct environments *envs, const void *userdata);
/* Takes it from the result of a pull. */
void confinement_take(struct environments *envs, json_object *result);
/* False when imports cannot be confined, and so fail. *ret_detail is owned by the caller (NULL: no memory),
 * *ret_fix borrowed or NULL. */
bool confinement_describe(struct environments *envs, char **ret_detail, const char **ret_fix);

struct confinement *confinement_free(struct confinement *c);
DEFINE_CLEANUP(struct confinement *, confinement_free)
