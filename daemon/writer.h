/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The writer thread and its queue (design.md section 7): file operations of transcripts, which may
 * wait for a disk, run there one after the other, and complete on the loop in the same order.
 */

#include "proto/base.h"
#include <sys/queue.h>
#include <systemd/sd-event.h>

struct writer;

/*
 * One operation, embedded in a struct of the caller's that holds copies of everything run needs:
 * run touches nothing else, since the loop changes and frees its objects meanwhile. The queue is as
 * long as what its users have under way: each bounds that by its windows, and cancels operations
 * whose result nobody needs any more.
 */
struct writer_op {
	TAILQ_ENTRY(writer_op) entry;
	bool taken; /* by the thread; under the writer's lock */

	void (*run)(struct writer_op *op);  /* on the thread */
	void (*done)(struct writer_op *op); /* on the loop, after run; may be NULL */
	void (*free)(struct writer_op *op); /* on the loop, after done or instead of it */
};

int writer_new(sd_event *event, struct writer **ret);
/* Finishes the queued operations; done is not called for these. Takes NULL. */
struct writer *writer_free(struct writer *w);
DEFINE_CLEANUP(struct writer *, writer_free)

/* Takes over op. */
void writer_queue(struct writer *w, struct writer_op *op);
/* Frees op and returns true, if the thread has not taken it yet. Else done is still called. */
bool writer_cancel(struct writer *w, struct writer_op *op);

sd_event *writer_event(const struct writer *w); /* borrowed */
