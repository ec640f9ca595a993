/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The inside of a machine, for the files of daemon/machine alone: machine.c (object, states), start.c
 * (the steps up and down), recover.c (what an earlier daemon left).
 */

#include "daemon/agent/exec.h"
#include "daemon/machine/machine.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/store/store.h"
#include "daemon/vmm/vmm.h"

enum machine_wait {
	WAIT_BOOT, /* that it stands, then boots: becomes WAIT_STARTED */
	WAIT_STARTED,
	WAIT_STOPPED,
	WAIT_GONE,
};

struct machine_waiter {
	TAILQ_ENTRY(machine_waiter) entry;
	struct machine *machine; /* borrowed: whose list this is in */
	enum machine_wait what;
	sd_event_source *late; /* owned or NULL: it waits no longer */
	machine_done_fn done;
	void *userdata;
};

enum engine {
	ENGINE_IDLE,
	ENGINE_UP,
	ENGINE_TURN, /* to go down in the next turn of the loop */
	ENGINE_DOWN,
};

struct kept_proof;
struct pause;
struct unit;

struct machine {
	LIST_ENTRY(machine) entry;
	struct machines *machines;         /* borrowed */
	const struct machine_owner *owner; /* static */
	struct vm_row row;                 /* owned; row.state follows state */
	enum machine_state state;
	bool this_life;   /* made by this daemon, not by an earlier one */
	bool stop_wanted; /* once its agent has answered */
	bool stop_asked;  /* by somebody who waits, even if it does not answer */
	bool adopting;    /* its VMM lives; its agent has not answered yet */
	char *state_dir, *run_dir, *disk_path; /* owned */
	uint64_t pause_asked_usec;             /* monotonic, by reserve.c; 0: not */
	uint64_t pause_again_usec;             /* monotonic: asked again from then on */
	uint64_t
		idle_usec; /* by pause.c: how long it stood still for want of room that there was */
	uint64_t disk_blocks; /* of 512 bytes, at reserve.c's last look; 0: not looked at */

	enum engine engine;
	size_t step;   /* steps begun: these have to be undone */
	size_t target; /* steps to go up to */
	size_t floor;  /* steps a failure on the way up, or the way down, leaves standing */
	enum machine_state landing; /* what it is at the floor, when that is not the ground */
	bool at_floor;              /* its row is being committed there */
	bool telling;               /* its row is being committed: that it is being deleted */
	bool waiting;               /* for the step's event */
	sd_event_source *work;      /* owned: the engine's turn */
	struct error failure;       /* owned: why the engine goes down */
	struct error stuck;         /* owned: why it cannot go on down */
	struct machine_callbacks cb;
	void *userdata;
	TAILQ_HEAD(, machine_waiter) waiters; /* owned */

	enum accelerator wanted, accelerator;
	const char *accelerator_reason; /* static */
	int image_fd, own_fd;           /* owned */
	struct kernel_files kernel;     /* owned */
	bool kernel_awaited;            /* its initramfs is being packed: kernels knows us */
	unsigned checks;                /* of what it boots from, under way: integrity knows us */
	unsigned launches;         /* by this daemon: from the second on its disk is not fresh */
	bool boot_failed;          /* ... and they are to be made on the way down */
	char *proof_key;           /* owned or NULL: what this boot is made of (proof.c) */
	struct disk_op *disk_op;   /* owned: the copy */
	struct disk_op *remove_op; /* owned: one removal after the other */
	struct vmm *vmm;           /* owned */
	bool vmm_up, vmm_gone, row_kept;
	int pidfd;                    /* owned: a VMM of an earlier daemon */
	sd_event_source *pid_event;   /* owned */
	struct unit *unit;            /* owned: of a VMM of an earlier daemon that is to end */
	sd_event_source *setup_timer; /* owned */
	sd_event_source *deadline;    /* owned: the guest's orderly end, then the VMM's */
	struct pause *pause;          /* owned: its vCPUs stand still */
	struct link *link;            /* owned */
	bool set_up;
	bool boot_known; /* boot_nonce is the guest's */
	uint8_t boot_nonce[16];
	char *bye;              /* owned or NULL: why the guest ended itself */
	struct exec_list execs; /* borrowed: each run's */
	uint32_t channels;      /* given out */
};
LIST_HEAD(machine_list, machine);

struct machines {
	struct manager *m; /* borrowed */
	struct machine_list list;
	const struct machine_owner *const *owners; /* static; ends with NULL */
	char boot_id[40];
	TAILQ_HEAD(, kept_proof) proofs; /* owned; proof.c's */
	size_t n_proofs;
	sd_event_source *reserve;   /* owned: the next look at the free space */
	struct disk_op **leftovers; /* owned */
	size_t n_leftovers;
};

/* machine.c */
int machine_new(struct machines *ms, const struct machine_owner *owner, const struct vm_row *row,
	struct machine **ret);
struct machine *machine_free(struct machine *mc);
DEFINE_CLEANUP(struct machine *, machine_free)
/* The one function that changes a state; the row follows with the next commit. */
void machine_set_state(struct machine *mc, enum machine_state state);
/* Commits the row as it is; a failure is logged. */
void machine_save(struct machine *mc);
/* Kept with the next commit; told while it is stopped. */
void machine_set_stop_reason(struct machine *mc, const char *reason);

int machine_wait(struct machine *mc, enum machine_wait what, machine_done_fn done, void *userdata);
/* Tells those who wait for `what`; err NULL: it came about. */
void machine_tell(struct machine *mc, enum machine_wait what, const struct error *err);

