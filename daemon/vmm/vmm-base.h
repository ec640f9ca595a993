/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Between running.c and the drivers: the first member of every driver's object, what a driver makes
 * for a launch, and the calls by which it reports what its VMM does. Only the files of daemon/vmm
 * include this.
 */

#include "daemon/launch-msg.h"
#include "daemon/vmm/vmm.h"

enum { VMM_VERSION = 160, VMM_ARGS_MAX = 80 };

struct console;
struct launch;

enum vmm_stage {
	VMM_STAGE_LAUNCHED, /* its control channel has not answered yet */
	VMM_STAGE_READY,    /* it has answered, and its guest is not booted */
	VMM_STAGE_BOOTING,  /* its driver was asked to let the guest run */
	VMM_STAGE_RUNS, /* its guest runs or is paused; assumed of an adopted one until it answers */
	VMM_STAGE_FAILED, /* to start; it is being killed */
};

struct vmm {
	const struct vmm_driver *driver;
	struct manager *m; /* borrowed */
	uid_t owner_uid;   /* its log lines count against this user's limit */
	char *run_dir;     /* owned */
	char *program;     /* owned; NULL: adopted */
	bool adopted;

	/* written by the driver */
	struct console *console;   /* owned or NULL */
	char version[VMM_VERSION]; /* name and version, escaped; "" until known */
	const char *fix;           /* static or NULL: of a start that failed */
	bool agent_seen;           /* the guest has opened the agent's port */
	bool guest_ended;          /* by itself */

	/* of running.c alone */
	const struct vmm_callbacks *cb; /* borrowed: static of the owner */
	void *userdata;
	struct launch *launch;     /* owned */
	sd_event_source *notify;   /* owned */
	sd_event_source *deadline; /* owned; NULL: adopted, or started */
	unsigned pending;          /* PENDING_* */
	enum vmm_stage stage;
	bool boot_asked;
	bool paused, pause_reported;
	bool runs_on;                 /* detached: the sockets' files stay */
	const char *pause_reason;     /* static */
	sd_event_source *pause_timer; /* owned; delays the report of a pause */
	/* CLOCK_MONOTONIC; a pause is delayed while this is PAUSE_BURST_USEC ahead */
	uint64_t pause_credit_usec;
	struct error error; /* with PENDING_FAILED */
	int status;         /* with PENDING_EXITED */
	char *reason;       /* owned or NULL */
};

/* What pyro-vmm is given. Descriptors become LAUNCH_FIRST_FD, ... in order. */
struct vmm_command {
	char *args[VMM_ARGS_MAX]; /* owned, NULL-terminated; the first is v->program */
	size_t n_args;
	int fds[LAUNCH_FDS_MAX - 1]; /* the first n_owned are owned, the others borrowed */
	size_t n_fds, n_owned;
};

/* Appends one argument; *r keeps the first failure. */
void vmm_command_add(struct vmm_command *c, int *r, const char *fmt, ...) _printf_(3, 4);
/* Appends a descriptor, borrowed; *r keeps the first failure. */
void vmm_command_add_fd(struct vmm_command *c, int *r, int fd);
void vmm_command_done(struct vmm_command *c);

/* The i-th of driver->sockets: a listening socket; a connection to it. -errno */
int vmm_socket_listen(const struct vmm *v, size_t i);
int vmm_socket_dial(const struct vmm *v, size_t i);

/* Reports of a driver. They may be made at any time, also when they are not true: the VMM may have
 * been taken over by its guest. */

/* The control channel answers, and no guest is booted: driver->boot is called when the owner wants
 * it. Once for each object. */
void vmm_report_ready(struct vmm *v);
/* The vCPUs run, after driver->boot. */
void vmm_report_started(struct vmm *v);
/* reason: static, as in on_paused. */
void vmm_report_paused(struct vmm *v, const char *reason);
/* Also reports a start that is not reported yet. */
void vmm_report_resumed(struct vmm *v);
/* The start has failed: kills the process. fix: static; NULL: v->fix. Ignored once the guest has
 * run, and logged for an adopted VMM. */
void vmm_report_failed(struct vmm *v, const char *cause, const char *fix);
/* A stream to the agent; fd is taken over. */
void vmm_report_agent(struct vmm *v, int fd);
