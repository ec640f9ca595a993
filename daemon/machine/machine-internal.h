/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The inside of a machine, for the files of daemon/machine alone. Files that stand lower here use those above them:
 *
 *   steps proof limit quota              know no state of a machine, or only read it
 *   machine wait boot guest              the object and its parts; who waits for it
 *   reserve pause death                  what becomes of one
 *   engine                               what is wanted, and the way there
 *   stop images survivor events          what a step begins, and the events that it waits for
 *   talk adopt                           its guest's agent
 *   plan                                 the steps
 *   request start recover machines       what the rooms above call
 */

#include "daemon/agent/exec.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/machine/machine.h"
#include "daemon/machine/steps.h"
#include "daemon/store/store.h"
#include "daemon/vmm/vmm.h"

enum machine_wait {
	WAIT_BOOT, /* that it is at rest, then boots: becomes WAIT_STARTED */
	WAIT_STARTED,
	WAIT_STOPPED,
	WAIT_GONE,
};

struct machine_waiter;

/* How much of it is wanted. It falls at any time, and rises only when the machine is at rest. */
enum machine_level {
	LEVEL_GONE,
	LEVEL_STOPPED, /* its disk and its row */
	LEVEL_UP,
};

/* What is needed only until its guest is set up. */
struct boot {
	int image_fd, own_fd;       /* owned */
	struct kernel_files kernel; /* owned */
	unsigned checks;            /* of what it boots from, under way: integrity knows us */
	bool kernel_awaited;        /* its initramfs is being packed: kernels knows us */
	bool failed;                /* what it boots from is to be read on the way down */
	bool process_kept;          /* its VMM is in its row */
};

/* Its guest, seen through the agent. */
struct guest {
	struct link *link;            /* owned */
	sd_event_source *setup_timer; /* owned */
	struct exec_list execs;       /* borrowed: each run's */
	uint32_t channels;            /* given out */
	bool set_up;
	bool boot_known; /* boot_nonce is the guest's */
	uint8_t boot_nonce[16];
	char *bye;       /* owned or NULL: why the guest ended itself */
	bool stop_asked; /* by a caller of this daemon: also where it does not answer */
};

/* Its VMM. */
struct process {
	struct vmm *vmm;            /* owned; NULL: none, or of an earlier daemon and not adopted */
	bool up;                    /* its vCPUs have run */
	bool ended;                 /* its process has */
	int pidfd;                  /* owned: of an earlier daemon, not adopted */
	sd_event_source *pid_event; /* owned: its end */
	struct unit *unit;          /* owned: its unit, which is to end */
	sd_event_source *deadline;  /* owned: the guest's orderly end, then the VMM's */
};

struct pause {
	const char *reason; /* static */
	bool disk_full;
	sd_event_source *timer; /* owned */
	uint64_t wait_usec;
	uint64_t room_usec; /* monotonic: since then there is room all the same; 0: there is none */
};

/* Its vCPUs, stopped for want of space. */
struct hold {
	struct pause *pause; /* owned; NULL: they run */
	uint64_t asked_usec; /* monotonic, by reserve.c: told to stop; 0: not */
	uint64_t again_usec; /* monotonic: told again from then on */
	uint64_t idle_usec;  /* by pause.c: how long they stood for want of room that there was */
	uint64_t blocks;     /* of 512 bytes on its disk, at reserve.c's last look; 0: none yet */
};

