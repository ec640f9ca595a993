/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Fakes of what lies below core/, for its unit tests: environments, kernels, disks and a VMM that
 * behave as configured, and a guest agent at the other end of a socketpair. All run in the test's
 * own loop.
 */

#include "daemon/manager.h"
#include "proto/agent.h"
#include "proto/frame.h"

enum fake_step {
	FAKE_NONE,
	FAKE_PULL,
	FAKE_IMAGE,
	FAKE_KERNEL,
	FAKE_PACK,
	FAKE_READ,
	FAKE_DISK,
	FAKE_VMM,
	FAKE_VMM_START,
	FAKE_SETUP,
	FAKE_REMOVE
};

enum fake_command {
	COMMAND_EXIT,  /* writes out_text, err_text, then exits with code/signal */
	COMMAND_HANG,  /* sends STARTED, nothing else */
	COMMAND_CAT,   /* stdin to stdout, exits at its end */
	COMMAND_FLOOD, /* flood_bytes of output, as the limit allows */
};

#define FAKE_DRIVER "a-driver" /* chosen by vmm_choose; all other calls must be given it */

struct fake {
	sd_event *event;
	/* what fails, or never completes */
	enum fake_step fail, stall;
	bool unpacked; /* each start waits until the kernel is packed with the agent */
	bool suspect;  /* the image was modified after its installation, and not checked since */
	/* what a check finds, and what is known afterwards */
	const char *image_damage, *kernel_damage, *initrd_damage;
	/* the agent's behaviour */
	enum fake_command command;
	const char *out_text, *err_text;
	struct msg_exit exit;
	uint16_t version_max; /* of the protocol; 0: the newest */
	uint64_t flood_bytes;
	bool mute;   /* never answers HELLO */
	bool unseen; /* the guest sends nothing and resets the VMM */
	bool refuse_dial;
	bool never_ends; /* does not end when asked to shut down */
	bool hangs;      /* the VMM does not exit when killed */
	bool writes_on;  /* the VMM does not pause when asked */
	/* what was seen */
	int signo;      /* of the last KILL */
	unsigned reads; /* of image and kernel */
	bool was_read;
	unsigned vmms, launches, disks, dials, setups, starts, exit_acks, kills, logins, shutdowns,
		resumes, pauses, adopted;
	uint64_t stdin_bytes;
	char *command_line; /* owned: of the last START */
	/* the agent */
	int fd;
	sd_event_source *io;
	struct decoder in;
	struct frame_assembler parts;
	struct buf out;
	uint16_t version; /* agreed on */
	bool greeted, set_up, running, exited, wait_resume;
	uint8_t sync[SYNC_SIZE], machine_id[16];
	char exec_id[AGENT_EXEC_ID_SIZE];
	uint32_t channel;
	uint64_t sent[STREAM_MAX], limit[STREAM_MAX], upto[STREAM_MAX];
	bool stdin_ended;
	uint64_t stdin_limit;
};
extern struct fake fake;

void fake_reset(sd_event *event);
void fake_done(void);
/* Returns the host's end of a new connection; the old one breaks. */
int fake_dial(void);
/* Breaks the stream for both ends. */
void fake_break(void);
/* Sends raw bytes from the agent. */
void fake_send(const void *p, size_t n);
void fake_flush(void);
/* True while there is a VMM that has not exited. */
bool fake_vmm_runs(void);
/* Ends the VMM's process now. */
void fake_vmm_die(void);
/* The same from a later iteration of the loop. */
void fake_vmm_end_later(void);
/* The VMM pauses its vCPUs because the host's disk is full. */
void fake_vmm_pause(void);

/* Runs the loop until *flag or the deadline; true when the flag came. */
bool loop_until(sd_event *event, const bool *flag, uint64_t usec);

/* Makes a manager over a temporary directory with a real store, but without machines yet. */
struct manager *fake_manager(sd_event *event);
void fake_manager_free(struct manager *m);
