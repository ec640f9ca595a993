/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The internals of a machine, for the files of daemon/machine only. A file may use those of the
 * lines above its own:
 *
 *   steps proof limit quota              know no state of a machine, or only read it
 *   machine wait boot guest              the object, its parts and its waiters
 *   reserve pause death                  what can happen to a machine
 *   engine                               the desired level and the steps to it
 *   stop images survivor events          what a step starts, and the events that it waits for
 *   talk adopt                           the guest's agent
 *   plan                                 the steps
 *   request start recover machines       the calls of the layers above
 */

#include "daemon/agent/exec.h"
#include "daemon/agent/file.h"
#include "daemon/image/disk.h"
#include "daemon/image/environment.h"
#include "daemon/image/kernel.h"
#include "daemon/machine/machine.h"
#include "daemon/machine/steps.h"
#include "daemon/store/store.h"
#include "daemon/vmm/vmm.h"

enum machine_wait {
	WAIT_BOOT, /* for a resting state, then a boot: becomes WAIT_STARTED */
	WAIT_STARTED,
	WAIT_STOPPED,
	WAIT_DELETED,
};

struct machine_waiter;

/* The desired level. It falls at any time, and rises only in a resting state. */
enum machine_level {
	LEVEL_DELETED,
	LEVEL_STOPPED, /* disk and row exist */
	LEVEL_UP,
};

/* State needed only until the guest is set up. */
struct boot {
	int image_fd, own_fd;       /* owned */
	struct kernel_files kernel; /* owned */
	unsigned checks;            /* pending integrity checks; integrity_forget cancels them */
	bool kernel_awaited;        /* initramfs is being packed; kernels_forget cancels it */
	bool failed;                /* check image and kernel on the way down */
	bool process_kept;          /* the row with the VMM's pid is committed */
};

/* No command that a guest holds has this channel or a higher one. */
#define CHANNEL_HELD_MAX (UINT32_MAX / 2)

/* The guest as seen through its agent. */
struct guest {
	struct link *link;            /* owned */
	sd_event_source *setup_timer; /* owned */
	struct exec_list execs;       /* borrowed: owned by their runs */
	struct file_list files;       /* borrowed: owned by their calls */
	uint32_t channels;            /* highest one given out */
	bool set_up;
	bool boot_known; /* boot_nonce is valid */
	uint8_t boot_nonce[16];
	char *bye;       /* owned or NULL: why the guest ended itself */
	bool stop_asked; /* by a client of this daemon: stop it even if it does not answer */
};

/* The VMM. */
struct process {
	struct vmm *vmm;            /* owned; NULL: none, or a previous daemon's, not adopted */
	bool up;                    /* its vCPUs have run */
	bool ended;                 /* its process has exited */
	int pidfd;                  /* owned: of a previous daemon's VMM, not adopted */
	sd_event_source *pid_event; /* owned: watches pidfd */
	struct unit *unit;          /* owned: the unit that is being stopped */
	sd_event_source *deadline;  /* owned: for the guest's orderly end, then the VMM's */
};

struct pause {
	const char *reason; /* static */
	bool disk_full;
	sd_event_source *timer; /* owned */
	uint64_t wait_usec;
	uint64_t room_usec; /* monotonic: the last look, if it found room; else 0 */
};

/* Pauses of the vCPUs. */
struct hold {
	struct pause *pause; /* owned; NULL: they run */
	uint64_t asked_usec; /* monotonic, by reserve.c: first request to pause; 0: none */
	uint64_t again_usec; /* monotonic: earliest next request */
	uint64_t idle_usec;  /* by pause.c: time paused for a full disk that had room */
	uint64_t blocks;     /* 512-byte blocks of its disk at reserve.c's last look; 0: none yet */
};

struct machine {
	LIST_ENTRY(machine) entry;
	struct machines *machines;         /* borrowed */
	const struct machine_owner *owner; /* static */
	struct vm_row row;                 /* owned; row.state follows state (machine_set_state) */
	enum machine_state state;
	enum machine_level desired;
	enum machine_state resting; /* its state after going down to LEVEL_STOPPED */
	struct steps steps;
	struct error failure; /* owned: why it goes down */
	struct {
		struct machine_callbacks cb; /* on_started NULL: has been called */
		void *userdata;
	} starter;
	TAILQ_HEAD(, machine_waiter) waiters; /* owned */
	bool is_new;                          /* made by this daemon, not a previous one */
	struct {
		char *state_dir, *run_dir, *disk; /* owned */
	} paths;
	struct {
		enum accelerator wanted, used;
		const char *reason; /* static */
	} accelerator;
	struct {
		char *key;         /* owned or NULL: what this boot is made of (proof.c) */
		unsigned launches; /* by this daemon: the disk is fresh only at the first */
	} proof;
	struct boot *boot; /* owned; NULL unless it boots or a boot is undone */
	struct guest guest;
	struct process process;
	struct hold hold;
	struct disk_op *disk_op; /* owned: the copy of its disk, later each removal */
};
LIST_HEAD(machine_list, machine);

