/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The host's end of one operation on a guest's files: the request, which is repeated after a
 * reconnection, and its one result.
 */

#include "daemon/agent/link.h"
#include <sys/queue.h>

struct file;

/* One of them is called, once. It may free the file. */
struct file_callbacks {
	/* m is what the guest says, checked against the request; borrowed. */
	void (*on_done)(struct file *f, const struct msg_file_result *m, void *userdata);
	/* outcome_unknown: a write or an edit may have been done. */
	void (*on_failed)(struct file *f, const struct error *err, void *userdata);
};

/* Takes over the contents of m, whose id is made here, on success. machine: the id for texts. */
int file_new(sd_event *event, const char *machine, struct msg_file *m,
	const struct file_callbacks *cb, void *userdata, struct file **ret);
struct file *file_free(struct file *f);
DEFINE_CLEANUP(struct file *, file_free)

const struct msg_file *file_request(const struct file *f);
/* The lines in a part of a file; a last one without newline counts. */
uint64_t file_lines(const struct msg_blob *content);

/* Sends the request over the link (borrowed until the file is done or freed), now or when it is up.
 * `unsupported` if the guest's agent is too old. */
int file_start(struct file *f, struct link *link, uint32_t channel, struct error *err);
/* The guest is paused (still) or resumed. The deadline does not run while it is paused. */
void file_hold(struct file *f, bool still);
/* Ends it with an error, because its machine has failed or exited. */
void file_fail(struct file *f, const struct error *err);

/* Called by the link's owner: for FILE_DONE of this channel, after WELCOME, and to append the
 * request, of which it returns true if it did. */
int file_on_frame(struct file *f, const struct frame *frame);
void file_on_welcome(struct file *f);
bool file_fill(struct file *f, struct buf *out);

LIST_HEAD(file_list, file);
void file_list_insert(struct file_list *list, struct file *f);
void file_list_remove(struct file *f);
struct file *file_list_next(const struct file *f);
struct file *file_list_find(const struct file_list *list, uint32_t channel);