struct machine {
	LIST_ENTRY(machine) entry;
	struct machines *machines;         /* borrowed */
	const struct machine_owner *owner; /* static */
	struct vm_row row;                 /* owned; row.state follows state (machine_set_state) */
	enum machine_state state;
	enum machine_level desired;
	enum machine_state resting; /* what it becomes on the way down to LEVEL_STOPPED */
	struct steps steps;
	struct error failure; /* owned: why it goes down */
	struct {
		struct machine_callbacks cb; /* on_started NULL: it has been told */
		void *userdata;
	} starter;
	TAILQ_HEAD(, machine_waiter) waiters; /* owned */
	bool this_life;                       /* made by this daemon, not by an earlier one */
	struct {
		char *state_dir, *run_dir, *disk; /* owned */
	} paths;
	struct {
		enum accelerator wanted, used;
		const char *reason; /* static */
	} accelerator;
	struct {
		char *key;         /* owned or NULL: what this boot is made of (proof.c) */
		unsigned launches; /* by this daemon: from the second on its disk is not fresh */
	} proof;
	struct boot *boot; /* owned: NULL unless it boots, or goes down from a boot */
	struct guest guest;
	struct process process;
	struct hold hold;
	struct disk_op *disk_op; /* owned: the copy of its disk, later each removal */
};
LIST_HEAD(machine_list, machine);

struct kept_proof;

/* What the steps of every machine are, from the ground up. */
struct plan {
	const struct step *steps;
	size_t n;
	size_t n_created; /* the first of them make one that does not run */
};

struct machines {
	struct manager *m; /* borrowed */
	struct machine_list list;
	const struct machine_owner *const *owners; /* static; ends with NULL */
	const struct plan *plan;                   /* static */
	char boot_id[40];
	TAILQ_HEAD(, kept_proof) proofs; /* owned; proof.c's */
	size_t n_proofs;
	sd_event_source *reserve;   /* owned: the next look at the free space */
	struct disk_op **leftovers; /* owned */
	size_t n_leftovers;
};

/* proof.c: what it is made of, once that is open; what it has shown; that it could not be started. */
void machine_make_key(struct machine *mc);
void machine_has_booted(struct machine *mc);
void machine_has_failed(struct machine *mc);
void proofs_free(struct machines *ms);

/* quota.c */
int machine_check_quotas(struct machine *mc, struct error *err);
int machine_check_host(struct machine *mc, struct error *err);
/* How much its user could have asked for, of memory and of disk, in its place. */
uint64_t machine_memory_max(struct machine *mc);
uint64_t machine_disk_max(struct machine *mc);

/* machine.c. A new machine is in the list, and no step of it is taken. */
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
/* Kept with the next commit. NULL: there is none. */
void machine_set_last_error(struct machine *mc, const char *text);
bool machine_is_settled(const struct machine *mc); /* no step is being taken or undone */
bool machine_goes_up(const struct machine *mc);
/* Settled, and it has no VMM. */
bool machine_is_down(const struct machine *mc);
/* `COMMAND verb ID` of its owner's command; NULL when out of memory. */
char *machine_fix(const struct machine *mc, const char *verb);
/* How the same is had once more, for an end that was none of the guest's. */
char *machine_again_fix(const struct machine *mc);

/* wait.c */
/* done comes once; late_usec: and then at the latest, 0: however long it takes. NULL: nobody waits. */
int machine_wait(struct machine *mc, enum machine_wait what, uint64_t late_usec,
	machine_done_fn done, void *userdata);
/* Tells those who wait for `what`; err NULL: it came about. */
void machine_tell(struct machine *mc, enum machine_wait what, const struct error *err);
/* Those who wait for a boot wait for its end from now on. True: there are such. */
bool machine_boot_is_wanted(struct machine *mc);
/* The daemon ends: none is left. */
void machine_end_waits(struct machine *mc);

/* boot.c */
int machine_boot_new(struct machine *mc);
void machine_boot_free(struct machine *mc);
/* Closes what it boots from, and waits for nothing of it any more. */
void machine_forget_images(struct machine *mc);

/* guest.c: the guest's part without a word to its agent. */
void machine_link_close(struct machine *mc);
/* Nobody waits with a command: the guest readies itself for one. */
void machine_expect_command(struct machine *mc);
/* Its commands end with err, and it hears no more of them. */
void machine_fail_execs(struct machine *mc, const struct error *err);
/* True when the WELCOME is of the guest that was set up, and of its only boot. */
bool machine_is_same(struct machine *mc, const struct msg_welcome *w);