struct kept_proof;

/* The steps of every machine, in order. */
struct plan {
	const struct step *steps;
	size_t n;
	size_t n_created; /* the first n_created make a machine that does not run */
};

struct machines {
	struct manager *m; /* borrowed */
	struct machine_list list;
	const struct machine_owner *const *owners; /* static; ends with NULL */
	const struct plan *plan;                   /* static */
	char boot_id[40];
	TAILQ_HEAD(, kept_proof) proofs; /* owned; proof.c's */
	size_t n_proofs;
	sd_event_source *reserve;   /* owned: timer of the next look at the free space */
	struct disk_op **leftovers; /* owned */
	size_t n_leftovers;
};

/* proof.c: makes the key of a boot; records a boot; removes the proof after a failed start. */
void machine_make_key(struct machine *mc);
void machine_has_booted(struct machine *mc);
void machine_has_failed(struct machine *mc);
void proofs_free(struct machines *ms);

/* quota.c */
int machine_check_quotas(struct machine *mc, struct error *err);
int machine_check_host(struct machine *mc, struct error *err);
/* How much memory and disk its user could have requested instead. */
uint64_t machine_memory_max(struct machine *mc);
uint64_t machine_disk_max(struct machine *mc);

/* machine.c: a new machine is in the list, and no step is taken. */
int machine_new(struct machines *ms, const struct machine_owner *owner, const struct vm_row *row,
	struct machine **ret);
struct machine *machine_free(struct machine *mc);
DEFINE_CLEANUP(struct machine *, machine_free)
/* The only function that changes a state; the row is saved with the next commit. */
void machine_set_state(struct machine *mc, enum machine_state state);
/* Commits the row as it is; a failure is logged. */
void machine_save(struct machine *mc);
/* Saved with the next commit; reported while the machine is stopped. */
void machine_set_stop_reason(struct machine *mc, const char *reason);
/* Saved with the next commit. NULL: no error. */
void machine_set_last_error(struct machine *mc, const char *text);
/* Settled without a VMM. */
bool machine_is_down(const struct machine *mc);
/* `COMMAND verb ID` of its owner's command; NULL when out of memory. */
char *machine_fix(const struct machine *mc, const char *verb);
/* The fix that gets the same again: owner->again or `COMMAND start ID`. NULL when out of memory. */
char *machine_again_fix(const struct machine *mc);

/* wait.c */
/* Calls done once, after late_usec at the latest (0: no limit). done NULL: does nothing. */
int machine_wait(struct machine *mc, enum machine_wait what, uint64_t late_usec,
	machine_done_fn done, void *userdata);
/* Notifies the waiters for `what`; err NULL: it has happened. */
void machine_notify(struct machine *mc, enum machine_wait what, const struct error *err);
/* Makes WAIT_BOOT waiters WAIT_STARTED ones. Returns whether there are any. */
bool machine_boot_is_wanted(struct machine *mc);
/* Ends all waits at the daemon's end. */
void machine_end_waits(struct machine *mc);

/* boot.c */
int machine_boot_new(struct machine *mc);
void machine_boot_free(struct machine *mc);
/* Closes image, disk and kernel; cancels pending checks and packing. */
void machine_forget_images(struct machine *mc);

/* guest.c: the guest's link, commands and boot. */
void machine_link_close(struct machine *mc);
/* Lets an idle guest prepare for its first command. */
void machine_expect_command(struct machine *mc);
/* Ends its commands and file operations with err and removes them from the lists. */
void machine_fail_execs(struct machine *mc, const struct error *err);
/* Ends the file operations at the daemon's end. */
void machine_end_files(struct machine *mc);
/* Lets later commands get higher channels than this one; -EBADMSG: it is CHANNEL_HELD_MAX or more. */
int machine_note_channel(struct machine *mc, uint32_t channel);
/* True if the WELCOME is from the guest that was set up, in the same boot. */
bool machine_is_same(struct machine *mc, const struct msg_welcome *w);

