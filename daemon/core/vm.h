/* SPDX-License-Identifier: MIT */
#pragma once

/* The machines as people know them: by id, as JSON, and past their time to live. */

#include "daemon/machine/machine.h"
#include <json-c/json.h>

/* By id or unambiguous prefix, as uid may see it (root sees all): vm_not_found otherwise. */
int vm_find(
	struct machines *ms, const char *id, uid_t uid, struct machine **ret, struct error *err);

/* vm.list and vm.status results (fields of contract.md section 4); *ret is owned. The list is uid's machines, or all. */
int vm_list_json(struct machines *ms, uid_t uid, bool all, json_object **ret);
int vm_json(struct machine *mc, json_object **ret);
/* The network a machine has: none in this version. *ret is owned. */
int vm_network_json(struct machine *mc, json_object **ret);

/* Deletes what is past its TTL and not running a command. Result of vm.reap_expired by callback. */
typedef void (*reap_done_fn)(json_object *result, const struct error *err, void *userdata);
int vm_reap_expired(struct manager *m, uid_t uid, reap_done_fn done, void *userdata);
