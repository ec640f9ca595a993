/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What machines stand on, as the tests of daemon/machine have it: environments, kernels and disks
 * (daemon/image's headers), a VMM (vmm.h) that behaves as configured, and a guest's agent at the
 * other end of a socketpair. All of it runs in the test's own loop.
 */

#include <limits.h>

#include "daemon/manager.h"
#include "proto/agent.h"
#include "proto/frame.h"

enum fake_step {
	FAKE_NONE,
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

#define FAKE_DRIVER "a-driver" /* chosen by vmm_choose; all other calls must be given it */

struct fake {
	sd_event *event;
	/* what fails, or never completes */
	enum fake_step fail, stall;
	bool unpacked; /* each start waits until the kernel is packed with the agent */
	bool suspect;  /* the image was modified after its installation, and not checked since */
	/* the agent's behaviour */
	bool mute;   /* never answers HELLO */
	bool unseen; /* the guest sends nothing and resets the VMM */
	bool refuse_dial;
	bool never_ends;       /* does not end when asked to shut down */
	bool hangs;            /* the VMM does not exit when killed */
	bool writes_on;        /* the VMM does not pause when asked */
	uint32_t held_channel; /* of a command that it claims to hold; 0: none */
	/* what was seen */
	unsigned reads; /* of image and kernel */
	bool was_read;
	unsigned vmms, launches, disks, dials, setups, logins, shutdowns, resumes, pauses, adopted;
	char disk_path[PATH_MAX]; /* of the last disk made */
	/* the agent */
	int fd;
	sd_event_source *io;
	struct decoder in;
	struct frame_assembler parts;
	struct buf out;
	uint16_t version; /* agreed on */
	bool greeted, set_up;
	uint8_t sync[SYNC_SIZE], machine_id[16];
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
