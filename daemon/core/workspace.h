/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Workspaces: machines that people find again by a name, a label or a prefix of the id, and that
 * stay until they are deleted. A workspace is in the list from its creation's begin, when its
 * machine does not exist yet, until the rows of both are deleted.
 */

#include "daemon/machine/machine.h"
#include "daemon/store/store.h"
#include <json-c/json.h>

struct workspace;

struct workspace_spec {
	struct machine_spec machine; /* owner, id and whole are set here */
	const char *name;            /* NULL: none */
	json_object *labels;         /* borrowed; NULL: none */
};

struct workspace_callbacks {
	/* A phase has begun or its percentage has changed. */
	void (*on_progress)(struct workspace *ws, void *userdata);
	/* Called once, when the workspace is started and committed; or with err, when nothing of it
	 * is left and its name is free (it is freed next), or when it could not be removed. */
	void (*on_done)(struct workspace *ws, const struct error *err, void *userdata);
};

/* Begins to make a workspace. It goes on without waiters, too. cb is called from the loop later. */
int workspace_create(struct manager *m, const struct workspace_spec *spec,
	const struct workspace_callbacks *cb, void *userdata, struct workspace **ret,
	struct error *err);
/* Ends a creation that is not done: on_done follows with `cancelled`. */
void workspace_cancel(struct workspace *ws);

/* Finds a workspace that uid may see (root: all) by id, name, or a prefix of the id that matches
 * one alone, in this order; else workspace_not_found. */
int workspace_find(
	struct manager *m, const char *ref, uid_t uid, struct workspace **ret, struct error *err);
/* The workspace that owns mc; NULL: it has another owner. */
struct workspace *workspace_of(const struct machine *mc);

const char *workspace_id(const struct workspace *ws);
uid_t workspace_owner_uid(const struct workspace *ws);
struct manager *workspace_manager(const struct workspace *ws);
/* NULL: not made yet, or its creation has failed. */
struct machine *workspace_machine(const struct workspace *ws);
/* The phase of its creation and the percentage of that (-1: not known); NULL: it is created. */
const char *workspace_phase(const struct workspace *ws, int *ret_percent);

/* As machine_boot, machine_stop and machine_delete, also before the machine is made. */
int workspace_start(struct workspace *ws, machine_done_fn done, void *userdata, struct error *err);
/* now: does not wait for its guest, also when it is being stopped already. */
int workspace_stop(struct workspace *ws, const char *reason, bool now, machine_done_fn done,
	void *userdata, struct error *err);
int workspace_delete(struct workspace *ws, machine_done_fn done, void *userdata);

/* Waits until it is in one of these states (an array of machine_state_name), or has failed instead
 * (err), or wait_usec have passed (UINT64_MAX: no limit; err NULL). Returns 1, without a call of
 * done, if it is in such a state. */
int workspace_wait(struct workspace *ws, json_object *states, uint64_t wait_usec,
	machine_done_fn done, void *userdata, struct error *err);
/* Ends a wait; its done is not called. */
void workspace_unwait(struct workspace *ws, const void *userdata);

/* What workspace.update and workspace.share change. */
struct workspace_change {
	const char *name; /* NULL: unchanged */
	bool clear_name;
	json_object *labels;       /* borrowed: added or replaced; NULL: none */
	json_object *clear_labels; /* borrowed: an array of keys; NULL: none */
	bool share;
};
/* done is called when the change is committed. Returns 1, without a call of done, if nothing
 * changes. */
int workspace_update(struct workspace *ws, const struct workspace_change *change,
	store_done_fn done, void *userdata, struct error *err);

/* workspace-json.c: the fields of contract.md section 4. *ret is owned. */
int workspace_json(const struct workspace *ws, json_object **ret);
struct workspace_filter {
	uid_t uid;           /* of the owner */
	bool all;            /* of all owners instead */
	json_object *labels; /* borrowed: each must be there with this value; NULL: any */
};
int workspace_list_json(
	struct manager *m, const struct workspace_filter *filter, json_object **ret);
