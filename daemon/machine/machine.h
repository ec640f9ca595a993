/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The machine: one microVM from row to removal. One enum of states, one table of successors, one
 * function that changes them. Intent is committed before anything is started. The rooms above read a
 * machine through these calls; its members are written in daemon/machine alone.
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
/* The word clients see (contract.md section 4): starting -> preparing, stopping/deleting -> stopped. */
const char *machine_state_public(enum machine_state s);
bool machine_successor(enum machine_state from, enum machine_state to);

struct exec;
struct exec_row;
struct link;
struct machine;
struct vm_row;

/* What a machine leaves when it has ended, in order or not. */
enum machine_remains {
	REMAINS_NOTHING, /* it goes with what it was made for; the next daemon removes what is left */
	REMAINS_DISK,    /* disk and row: it can be booted again */
};

/* Whose machine it is: one static object per noun. The mechanism asks it, and never which noun it is. */
struct machine_owner {
	const char *noun;      /* for the log */
	const char *command;   /* of the CLI: `COMMAND delete ID` deletes such a machine */
	const char *id_prefix; /* of its machines, their directories and units */
	const char *id_name;   /* stands for an id in a fix */
	const char *log_field; /* of the journal, which takes the id */
	const char *again;     /* how the same is had once more; NULL: by `COMMAND start ID` */
	enum machine_remains remains;
	/* It has come to rest in another state, or nothing is left of it and it is freed next (deleted). */
	void (*on_state)(struct machine *mc, bool deleted);
	/* Its vCPUs were stopped, or run again (machine_pause_cause). */
	void (*on_pause)(struct machine *mc);
	/* A command that an earlier daemon started in it, without a caller. May be NULL: such are not kept. */
	int (*adopt_exec)(struct machine *mc, const struct exec_row *row);
};

struct machine_spec {
	const struct machine_owner *owner;
	const char *environment;
	unsigned vcpu_count;
	uint64_t mem_mib, disk_mib;
	int64_t ttl_seconds;
	enum accelerator accelerator;
	uid_t owner_uid;
};

/*
 * Loads the machines of an earlier daemon. owners ends with NULL; the first is the noun under whose command all machines are
 * listed. m->machines is *ret from before the first callback on.
 */
int machines_new(struct manager *m, const struct machine_owner *const *owners,
	struct machines **ret, struct error *err);
struct machines *machines_free(struct machines *ms);
/* NULL: the first; NULL is returned after the last. */
struct machine *machines_next(struct machines *ms, const struct machine *mc);
size_t machines_count(struct machines *ms, uid_t uid);        /* uid's; 0: all */
bool machines_use_digest(const char *digest, void *machines); /* digest_in_use_fn */

/* What is known of it. Strings and the row are borrowed, and change with the machine. */
struct manager *machine_manager(const struct machine *mc);
const struct vm_row *machine_row(const struct machine *mc);
const char *machine_id(const struct machine *mc);
const struct machine_owner *machine_owner(const struct machine *mc);
enum machine_state machine_state(const struct machine *mc);
bool machine_is_new(const struct machine *mc); /* made by this daemon, not by an earlier one */
/* Something is being done with it, or it runs a command. */
bool machine_busy(const struct machine *mc);
/* Its way down has been decided: nothing that its guest says, or is late with, counts any more. */
bool machine_goes_down(const struct machine *mc);
/* Its VMM runs and its agent has not answered (yet). */
bool machine_may_answer(const struct machine *mc);
/* Why the vCPUs are stopped and will go on later; NULL where they run, or will never run again. */
const char *machine_pause_reason(const struct machine *mc);
/* Why they are stopped, whatever comes of it: NULL where they run. */
const char *machine_pause_cause(const struct machine *mc);
/* For the one who waits: why the machine stands still and what lets it go on, or that it goes on. Owned by the caller. */
char *machine_pause_detail(const struct machine *mc);
const char *machine_execution_mode(const struct machine *mc);     /* NULL: nothing of it runs */
const char *machine_accelerator_reason(const struct machine *mc); /* why not KVM, or NULL */

struct machine_callbacks {
	/* The row is committed and the VMM is about to start. May be NULL. */
	void (*on_launch)(struct machine *mc, void *userdata);
	/* Required. Once: started (err NULL), or undone with nothing left (the machine is freed after this returns). */
	void (*on_started)(struct machine *mc, const struct error *err, void *userdata);
};

/* Creates a machine, and boots it too if whole. */
int machine_start(struct machines *ms, const struct machine_spec *spec, bool whole,
	const struct machine_callbacks *cb, void *userdata, struct machine **ret,
	struct error *err);

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
/* Drops what userdata waits for; its done does not come. */
void machine_unwait(struct machine *mc, const void *userdata);
/* A call uses it now; kept with the next commit. */
void machine_used(struct machine *mc);

/* A channel no command of this machine has had. */
uint32_t machine_channel(struct machine *mc);
/* Sends the command; the machine hands its frames to it until exec_list_remove. */
int machine_exec(struct machine *mc, struct exec *x, uint32_t channel);
/* The same of a command that runs in its guest already. */
void machine_hold_exec(struct machine *mc, struct exec *x, uint32_t channel);
struct link *machine_link(struct machine *mc); /* NULL: its guest cannot be reached */
/* A command of it has run to its end: a proof (proof.h). */
void machine_has_executed(struct machine *mc);

/* Refuses more vCPUs or memory than this host has; the fix is what uid could have now. */
int machines_check_size(
	struct machines *ms, uid_t uid, int64_t vcpus, int64_t mem_mib, struct error *err);
/* What all machines of one user together may have, as pyrod.conf and this host have it. */
struct user_limits {
	int64_t vcpus, mem_mib, disk_mib;
	int64_t total_mem_mib; /* of all users together, whose other totals pyrod.conf says */
};
void machines_user_limits(const struct manager *m, struct user_limits *ret);
/*
 * Whether uid could start one more machine now: by the limits of users, by the host's memory, by the space on its disks. The
 * machine has the default size, or with least the smallest size that is allowed. The error is the one that the start would give.
 */
int machines_check_limits(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_memory(struct machines *ms, uid_t uid, bool least, struct error *err);
int machines_check_space(struct manager *m, struct error *err);
