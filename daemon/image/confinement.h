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
/* Takes it from the result of a pull. */
void confinement_take(struct environments *envs, json_object *result);
/* False when imports cannot be confined, and so fail. *ret_detail is owned by the caller (NULL: no memory),
 * *ret_fix borrowed or NULL. */
bool confinement_describe(struct environments *envs, char **ret_detail, const char **ret_fix);

struct confinement *confinement_free(struct confinement *c);
DEFINE_CLEANUP(struct confinement *, confinement_free)
