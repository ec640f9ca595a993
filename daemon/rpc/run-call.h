/* SPDX-License-Identifier: MIT */
#pragma once

/* The call that waits for a run, for the handlers of vm.run, vm.exec and exec.attach. */

#include "daemon/core/run.h"
#include "daemon/rpc/call.h"

struct run_call {
	struct call *call; /* borrowed */
	struct run *run;   /* owned until it is abandoned */
};

/* Their userdata is an allocated struct run_call, which the callbacks free. */
extern const struct run_callbacks run_call_callbacks;
void run_call_end(struct call *c, enum call_end why, void *userdata);
