/* SPDX-License-Identifier: MIT */
#pragma once

/* The machines as users see them: by id, as JSON, and past their time to live. */

#include "daemon/machine/machine.h"
#include <json-c/json.h>

/* Finds a machine that uid may see (root: all) by id or unambiguous prefix; else vm_not_found. */
int vm_find(
	struct machines *ms, const char *id, uid_t uid, struct machine **ret, struct error *err);

/* vm.list and vm.status results (fields of contract.md section 4), of uid's machines or all.
 * *ret is owned. */
int vm_list_json(struct machines *ms, uid_t uid, bool all, json_object **ret);
int vm_json(struct machine *mc, json_object **ret);
/* Adds the fields that workspaces have too, all but the id. mc NULL: it is not made yet, and row is
 * a plan. */
int vm_add_fields(const struct vm_row *row, const struct machine *mc, json_object *o);
/* The network a machine has: none in this version. *ret is owned. */
int vm_network_json(struct machine *mc, json_object **ret);

/* Deletes machines past their TTL that run no command. done gets the result of vm.reap_expired. */
typedef void (*reap_done_fn)(json_object *result, const struct error *err, void *userdata);
int vm_reap_expired(struct manager *m, uid_t uid, reap_done_fn done, void *userdata);