/* death.c: the cause of the guest's end, with the console's last message. Logs the console. */
char *machine_death_cause(struct machine *mc, const char *what);
/* The fix for that cause. Both are owned, NULL when out of memory. */
char *machine_death_fix(struct machine *mc, const char *cause);
/* The error of a guest that sent nothing; reset: it has reset itself. Returns as error_set does. */
int machine_not_booted(const struct machine *mc, bool reset, struct error *err);

/* reserve.c: reserve_watch keeps disk_reserve_mib free from now on, until no VMM runs. */
int reserve_new(struct machines *ms);
void reserve_watch(struct machines *ms);
/* Free bytes of the file system of the machines' disks. */
int machines_free_bytes(const struct machines *ms, uint64_t *ret);
/* Whether a machine paused for lack of space may resume. */
bool machines_have_room(const struct machines *ms);

/* pause.c: the VMM has stopped the vCPUs; has resumed them. */
void machine_paused(struct machine *mc, const char *reason);
void machine_unpaused(struct machine *mc);

/* engine.c: the desired level and the steps to it. */
int machine_add_engine(struct machine *mc);
/* Sets the desired level while settled. A boot that fails leaves the machine `failed`. */
void machine_want(struct machine *mc, enum machine_level level);
/* Takes the next step to the desired level; does nothing unless settled. */
void machine_next(struct machine *mc);
/* Lowers the desired level: the machine goes down from any state, in a later iteration of the
 * loop. resting: its state then. If it is going down already, only the level falls. */
void machine_fall(struct machine *mc, enum machine_level to, enum machine_state resting,
	const struct error *why);
/* Does the same down to machine_rest_level, unless it is going down already. */
void machine_come_to_rest(struct machine *mc, enum machine_state resting, const struct error *why);
/* The rollback target: LEVEL_DELETED if its owner keeps nothing or its start is not reported. */
enum machine_level machine_rest_level(const struct machine *mc);
/* Reports the event that a step waits for; err: it failed. */
void machine_continue(struct machine *mc, const struct error *err);
/* Handles a lost guest: its commands end with err. */
void machine_fail(struct machine *mc, enum machine_state state, const struct error *err);

/* stop.c: asks the guest to shut down; ends it after DEADLINE_STOP, or now if that fails. */
void machine_shut_down(struct machine *mc);
/* Asks the guest again after the stream was cut. */
int machine_shut_down_again(struct machine *mc);
/* Completes the stop: the guest has ended, or is ended now. */
void machine_shut_down_done(struct machine *mc);

/* images.c: the machine's environment and kernel. */
int machine_pin_images(struct machine *mc, struct error *err);
/* A step and its undo. */
int machine_open_images(struct machine *mc, struct error *err);
int machine_close_images(struct machine *mc);
/* Cancels the checks after a failed boot, so that a deletion does not wait for them. */
void machine_skip_reading(struct machine *mc);
/* Checks the image if the console of the exited VMM reported a damaged file system. */
void machine_check_console(struct machine *mc);

/* survivor.c: the VMM of a previous daemon. */
enum machine_vmm {
	VMM_NONE,      /* nothing of it runs */
	VMM_RUNS,      /* it surely is ours, and process.pidfd refers to it */
	VMM_PARTIAL,   /* its unit runs, but is not in the row: it can only be ended */
	VMM_UNCERTAIN, /* not certain: it is never killed */
};
enum machine_vmm machine_find_vmm(struct machine *mc);
/* Ends it if it surely is ours. Returns 0: none runs; 1: being ended, machine_continue follows;
 * -EBUSY: not certain. */
int machine_end_survivor(struct machine *mc);
/* Stops waiting for its end. */
void machine_forget_survivor(struct machine *mc);

/* events.c: what a VMM reports. */
extern const struct vmm_callbacks machine_vmm_events;

/* talk.c: the conversation with its agent. */
int machine_link_open(struct machine *mc, uint64_t first_usec);

/* adopt.c */
/* Adopts a running VMM: `started` when its agent has answered. Completes an interrupted start or
 * stop after that. */
int machine_adopt(struct machine *mc, struct error *err);
/* The agent has answered; the adoption is complete; the agent does not answer. */
int machine_adopted(struct machine *mc, const struct msg_welcome *w);
void machine_adopt_done(struct machine *mc);
int machine_forget_strays(struct machine *mc, const struct msg_welcome *w);
void machine_adopt_failed(struct machine *mc, const struct error *err);
/* Starts the adoption of an unadopted machine again, unless it is under way. WAIT_STARTED
 * waiters are notified of the outcome. */
int machine_readopt(struct machine *mc);

/* plan.c */
extern const struct plan machine_plan;

/* recover.c */
int machines_recover(struct machines *ms, struct error *err);
