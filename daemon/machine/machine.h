/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The machine: one microVM from row to removal. One enum of states, one table of successors, one
 * function that changes them. Intent is committed before anything is started.
 */

#include "daemon/config.h"
#include "daemon/manager.h"
#include <json-c/json.h>
#include <sys/queue.h>

#define MACHINE_STATES(X) \
	X(PREPARING, "preparing") \
	X(CREATED, "created") \
	X(STARTING, "starting") \
	X(STARTED, "started") \
	X(SUSPENDED, "suspended") \
	X(STOPPING, "stopping") \
	X(STOPPED, "stopped") \
	X(FAILED, "failed") \
	X(UNKNOWN, "unknown") \
	X(DELETING, "deleting")

enum machine_state {
#define X(sym, name) MACHINE_##sym,
	MACHINE_STATES(X)
#undef X
		MACHINE_STATE_MAX
};
const char *machine_state_name(enum machine_state s);
/* The word clients see (contract.md section 4): starting -> preparing, stopping/deleting -> stopped. */
const char *machine_state_public(enum machine_state s);

struct machine;

struct machine_spec {
	const char *environment;
	unsigned vcpu_count;
	uint64_t mem_mib, disk_mib;
	int64_t ttl_seconds;
	enum accelerator accelerator;
	uid_t owner_uid;
	bool one_shot;
};

int machines_new(struct manager *m, struct machines **ret, struct error *err);
struct machines *machines_free(struct machines *ms);

/* Refuses more vCPUs or memory than this host has; the fix is what uid could have now. */
int machines_check_size(
	struct machines *ms, uid_t uid, int64_t vcpus, int64_t mem_mib, struct error *err);

/* By id or unambiguous prefix, as uid may see it (root sees all): vm_not_found otherwise. */
int machines_find(
	struct machines *ms, const char *id, uid_t uid, struct machine **ret, struct error *err);

/* vm.list and vm.status results (fields of contract.md section 4); *ret is owned. The list is uid's machines, or all. */
int machines_list_json(struct machines *ms, uid_t uid, bool all, json_object **ret);
int machine_json(struct machine *mc, json_object **ret);
const char *machine_id(const struct machine *mc); /* whole, when the caller gave a prefix */
bool machines_use_digest(const char *digest, void *machines); /* digest_in_use_fn */
size_t machines_count(struct machines *ms, uid_t uid);        /* those uid may see: root all */

/*
 * Ends the machine whatever state it is in and removes its disk and row. done (may be NULL) comes once,
 * later, r 0 when nothing of it is left. Callers may join a deletion under way.
 */
typedef void (*machine_done_fn)(const struct error *err, void *userdata);
int machine_delete(struct machine *mc, const char *reason, machine_done_fn done, void *userdata);

/*
 * Boots a machine that is created, stopped or failed. done comes once: started, or failed with the machine
 * kept. Returns 1, and done does not come, when it has been started; wrong_state when it can be neither.
 */
int machine_boot(struct machine *mc, machine_done_fn done, void *userdata, struct error *err);
/*
 * Ends the guest in order, within DEADLINE_STOP, else without; its disk stays. done comes when it is stopped.
 * Returns 1, and done does not come, when it does not run. reason: one of vm.stop's.
 */
int machine_stop(struct machine *mc, const char *reason, machine_done_fn done, void *userdata,
	struct error *err);

/* What all machines of one user together may have, as pyrod.conf and this host have it. */
struct user_limits {
	int64_t vcpus, mem_mib, disk_mib;
};
void machines_user_limits(const struct manager *m, struct user_limits *ret);
/*
 * Whether uid could start one more machine now: by the limits of users, by the host's memory, by the space on its disks. The
 * machine has the default size, or with least the smallest size that is allowed. The error is the one that the start would give.
 */
int machines_check_limits(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_memory(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_space(struct manager *m, struct error *err);

/* The network a machine has: none in this version. *ret is owned. */
int machine_network_json(struct machine *mc, json_object **ret);

/* Deletes what is past its TTL and not running a command. Result of vm.reap_expired by callback. */
typedef void (*reap_done_fn)(json_object *result, const struct error *err, void *userdata);
int machines_reap_expired(struct machines *ms, uid_t uid, reap_done_fn done, void *userdata);
