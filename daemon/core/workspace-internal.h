/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The internals of a workspace, for workspace.c (the object and its creation), workspace-change.c
 * (names, labels, commits), workspace-wait.c (its waiters) and workspace-json.c.
 */

#include "daemon/core/core-internal.h"
#include "daemon/core/create.h"
#include "daemon/core/workspace.h"
#include "daemon/store/store.h"

struct workspace_waiter;
LIST_HEAD(workspace_waiters, workspace_waiter);
struct workspace_save;
LIST_HEAD(workspace_saves, workspace_save);

struct workspace {
	LIST_ENTRY(workspace) entry;
	struct manager *m;            /* borrowed */
	struct workspace_row row;     /* owned: with the changes that are being committed */
	struct workspace_row saved;   /* owned: as last committed */
	struct workspace_saves saves; /* owned: commits under way */
	json_object *labels;          /* owned: those of row */
	struct machine *machine;      /* borrowed: from the end of its creation to its own end */
	struct workspace_waiters waiters;
	struct {
		struct creation *creation;     /* borrowed: frees itself; NULL: it is done */
		struct workspace_callbacks cb; /* on_done NULL: has been called */
		void *userdata;
		struct vm_row plan; /* owned: of the machine, until it has its own */
		char phase[16];
		int percent;
		struct error failure; /* owned: why it failed; its row is being deleted */
		bool row_stays;       /* its row cannot be deleted; it ends with its last commit */
	} made;
};

/* workspace.c: a commit is done, or was ended with the daemon. */
void workspace_on_saved(struct workspace *ws);

/* workspace-change.c: commits row as it is. done may be NULL. */
int workspace_save(struct workspace *ws, store_done_fn done, void *userdata);
/* Notifies the callers of commits that are not done, at the daemon's end. */
void workspace_end_saves(struct workspace *ws, const struct error *err);
/* NULL: the text is not an object of strings. */
json_object *workspace_parse_labels(const char *text);
int workspace_check_labels(json_object *labels, struct error *err);
/* Fails with name_taken if another workspace of the owner has the name. begin and end: what stands
 * before and after another name in the command that is the fix. */
int workspace_check_name(struct core *core, uid_t owner, const char *name, const char *begin,
	const char *end, struct error *err);

/* workspace-failed.c: remembers why the creation of ws failed, for those who ask for it later. */
void workspace_note_failure(const struct workspace *ws, const struct error *why);
/* Forgets the failure of an earlier workspace that had this name. */
void workspace_forget_failure(struct core *core, uid_t owner, const char *name);
/* Returns why a workspace that uid could see was not made; NULL: not known. */
const struct error *workspace_failure(const struct core *core, const char *ref, uid_t uid);
void workspace_failures_free(struct core *core);
/* Fails if mc is failed: a call that booted it would hide how it failed. */
int workspace_refuse_failed(const struct machine *mc, struct error *err);

/* workspace-wait.c */
enum workspace_wait_kind {
	WORKSPACE_CREATED, /* with its machine started */
	WORKSPACE_STATE,   /* in one of some states */
	WORKSPACE_DELETED,
};
int workspace_add_waiter(struct workspace *ws, enum workspace_wait_kind kind, machine_done_fn done,
	void *userdata, struct workspace_waiter **ret);
/* Notifies those who wait for `kind`; err NULL: it has happened. */
void workspace_notify(struct workspace *ws, enum workspace_wait_kind kind, const struct error *err);
/* on_change of the owner. */
void workspace_on_change(struct machine *mc);
int workspace_waits_new(struct manager *m, sd_event_source **ret);
