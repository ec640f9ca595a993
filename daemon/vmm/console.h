/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The guest's serial console: what it last wrote, kept for the error text of a machine that died. The
 * same reader keeps a VMM's stderr.
 */

#include "proto/base.h"
#include <systemd/sd-event.h>

struct console;

/* fd (taken over on success): a non-blocking stream. keep: how many bytes are held, at most. */
int console_new(sd_event *event, int fd, size_t keep, struct console **ret);
struct console *console_free(struct console *c);
DEFINE_CLEANUP(struct console *, console_free)

/* Whether anything ever was. */
bool console_written(const struct console *c);
/* Reads what is there now; for when the writer is gone. */
void console_drain(struct console *c);
/* The last max bytes as lines of printable text, each but the last ended by '\n'; *ret is owned. */
int console_tail(const struct console *c, size_t max, char **ret);
/* The last line that is not empty; *ret is owned, NULL when nothing was written. */
int console_last_line(const struct console *c, char **ret);
/* Why the guest ended, as far as its console tells: the kernel's panic, the agent's last line, that memory ran out, else
 * the last line; one line of at most 200 bytes or little more. *ret is owned, NULL when nothing was written. */
int console_cause(const struct console *c, char **ret);
