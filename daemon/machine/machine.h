/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The machine: one microVM from row to removal. It has one enum of states, one table of successors
 * and one function that changes the state. Intent is committed before anything is started. The
 * layers above read a machine through these calls; only daemon/machine writes its members.
 */

#include "daemon/config.h"
#include "daemon/manager.h"
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
	X(ADOPTING, "adopting") \
	X(UNKNOWN, "unknown") \
	X(DELETING, "deleting")

enum machine_state {
#define X(sym, name) MACHINE_##sym,
	MACHINE_STATES(X)
#undef X
		MACHINE_STATE_MAX
};
const char *machine_state_name(enum machine_state s);
/* The word for clients (contract.md section 4): starting -> preparing, stopping/deleting ->
 * stopped. */
const char *machine_state_public(enum machine_state s);
bool machine_successor(enum machine_state from, enum machine_state to);

struct exec;
struct exec_row;
struct file;
struct link;
struct machine;
struct vm_row;

/* What remains of a machine after its end, orderly or not. */
enum machine_remains {
	REMAINS_NOTHING, /* deleted with its command; the next daemon removes what is left */
	REMAINS_DISK,    /* disk and row: it can be booted again */
};

/* The owner of a machine: one static object per noun. daemon/machine calls it and never tests
 * which noun it is. */
struct machine_owner {
	const char *noun;      /* in the row: names the owner to the next daemon */
	const char *command;   /* of the CLI: `COMMAND delete ID` deletes such a machine */
	const char *id_prefix; /* of the names of machines, their directories and units */
	const char *id_name;   /* placeholder for an id in a fix */
	const char *log_field; /* journal field that holds the id */
	const char *again;     /* fix that gets the same again; NULL: `COMMAND start ID` */
	enum machine_remains remains;
	bool expires; /* it may be deleted ttl_seconds after its creation */
	/* Its state has changed (may be NULL). Called from within the change: change nothing. */
	void (*on_change)(struct machine *mc);
	/* The machine has settled in another state. deleted: nothing is left, it is freed next. */
	void (*on_state)(struct machine *mc, bool deleted);
	/* Its vCPUs were stopped or resumed (machine_pause_cause). */
	void (*on_pause)(struct machine *mc);
	/* Takes over a command of a previous daemon, without a caller; it runs only if mc is
	 * `adopting`. Returns 1 if its row is to be forgotten. NULL: all are. */
	int (*adopt_exec)(struct machine *mc, const struct exec_row *row);
};

struct machine_spec {
	const struct machine_owner *owner;
	const char *id; /* NULL: a new one */
	const char *environment;
	unsigned vcpu_count;
	uint64_t mem_mib, disk_mib;
	int64_t ttl_seconds;
	enum accelerator accelerator;
	uid_t owner_uid;
	bool whole; /* boots it too */
};

/*
 * Loads the machines of a previous daemon. owners ends with NULL. *ret is set before the first
 * callback, which reads m->machines.
 */
int machines_new(struct manager *m, const struct machine_owner *const *owners,
	struct machines **ret, struct error *err);
struct machines *machines_free(struct machines *ms);
/* mc NULL: returns the first machine. Returns NULL after the last. */
struct machine *machines_next(struct machines *ms, const struct machine *mc);
size_t machines_count(struct machines *ms, uid_t uid);        /* of uid; 0: all */
bool machines_use_digest(const char *digest, void *machines); /* digest_in_use_fn */

/* Attributes of a machine. Strings and the row are borrowed, and change with the machine. */
struct manager *machine_manager(const struct machine *mc);
const struct vm_row *machine_row(const struct machine *mc);
const char *machine_id(const struct machine *mc);
const struct machine_owner *machine_owner(const struct machine *mc);
enum machine_state machine_state(const struct machine *mc);
bool machine_is_new(const struct machine *mc); /* made by this daemon, not a previous one */
/* No step of the machine is being taken or undone: what its state says is committed. */
bool machine_is_settled(const struct machine *mc);
/* The machine is being made or booted. */
bool machine_goes_up(const struct machine *mc);
/* The machine is not settled, is stopping, or runs a command. */
bool machine_busy(const struct machine *mc);
/* The machine is going down: its guest's messages and deadlines do not count any more. */
bool machine_goes_down(const struct machine *mc);
/* The machine is not adopted: its VMM runs, but its agent has not answered. */
bool machine_is_unadopted(const struct machine *mc);
/* Why the vCPUs are stopped, if they will resume; NULL if they run or will never resume. */
const char *machine_pause_reason(const struct machine *mc);
/* Why the vCPUs are stopped, whether or not they will resume; NULL if they run. */
const char *machine_pause_cause(const struct machine *mc);
/* A sentence for a waiting caller: why the machine is paused and what resumes it, or that it has
 * resumed. The caller frees it. */
