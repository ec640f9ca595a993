/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * vm.run: one command in a machine of its own. Pull if need be, create (row first), start, execute,
 * delete. vm.exec: the same in an existing machine. The caller owns the run until it calls run_free
 * or run_abandon.
 */

#include "daemon/core/command.h"
#include "proto/frame.h"
#include <json-c/json.h>

struct run;

struct run_params {
	struct machine_spec machine;
	struct command_params command;
	/* Owned by the run on success: the client's socket, which speaks DATA/ACK/END on channel 0.
	 * -EBADF: output is captured for the reply. */
	int stdio_fd;
};

struct run_progress {
	/* "kernel" "install" "write" (a pull), "create", "start", "execute", "paused", "resumed" */
	const char *phase;
	const char *vm_id, *exec_id; /* NULL until known */
	int percent;                 /* -1 unknown */
	const char *detail;
	const char *accelerator;        /* with "start": "kvm" or "emulation" */
	const char *accelerator_reason; /* with "start", when emulation: why; else NULL */
	const char *pause_reason;       /* with "paused": "disk_full" or "disk_error" */
};

struct run_callbacks {
	void (*on_progress)(struct run *r, const struct run_progress *p, void *userdata);
	/* Called once, after the last byte went to stdio_fd and the machine is deleted. result
	 * (owned by the callee) has the run fields of contract.md section 4; NULL with err set
	 * on failure. */
	void (*on_done)(
		struct run *r, json_object *result, const struct error *err, void *userdata);
};

int run_start(struct manager *m, const struct run_params *p, const struct run_callbacks *cb,
	void *userdata, struct run **ret, struct error *err);

/*
 * vm.exec: one command in the existing machine mc, which is booted if it does not run, and deleted
 * afterwards. p->machine is ignored. Fails with wrong_state if mc is busy or cannot be booted.
 */
int run_in_machine(struct machine *mc, const struct run_params *p, const struct run_callbacks *cb,
	void *userdata, struct run **ret, struct error *err);

/* Cancels the run: the machine is deleted at once, and on_done follows with `cancelled`. */
void run_cancel(struct run *r);
/* The caller's connection is closed: nothing is reported any more. The machine is deleted after
 * DEADLINE_GRACE or with its command, whichever comes first. The run frees itself. */
void run_abandon(struct run *r);
struct run *run_free(struct run *r); /* after on_done */

/*
 * The answer to a vm.stop of mc if mc is deleted by then with its command: the machine as it is,
 * stopped, with its cleanup. *ret (owned by the caller) is NULL if no command uses mc.
 */
int run_stopped_json(struct machine *mc, const char *stop_reason, json_object **ret);

/* Finds a run that uid may see (root: all) by exec_id or unambiguous prefix; else
 * exec_not_found. */
int runs_find(
	struct manager *m, const char *exec_id, uid_t uid, struct run **ret, struct error *err);

/*
 * exec.attach: attaches a caller to a live run again, after its connection or its daemon was lost;
 * the caller has the output below have[] (by stream). The rest goes to stdio_fd (owned by the run
 * on success) and the result to on_done, as for vm.run. Fails with wrong_state if the run has a
 * caller, with outcome_unknown if the next output is lost. Waits while the guest is being adopted.
 */
int run_attach(struct run *r, int stdio_fd, const uint64_t have[STREAM_MAX],
	const struct run_callbacks *cb, void *userdata, struct error *err);

/* exec.signal: sends signo to the command's foreground process group. */
int run_signal(struct run *r, int signo, struct error *err);
const char *run_exec_id(const struct run *r);