/* death.c: `what` and what its console told last, as the cause of its end; the whole of that goes to the log. */
char *machine_death_cause(struct machine *mc, const char *what);
/* What helps against it: a command. Both are owned, NULL when out of memory. */
char *machine_death_fix(struct machine *mc, const char *cause);
/* Nothing ever came from its guest; reset: but its end. Returns as error_set does. */
int machine_not_booted(const struct machine *mc, bool reset, struct error *err);

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

/* engine.c: what is wanted, and the way there. */
int machine_add_engine(struct machine *mc);
/* At rest, or where a step waits for its guest: so much is wanted from now on. A boot that fails leaves it `failed`. */
void machine_want(struct machine *mc, enum machine_level level);
/* The next step from what it is to what is wanted; what is under way ends first. */
void machine_next(struct machine *mc);
/* Less is wanted from now on: it goes down from wherever it is, in a later turn of the loop, unless it goes as far down
 * already. resting: what it is then. */
void machine_fall(struct machine *mc, enum machine_level to, enum machine_state resting,
	const struct error *why);
/* The same to where a machine of its owner's is at rest. */
void machine_come_to_rest(struct machine *mc, enum machine_state resting, const struct error *why);
/* Where that is: nowhere, unless it has been there before. */
enum machine_level machine_rest_level(const struct machine *mc);
/* The event a step waited for; err: it failed. */
void machine_continue(struct machine *mc, const struct error *err);
/* The guest is lost: its commands end with err. */
void machine_fail(struct machine *mc, enum machine_state state, const struct error *err);

/* stop.c: asks the guest to end, and ends it itself after DEADLINE_STOP or where nobody can be asked. */
void machine_shut_down(struct machine *mc);
/* The stream was cut: the guest is asked again. */
int machine_shut_down_again(struct machine *mc);
/* It has ended, or must. */
void machine_shut_down_over(struct machine *mc);

/* images.c: its environment and kernel. */
int machine_pin_images(struct machine *mc, struct error *err);
/* A step and its undo. */
int machine_open_images(struct machine *mc, struct error *err);
int machine_close_images(struct machine *mc);
/* Its deletion does not wait for what its failed boot has read. */
void machine_skip_reading(struct machine *mc);
/* Its VMM has ended: where the guest's console told of a damaged file system, the image is read. */
void machine_heed_console(struct machine *mc);

/* survivor.c: the VMM of an earlier daemon. */
enum machine_vmm {
	VMM_GONE,  /* nothing of it runs */
	VMM_LIVES, /* it surely is ours, and process.pidfd is open on it */
	VMM_HALF, /* its unit runs, but it was not known when the daemon ended: it can only be ended */
	VMM_UNSURE, /* never killed on doubt */
};
enum machine_vmm machine_find_vmm(struct machine *mc);
/* Ends it, if it surely is ours: 0 none, 1 killed (machine_continue comes), -EBUSY on doubt. */
int machine_end_survivor(struct machine *mc);
/* Waits for its end no longer. */
void machine_forget_survivor(struct machine *mc);

/* events.c: what a VMM reports. */
extern const struct vmm_callbacks machine_vmm_events;

/* talk.c: the conversation with its agent. */
int machine_link_open(struct machine *mc, uint64_t first_usec);

/* adopt.c */
/* Takes over a VMM that lives: `started` when its agent has answered, and is set up if it was being started; then it is
 * stopped if it was being stopped. */
int machine_adopt(struct machine *mc, struct error *err);
/* The agent has answered, or has been set up, or it will not answer. */
int machine_adopted(struct machine *mc, const struct msg_welcome *w);
void machine_taken_over(struct machine *mc);
void machine_not_adopted(struct machine *mc, const struct error *err);
/* A machine that may answer is, or is again, being adopted; who waits with WAIT_STARTED is told what came of it. */
int machine_ask_again(struct machine *mc);

/* plan.c */
extern const struct plan machine_plan;

/* recover.c */
int machines_recover(struct machines *ms, struct error *err);
