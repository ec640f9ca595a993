/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A VMM without a machine, for tests of the daemon. pyrod starts it in place of QEMU (qemu= of
 * pyrod.conf), or as the VMM of its own driver (vmm_driver_fake), which only builds with crash
 * points have. It answers QMP. Behind its agent socket runs the guest's real serve.c, with commands
 * that are scripts (script.c) instead of processes, well-behaved or not (attack.c).
 *
 * A command is a list of steps separated by ';', run one after the other, with exit 0 at the end:
 *   print N, errprint N   N bytes of lines "%015d\n" counted from 0, to stdout or stderr
 *   echo WORDS, err WORDS
 *   sleep MSEC            forever when MSEC is 0
 *   cat                   stdin to stdout, until stdin ends
 *   ended FLAGS PIDS      sets what EXIT reports about the end, as numbers
 *   timed-out             the command is killed, as by its timeout
 *   exit CODE
 *   killed SIGNO          the command is killed by that signal
 *   die                   the VMM crashes
 *   reboot                the guest ends itself
 *   panic                 its kernel panics, as Linux does on a console, and it restarts
 *   hangup                the host's connection to the agent ends
 *   cut out|in N          the same, after N more bytes in that direction
 *   stand MSEC            the vCPUs are paused, as by a full disk of the host, for MSEC at least
 *   attack NAME [N SEED]  attack.c
 * Unknown steps do nothing, so commands written for a real guest end with 0 as well.
 *
 * The machine's memory, FAKE_MEM_MIB + enum fake_manner, selects misbehaviour before the first
 * command. Events are reported to observer.sock beside the program, a datagram socket of the test.
 */

#include "guest/loop.h"
#include "guest/serve.h"
#include "proto/agent.h"

enum { FAKE_MEM_MIB = 200 };

enum fake_manner {
	MANNER_GOOD,
	MANNER_DEAF,       /* takes the host's bytes and never answers */
	MANNER_MUTE,       /* sends nothing from SETUP on */
	MANNER_REFUSES,    /* SETUP fails */
	MANNER_NOISE,      /* random bytes for ever instead of WELCOME */
	MANNER_QMP_SILENT, /* no greeting on the control socket */
	MANNER_QMP_NOISE,  /* an endless line on the control socket */
	MANNER_CONSOLE,    /* floods its console */
	MANNER_OLD,        /* speaks protocol 1 */
	MANNER_FULL,       /* its disk cannot be written for a while, from SETUP on */
	MANNER_QMP_LATE,   /* no greeting on the first connection to the control socket */
	MANNER_MAX
};

struct fake;
struct relay;
struct attack;

/* main.c: what scripts do to the machine. One process is one machine. */
void fake_end(struct fake *f, enum bye_reason reason); /* the guest ends itself */
void fake_panic(void);                                 /* the guest's kernel panics */
void fake_stand(struct fake *f, uint64_t msec);        /* its disk cannot be written */
void fake_tell(const char *fmt, ...) _printf_(1, 2);   /* reports to the observer */
struct fake *fake_self(void);
struct relay *fake_relay(struct fake *f);
enum fake_manner fake_manner(const struct fake *f);

/* relay.c: between the agent socket and the port. */
struct relay_params {
	struct loop *loop; /* borrowed */
	int listen_fd;     /* taken over on success */
	int port;          /* taken over on success */
	enum fake_manner manner;
};
int relay_new(const struct relay_params *p, struct relay **ret);
void relay_cut(struct relay *r, bool out, uint64_t after); /* after so many bytes */
void relay_mute(struct relay *r);                          /* no more bytes to the host */
void relay_still(struct relay *r, bool still);             /* the guest neither reads nor writes */
bool relay_drained(struct relay *r);                       /* all output is sent */

/* attack.c: prints the attacks' names, one per line. */
void attack_list(FILE *out);
/* NULL: unknown name. */
struct attack *attack_new(const char *name, uint64_t n, uint64_t seed, uint32_t channel);
struct attack *attack_free(struct attack *a);
/* Notes a new connection: an attack that ends connections starts again. */
void attack_resumed(struct attack *a);
/* Appends hostile frames; true when any were added. sent: stdout's next offset. */
bool attack_fill(struct attack *a, struct buf *out, uint64_t sent);
/* Notes an EXIT_ACK for an EXIT that the attack made up. */
void attack_exit_acked(struct attack *a, uint32_t channel);
/* Deadline of the wait for that EXIT_ACK; 0: none. */
uint64_t attack_wait(const struct attack *a);
/* True when the attack has ended and the command goes on. */
bool attack_over(const struct attack *a);
