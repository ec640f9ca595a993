/* SPDX-License-Identifier: MIT */
/*
 * Shuts the machine down, driven by main.c's loop. Each phase waits for an event with a deadline:
 * processes have 5 s to end after SIGTERM and 2 s after SIGKILL, and the host has 1 s to take BYE.
 * BYE is sent after the disks are read-only, so a host that has received it may kill the VMM.
 */

#include "guest/end.h"

#include <signal.h>
#include <sys/reboot.h>

#define TERM_USEC  (5 * USEC_PER_SEC)
#define KILL_USEC  (2 * USEC_PER_SEC)
#define BYE_USEC   (1 * USEC_PER_SEC)    /* for a connected host to take BYE */
#define HELLO_USEC (10 * USEC_PER_SEC)   /* after an error: for a host to connect and take BYE */
#define LEAVE_USEC (200 * USEC_PER_MSEC) /* for BYE to leave the device */

enum end_phase {
	END_NOT,
	END_TERM,
	END_KILL,
	END_BYE,
	END_LEAVE,
};

void end_reset(void)
{
	sync();
	(void)reboot(RB_AUTOBOOT);
	for (;;)
		(void)pause();
}

static void enter(struct end *e, int phase, uint64_t usec)
{
	e->phase = phase;
	loop_arm(e->loop, &e->timer, now_usec() + usec);
}

static void send_bye(struct end *e)
{
	int r = machine_quiesce(e->machine, &e->what);

	if (r < 0)
		(void)dprintf(STDERR_FILENO, "pyro-agent: %s: %s\n", e->what ? e->what : "end",
			strerror(-r));
	enter(e, END_BYE, BYE_USEC);
	serve_bye(e->serve, e->reason, e->what);
}

static void on_timer(struct timer *t)
{
	struct end *e = t->userdata;

	switch (e->phase) {
	case END_TERM:
		(void)kill(-1, SIGKILL);
		enter(e, END_KILL, KILL_USEC);
		break;
	case END_KILL: send_bye(e); break;
	default: end_reset();
	}
}

void end_init(struct end *e, struct loop *l, struct machine *m, struct serve *s)
{
	*e = (struct end){ .loop = l, .machine = m, .serve = s };
	e->timer = (struct timer){ .on_timer = on_timer, .userdata = e };
}

void end_begin(struct end *e, enum bye_reason reason)
{
	if (e->phase != END_NOT)
		return;
	e->reason = reason;
	enter(e, END_TERM, TERM_USEC);
	(void)kill(-1, SIGTERM);
	(void)kill(-1, SIGCONT);
	end_reaped(e);
}

void end_error(struct end *e, const char *what)
{
	if (e->phase != END_NOT)
		return;
	enter(e, END_BYE, HELLO_USEC);
	serve_bye(e->serve, BYE_ERROR, what);
}

void end_reaped(struct end *e)
{
	if ((e->phase == END_TERM || e->phase == END_KILL) && !loop_has_children(e->loop))
		send_bye(e);
}

void end_bye_sent(struct end *e)
{
	if (e->phase == END_BYE)
		enter(e, END_LEAVE, LEAVE_USEC);
}

void end_host_closed(struct end *e)
{
	if (e->phase == END_LEAVE)
		end_reset();
}
