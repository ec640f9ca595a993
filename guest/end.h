/* SPDX-License-Identifier: MIT */
#pragma once

/* The end of a machine: processes, disks, BYE, reset. */

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
/* In order: SIGTERM, SIGKILL, disks, BYE, reset. Once begun it goes on by itself. */
void end_begin(struct end *e, enum bye_reason reason);
/* Nothing works: BYE with an error, then reset. what is copied. */
void end_error(struct end *e, const char *what);
void end_reaped(struct end *e);   /* processes have ended */
void end_bye_sent(struct end *e); /* BYE has left */
void end_host_gone(struct end *e);
/* Resets the machine now. */
_noreturn_ void end_reset(void);
