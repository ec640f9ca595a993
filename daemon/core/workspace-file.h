/* SPDX-License-Identifier: MIT */
#pragma once

/* Operations on the files of a workspace: by path in its guest, with results of contract.md
 * section 4. */

#include "daemon/core/workspace.h"
#include "proto/agent.h"

/* Called once. result is taken over; err NULL: done. */
typedef void (*workspace_file_done_fn)(
	json_object *result, const struct error *err, void *userdata);

/*
 * Starts the workspace if it does not run, then does the operation. It goes on without waiters, too.
 * Takes over the contents of m. done is called from the loop later, unless this fails.
 */
int workspace_file(struct workspace *ws, struct msg_file *m, workspace_file_done_fn done,
	void *userdata, struct error *err);
