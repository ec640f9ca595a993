/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One machine through its public calls, for the tests of daemon/machine: over the fakes of
 * machine-fakes.h, a store in memory and a clock that the test sets, with an owner that keeps its
 * disk. Each test begins with setup() and ends with teardown().
 */

#include "daemon/machine/machine.h"
#include "daemon/store/store.h"
#include "tests/unit/machine-fakes.h"

#define ROWS_MAX 4

extern sd_event *event;
extern struct manager *m;

void setup(void);
void teardown(void);

/* The clock. let_time_pass advances it to the next timer; false: there is none. */
extern uint64_t now;
bool let_time_pass(void);

/* The store */
extern struct vm_row rows[ROWS_MAX];   /* owned; id "": free */
extern size_t n_queued;                /* commits */
extern bool store_fails, store_failed; /* from now on; has failed */
struct vm_row *row_of(const char *id); /* NULL: there is none */

/* Begins to create the machine; whole: and to boot it. Its waiter is asked[NOTHING]. */
void create(bool whole);
void create_of(uint64_t mem_mib, uint64_t disk_mib, bool whole);
struct machine *the_machine(void); /* NULL: there is none */
void must_be(enum machine_state state);

/* Requests, and the answers to their waiters. */
enum request { NOTHING, BOOT, STOP, DELETE, REQUEST_MAX };
extern const char *const request_names[];
struct asked {
	unsigned waiting, answered;
	char last; /* '+' done, '!' an error, '-' none */
};
extern struct asked asked[REQUEST_MAX];
extern struct error last_answer; /* of the last answer; unset: it was no error */
extern bool deletion_accepted;   /* and not failed since */
bool waits(void);                /* any waiter */
/* '0' pending, '1' already done, 'w' wrong_state, '-' there is no machine. */
char ask(enum request what);
/* Asks, and runs what follows at once. */
void request(enum request what);

/* Runs at most n iterations of the loop, as long as there is work. */
void turns(unsigned n);
/* Runs all consequences of an event: for the longest time that an agent may stay silent, then as
 * long as needed. */
void settle(void);
void until_goes_down(void);
/* The guest says why it ends, and ends. */
void send_bye(uint8_t reason);

/* What becomes of the VMM when the daemon ends. UNSURE: its pid is another program's. */
enum fate { LIVES, DIED, UNSURE, HOST_RESTARTED, FATE_MAX };
/* Ends the daemon, orderly or as killed, and starts the next one. */
void next_daemon(enum fate vmm, bool in_order);
extern pid_t survivor; /* stands in for the VMM of a previous daemon; 0: none */
void end_survivor(void);

unsigned entries(const char *base, const char *sub); /* files in base/sub */
/* Checks what holds while no work is pending. */
void check_world(void);
