/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the handlers of machines and of workspaces share: the parameters of a new machine, the
 * progress of its creation, and the calls that are answered when a machine has reached a state or
 * is deleted.
 */

#include "daemon/machine/machine.h"
#include "daemon/rpc/call.h"

/* Fills in the machine that the parameters describe. timeout: that of its command in seconds; -1:
 * it has none. Refuses what this version or this host does not have. */
int machine_call_spec(struct call *c, int64_t timeout, struct machine_spec *ret, struct error *err);

/* The progress of a creation. All members but phase may be NULL. */
struct machine_progress {
	const char *phase, *detail, *workspace_id;
	int percent;              /* -1: not known */
	const struct machine *mc; /* what is started, for its accelerator */
};
void machine_call_progress(struct call *c, const struct machine_progress *p);

/* Answers with o (taken over), or, when it could not be made (r < 0), with an error. */
void machine_call_reply(struct call *c, int r, json_object *o);

/*
 * A call that waits for a state of its object. It is answered by reply(), with the object looked up
 * again by id; with if_deleted (may be NULL), when the object was deleted instead; or with the
 * error.
 */
struct state_call;
/* Takes over if_deleted. NULL when out of memory. */
struct state_call *state_call_new(
	struct call *c, const char *id, void (*reply)(struct call *c), json_object *if_deleted);
/* The machine_done_fn of the request. */
void state_call_done(const struct error *err, void *userdata);
/* r: what the request returned. 0: keeps the call until state_call_done; 1: answers it now; less:
 * frees sc and returns r. */
int state_call_begin(struct state_call *sc, int r);

/* A call that is answered when its object is deleted. id_name: the result's member with its id. */
struct delete_call;
struct delete_call *delete_call_new(struct call *c, const char *id_name, const char *id);
void delete_call_done(const struct error *err, void *userdata);
int delete_call_begin(struct delete_call *d, int r);
