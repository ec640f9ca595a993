/* SPDX-License-Identifier: MIT */
#pragma once

/* Shuts the machine down: processes, disks, BYE, reset. */

#include "guest/loop.h"
#include "guest/machine.h"
#include "guest/serve.h"

struct end {
	struct loop *loop;       /* borrowed */
	struct machine *machine; /* borrowed */
	struct serve *serve;     /* borrowed */
	struct timer timer;
	enum bye_reason reason;
	int phase;  /* enum end_phase */
	char *what; /* owned: for BYE */
};

void end_init(struct end *e, struct loop *l, struct machine *m, struct serve *s);
/* Starts the shutdown: SIGTERM, SIGKILL, disks, BYE, reset. It continues by itself. */
void end_begin(struct end *e, enum bye_reason reason);
/* Sends BYE with an error, then resets, when the agent cannot work. Copies what. */
void end_error(struct end *e, const char *what);
void end_reaped(struct end *e);   /* call after processes were reaped */
void end_bye_sent(struct end *e); /* call after BYE was sent */
void end_host_closed(struct end *e);
/* Resets the machine now. */
_noreturn_ void end_reset(void);
