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

/* Reads what is there now; for when the writer is gone. */
void console_drain(struct console *c);
/* The last max bytes, escaped for a log; *ret is owned. */
int console_tail(const struct console *c, size_t max, char **ret);
/* The last line that is not empty, escaped; *ret is owned, NULL when nothing was written. */
int console_last_line(const struct console *c, char **ret);