/* start.c's table of what a machine is made of, from the ground up. */
enum {
	STEP_WAIT = 1, /* machine_continue comes */
};
struct step {
	const char *name;
	int (*run)(struct machine *mc, struct error *err);
	int (*undo)(struct machine *mc); /* NULL: nothing to undo */
	/* May be NULL. The event the undo waited for has come: is there more of the same step to undo? */
	bool (*undo_again)(const struct machine *mc);
};
const struct step *machine_step(size_t i);
extern const struct vmm_callbacks machine_vmm_events;

/* What a machine of an earlier daemon has to undo: everything, or what one that does not run has. */
size_t machine_steps(void);
size_t machine_steps_created(void);

/* images.c: its environment and kernel. */
int machine_pin_images(struct machine *mc, struct error *err);
/* A step and its undo. */
int machine_open_images(struct machine *mc, struct error *err);
int machine_close_images(struct machine *mc);
/* Closes them, and waits for nothing of theirs any more. */
void machine_forget_images(struct machine *mc);
/* Its deletion does not wait for what its failed boot has read. */
void machine_skip_reading(struct machine *mc);
/* Its VMM has ended: where the guest's console told of a damaged file system, the image is read. */
void machine_heed_console(struct machine *mc);

/* proof.c: what it is made of, once that is open; what it has shown; that it could not be started. */
void machine_make_key(struct machine *mc);
void machine_has_booted(struct machine *mc);
void machine_has_failed(struct machine *mc);
void proofs_free(struct machines *ms);

/* engine.c */
int machine_add_engine(struct machine *mc);
/* Boots a machine that does not run; a failure leaves it `failed`. */
void machine_go_up(struct machine *mc);
/* The engine goes down from wherever it is, in a later turn of the loop. */
void machine_undo(struct machine *mc, const struct error *why);
/* It goes down as far as a machine that does not run, and is then `landing`. */
void machine_land(struct machine *mc, enum machine_state landing, const struct error *why);
/* The event a step waited for; err: it failed. */
void machine_continue(struct machine *mc, const struct error *err);

/* agent.c: the machine's side of its link. */
int machine_link_open(struct machine *mc, uint64_t first_usec);
void machine_link_close(struct machine *mc);
/* Nobody waits with a command: the guest readies itself for one. */
void machine_expect_command(struct machine *mc);
/* Its commands end with err, and it hears no more of them. */
void machine_fail_execs(struct machine *mc, const struct error *err);
/* True when the WELCOME is of the guest that was set up, and of its only boot. */
bool machine_is_same(struct machine *mc, const struct msg_welcome *w);
/* The guest is lost: its commands end with err. */
void machine_fail(struct machine *mc, enum machine_state state, const struct error *err);

/* death.c: `what` and what its console told last, as the cause of its end; the whole of that goes to the log. */
char *machine_death_cause(struct machine *mc, const char *what);
/* What helps against it: a command. Both are owned, NULL when out of memory. */
char *machine_death_fix(struct machine *mc, const char *cause);
/* `COMMAND verb ID` of its owner's command; NULL when out of memory. */
char *machine_fix(const struct machine *mc, const char *verb);
/* How the same is had once more, for an end that was none of the guest's. */
char *machine_again_fix(const struct machine *mc);
/* Nothing ever came from its guest; reset: but its end. Returns as error_set does. */
int machine_not_booted(const struct machine *mc, bool reset, struct error *err);

/* quota.c */
int machine_check_quotas(struct machine *mc, struct error *err);
int machine_check_host(struct machine *mc, struct error *err);
/* How much its owner could have asked for, of memory and of disk, in its place. */
uint64_t machine_memory_max(struct machine *mc);
uint64_t machine_disk_max(struct machine *mc);

/* stop.c: asks the guest to end, and ends it itself after DEADLINE_STOP or where nobody can be asked. */
void machine_shut_down(struct machine *mc);
/* The stream was cut: the guest is asked again. */
int machine_shut_down_again(struct machine *mc);
/* It has ended, or must. */
void machine_shut_down_over(struct machine *mc);

/* reserve.c: disk_reserve_mib is kept free from now on, until no VMM runs. */
int reserve_new(struct machines *ms);
void reserve_watch(struct machines *ms);
/* Of the file system that the machines' disks are on. */
int machines_free_bytes(const struct machines *ms, uint64_t *ret);
/* Whether a machine paused for want of space may go on. */
bool machines_have_room(const struct machines *ms);

/* pause.c: the VMM has stopped the vCPUs. They go on when there is room again. */
void machine_paused(struct machine *mc, const char *reason);
void machine_unpaused(struct machine *mc);

/* adopt.c: the VMM of an earlier daemon. */
enum machine_vmm {
	VMM_GONE,  /* nothing of it runs */
	VMM_LIVES, /* it surely is ours, and mc->pidfd is open on it */
	VMM_HALF, /* its unit runs, but it was not known when the daemon ended: it can only be ended */
	VMM_UNSURE, /* never killed on doubt */
};
enum machine_vmm machine_find_vmm(struct machine *mc);
/* Takes it over: `started` when its agent has answered, and is set up if it was being started; then it is
 * stopped if it was being stopped. */
int machine_adopt(struct machine *mc, enum machine_state was, struct error *err);
/* The agent has answered, or has been set up, or it will not answer. */
int machine_adopted(struct machine *mc, const struct msg_welcome *w);
void machine_taken_over(struct machine *mc);
void machine_not_adopted(struct machine *mc, const struct error *err);
/* Such a machine is, or is again, being adopted; who waits with WAIT_STARTED is told what came of it. */
int machine_ask_again(struct machine *mc);

/* recover.c */
int machines_recover(struct machines *ms, struct error *err);
/* Ends the VMM an earlier daemon left, if it surely is ours: 0 none, 1 killed (machine_continue comes),
 * -EBUSY on doubt. */
int machine_recover_kill(struct machine *mc);
