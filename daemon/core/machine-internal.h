/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The inside of a machine, for the files of core/ alone: machine.c (object, states, look-up), start.c
 * (the steps up and down), recover.c (what an earlier daemon left), reaper.c, run.c.
 */

#include "daemon/core/exec.h"
#include "daemon/core/machine.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/store/store.h"
#include "daemon/vmm/vmm.h"

struct machine_callbacks {
	/* The row is committed and the VMM is about to start. */
	void (*on_launch)(struct machine *mc, void *userdata);
	/* Once: started (err NULL), or undone with nothing left (the machine is freed after this returns). */
	void (*on_started)(struct machine *mc, const struct error *err, void *userdata);
};

struct machine_waiter {
	TAILQ_ENTRY(machine_waiter) entry;
	machine_done_fn done;
	void *userdata;
};

enum engine {
	ENGINE_IDLE,
	ENGINE_UP,
	ENGINE_TURN, /* to go down in the next turn of the loop */
	ENGINE_DOWN,
};

struct machine {
	LIST_ENTRY(machine) entry;
	struct machines *machines; /* borrowed */
	struct vm_row row;         /* owned; row.state follows state */
	enum machine_state state;
	bool this_life;                        /* made by this daemon, not by an earlier one */
	char *state_dir, *run_dir, *disk_path; /* owned */
	char *delete_reason;                   /* owned or NULL */

	enum engine engine;
	size_t step;           /* steps begun: these have to be undone */
	bool waiting;          /* for the step's event */
	sd_event_source *work; /* owned: the engine's turn */
	struct error failure;  /* owned: why the engine goes down */
	struct error stuck;    /* owned: why it cannot go on down */
	struct machine_callbacks cb;
	void *userdata;
	TAILQ_HEAD(, machine_waiter) waiters; /* owned */

	enum accelerator accelerator;
	const char *accelerator_reason; /* static */
	int image_fd, own_fd;           /* owned */
	struct kernel_files kernel;     /* owned */
	struct disk_op *disk_op;        /* owned: the copy */
	struct disk_op *remove_op;      /* owned: one removal after the other */
	unsigned removed;               /* of the two directories */
	struct vmm *vmm;                /* owned */
	bool vmm_up, vmm_gone, row_kept;
	int pidfd;                    /* owned: a VMM of an earlier daemon */
	sd_event_source *pid_event;   /* owned */
	sd_event_source *setup_timer; /* owned */
	struct link *link;            /* owned */
	bool set_up;
	uint8_t boot_nonce[16];
	char *bye;              /* owned or NULL: why the guest ended itself */
	struct exec_list execs; /* borrowed: each run's */
	uint32_t channels;      /* given out */
};
LIST_HEAD(machine_list, machine);

struct run;
LIST_HEAD(run_list, run);

struct machines {
	struct manager *m; /* borrowed */
	struct machine_list list;
	struct run_list runs; /* borrowed: exec.signal finds them here */
	char boot_id[40];
	char *proof_kernel;         /* owned or NULL: under which a command last ran to its end */
	uint64_t proof_usec;        /* CLOCK_REALTIME */
	sd_event_source *reaper;    /* owned */
	struct disk_op **leftovers; /* owned */
	size_t n_leftovers;
};

/* machine.c */
int machine_new(struct machines *ms, const struct vm_row *row, struct machine **ret);
struct machine *machine_free(struct machine *mc);
DEFINE_CLEANUP(struct machine *, machine_free)
/* The one function that changes a state; the row follows with the next commit. */
void machine_set_state(struct machine *mc, enum machine_state state);
bool machine_successor(enum machine_state from, enum machine_state to);
/* Commits the row as it is; a failure is logged. */
void machine_save(struct machine *mc);
bool machine_busy(const struct machine *mc);

/* start.c */
int machine_start(struct machines *ms, const struct machine_spec *spec,
	const struct machine_callbacks *cb, void *userdata, struct machine **ret,
	struct error *err);
/* What a machine of an earlier daemon has to undo: everything. */
size_t machine_steps(void);
int machine_add_engine(struct machine *mc);
/* The engine goes down from wherever it is, in a later turn of the loop. */
void machine_undo(struct machine *mc, const struct error *why);
/* The event a step waited for; err: it failed. */
void machine_continue(struct machine *mc, const struct error *err);

/* agent.c: the machine's side of its link. */
int machine_link_open(struct machine *mc);
/* Sends the command; the machine hands its frames to it until exec_list_remove. */
int machine_exec(struct machine *mc, struct exec *x);
/* The guest is lost: its commands end with err. */
void machine_fail(struct machine *mc, enum machine_state state, const struct error *err);

/* recover.c */
int machines_recover(struct machines *ms, struct error *err);
/* Ends the VMM an earlier daemon left, if it surely is ours: 0 none, 1 killed (machine_continue comes),
 * -EBUSY on doubt. */
int machine_recover_kill(struct machine *mc);

/* reaper.c */
int reaper_new(struct machines *ms);
/* Something that decides the next expiry has changed. */
void reaper_update(struct machines *ms);

/* run.c: frees the runs nobody waits for; the daemon is ending. */
void runs_end(struct machines *ms);