char *machine_pause_detail(const struct machine *mc);
const char *machine_execution_mode(const struct machine *mc);     /* NULL: it has no VMM */
const char *machine_accelerator_reason(const struct machine *mc); /* why not KVM, or NULL */
/* How many bytes of the host's disk its own disk takes; -ENOENT before it has one. */
int machine_disk_bytes(const struct machine *mc, uint64_t *ret);

struct machine_callbacks {
	/* The row is committed and the VMM is about to start. May be NULL. */
	void (*on_launch)(struct machine *mc, void *userdata);
	/* Required. Called once. err NULL: started; else nothing is left, and it is freed next. */
	void (*on_started)(struct machine *mc, const struct error *err, void *userdata);
};

int machine_start(struct machines *ms, const struct machine_spec *spec,
	const struct machine_callbacks *cb, void *userdata, struct machine **ret,
	struct error *err);

/*
 * Ends the machine in any state and removes its disk and row. done (may be NULL) is called once,
 * later; err is NULL when nothing is left. Several callers may wait for one deletion.
 */
typedef void (*machine_done_fn)(const struct error *err, void *userdata);
int machine_delete(struct machine *mc, const char *reason, machine_done_fn done, void *userdata);

/*
 * Boots a machine that is created, stopped or failed. done is called once: started, or failed with
 * the machine kept. Returns 1, without a call of done, if it is started already. Fails with
 * wrong_state if it cannot be booted.
 */
int machine_boot(struct machine *mc, machine_done_fn done, void *userdata, struct error *err);
/*
 * Stops the guest in order within DEADLINE_STOP, else kills it; its disk stays. done is called when
 * it is stopped. Returns 1, without a call of done, if it does not run. reason: a stop_reason.
 */
int machine_stop(struct machine *mc, const char *reason, machine_done_fn done, void *userdata,
	struct error *err);
/* Ends the guest of a machine that is stopping at once, without the rest of DEADLINE_STOP. */
void machine_stop_now(struct machine *mc);
/* Removes the waiters with this userdata; their done is not called. */
void machine_unwait(struct machine *mc, const void *userdata);
/* Records that a call uses the machine now; saved with the next commit. */
void machine_used(struct machine *mc);

/* Returns a channel that no command of this machine has had. */
uint32_t machine_channel(struct machine *mc);
/* Starts the command. The machine passes frames to it until exec_list_remove. */
int machine_exec(struct machine *mc, struct exec *x, uint32_t channel);
/* Does the same for a command that already runs in the guest. */
void machine_hold_exec(struct machine *mc, struct exec *x, uint32_t channel);
/* Starts an operation on the guest's files, of which a machine has at most LIMIT_FILES at once. */
int machine_file(struct machine *mc, struct file *f, struct error *err);
struct link *machine_link(struct machine *mc); /* NULL: its guest cannot be reached */
/* Records that a command has run to its end: a proof (proof.h). */
void machine_has_executed(struct machine *mc);

/* Refuses more vCPUs or memory than this host has; the fix names what uid could have now. */
int machines_check_size(
	struct machines *ms, uid_t uid, int64_t vcpus, int64_t mem_mib, struct error *err);
/* Limits of all machines of one user together, from pyrod.conf and this host. */
struct user_limits {
	int64_t vcpus, mem_mib, disk_mib;
	int64_t total_mem_mib; /* of all users; pyrod.conf has their other totals */
};
void machines_user_limits(const struct manager *m, struct user_limits *ret);
/*
 * Check whether uid could start one more machine now: limits of users, the host's memory, space on
 * its disks. The machine has the default size, or if least the smallest one allowed. err is what
 * the start would return.
 */
int machines_check_limits(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_memory(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_space(struct manager *m, struct error *err);
