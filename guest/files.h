/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The guest's files for the host: lists, reads, writes and edits. Each operation runs in a process
 * of its own, which is killed at its deadline, so no file system can block the agent. serve.c passes
 * the host's messages on and requests the answers.
 */

#include "guest/loop.h"
#include "proto/agent.h"

struct files;

struct files_params {
	struct loop *loop;     /* borrowed */
	const char *workspace; /* borrowed: base of a relative path */
	uint64_t late_usec;    /* deadline of an operation; 0: FILES_LATE_USEC */
};

#define FILES_LATE_USEC (10 * USEC_PER_SEC)

int files_new(const struct files_params *p, struct files **ret);
/* Kills the operations that run. Accepts NULL. */
struct files *files_free(struct files *fs);

/* FILE. FILE_DONE reports every failure; -EBADMSG only for a host that breaks the protocol. */
int files_take(struct files *fs, uint16_t version, uint32_t channel, const struct msg_file *m);
/* Call for a new connection: an operation is answered on it only after its FILE was repeated. */
void files_reconnected(struct files *fs);
/* Appends one answer; true if any was appended. */
bool files_send(struct files *fs, struct buf *out);

/* Does one operation and fills *ret, whose id is left to the caller (files-op.c). It may block for
 * ever. lock_fd is a file of the agent's in which operations on one file exclude each other. commit
 * is called before the first lasting change; after it the outcome of a failure is unknown. */
struct files_op {
	const char *workspace; /* borrowed */
	int lock_fd;           /* borrowed; -EBADF: none */
	void (*commit)(void *userdata);
	void *userdata; /* borrowed */
};
void files_run(const struct files_op *op, const struct msg_file *m, struct msg_file_result *ret);
