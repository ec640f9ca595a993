/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A VMM without a machine, for tests of the daemon: pyrod starts it in place of QEMU (qemu= of pyrod.conf), or as the
 * VMM of a driver of its own (vmm_driver_fake), which only builds with crash points have.
 * It answers QMP, and behind its agent socket stands the guest's real serve.c with commands that are
 * scripts (script.c) instead of processes, well-behaved or not (attack.c).
 *
 * What a command may say: steps separated by ';', done one after the other, exit 0 at the end.
 *   print N, errprint N   N bytes of lines "%015d\n" counted from 0, to stdout or stderr
 *   echo WORDS, err WORDS
 *   sleep MSEC            forever when MSEC is 0
 *   cat                   stdin to stdout, until stdin ends
 *   ended FLAGS PIDS      what is told of its end, as numbers
 *   timed-out             it is killed, as when its time limit is reached
 *   exit CODE
 *   die                   the VMM is gone at once
 *   reboot                the guest ends itself
 *   panic                 its kernel panics, as Linux does on a console, and it restarts
 *   hangup                the host's connection to the agent ends
 *   cut out|in N          the same, N bytes of that direction later, counted from now
 *   stand MSEC            the vCPUs stand still, as when the host's disk is full; asked later than that, they go on
 *   attack NAME [N SEED]  attack.c
 * Unknown words are steps that do nothing: what is written for a real guest ends with 0 as well.
 *
 * Misbehaviour before there is a command is chosen by the machine's memory, FAKE_MEM_MIB + enum fake_manner.
 * Beside the program, observer.sock (a datagram socket of the test's) is told what happens.
 */

#include "guest/loop.h"
#include "guest/serve.h"
#include "proto/agent.h"

enum { FAKE_MEM_MIB = 200 };

enum fake_manner {
	MANNER_GOOD,
	MANNER_DEAF,       /* takes the host's bytes and never says a word */
	MANNER_MUTE,       /* says nothing more from SETUP on */
	MANNER_REFUSES,    /* SETUP fails */
	MANNER_NOISE,      /* random bytes for ever instead of WELCOME */
	MANNER_QMP_SILENT, /* no greeting on the control socket */
	MANNER_QMP_NOISE,  /* an endless line there */
	MANNER_CONSOLE,    /* floods its console */
	MANNER_OLD,        /* speaks protocol 1 */
	MANNER_MAX
};

struct fake;
struct relay;
struct attack;

/* main.c: what scripts do to the machine. One process is one machine. */
void fake_end(struct fake *f, enum bye_reason reason); /* the guest ends itself */
void fake_panic(void);                                 /* the guest's kernel does */
void fake_stand(struct fake *f, uint64_t msec);        /* its disk cannot be written */
void fake_tell(const char *fmt, ...) _printf_(1, 2);   /* the observer */
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
void relay_cut(
	struct relay *r, bool out, uint64_t after); /* ends the connection so many bytes on */
void relay_mute(struct relay *r);                   /* no more bytes towards the host */
void relay_still(struct relay *r, bool still);      /* the guest takes and gives nothing */
bool relay_drained(struct relay *r);                /* all that was said has left */

/* attack.c. Their names, a line each. */
void attack_list(FILE *out);
/* NULL: there is none of that name. */
struct attack *attack_new(const char *name, uint64_t n, uint64_t seed, uint32_t channel);
struct attack *attack_free(struct attack *a);
/* The connection is new: an attack that goes on by itself begins again. */
void attack_resumed(struct attack *a);
/* Appends hostile frames; true when anything was. sent: stdout's next offset. */
bool attack_fill(struct attack *a, struct buf *out, uint64_t sent);
/* The host has acknowledged an EXIT that is no command's. */
void attack_exit_acked(struct attack *a, uint32_t channel);
/* Until when it waits for that; 0: it does not. */
uint64_t attack_wait(const struct attack *a);
/* It has done its worst, and the command goes on. */
bool attack_over(const struct attack *a);
