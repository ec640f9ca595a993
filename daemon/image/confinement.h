/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How far imports can be confined on this host, for doctor and the log.
 */

#include "daemon/image/environment.h"
#include "proto/json.h"

struct confinement;

/* Schedules the job that finds out. Returns -ENOMEM; any other failure becomes the result. */
int confinement_ask(struct environments *envs);
bool confinement_is_known(struct environments *envs);
/*
 * Waits for the result. Returns 0 when it is known, -ENOMEM, or 1: then done is called (err NULL)
 * when it is known, unless confinement_forget comes first.
 */
typedef void (*confinement_done_fn)(const struct error *err, void *userdata);
int confinement_wait(struct environments *envs, confinement_done_fn done, void *userdata);
void confinement_forget(struct environments *envs, const void *userdata);
/* Updates it from the result of a pull. */
void confinement_take(struct environments *envs, json_object *result);
/*
 * Returns false when imports cannot be confined and therefore fail. *ret_detail is owned by the
 * caller (NULL when out of memory), *ret_fix is borrowed or NULL.
 */
bool confinement_describe(struct environments *envs, char **ret_detail, const char **ret_fix);

struct confinement *confinement_free(struct confinement *c);
DEFINE_CLEANUP(struct confinement *, confinement_free)
