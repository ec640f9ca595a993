/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Keeps the last output of a guest's serial console, for the error text of a machine that died, and
 * likewise a VMM's stderr.
 */

#include "proto/base.h"
#include <systemd/sd-event.h>

struct console;

/* fd: a non-blocking stream, owned on success. keep: size of the ring in bytes. */
int console_new(sd_event *event, int fd, size_t keep, struct console **ret);
struct console *console_free(struct console *c);
DEFINE_CLEANUP(struct console *, console_free)

/* True if the stream ever had any output. */
bool console_written(const struct console *c);
/* Reads what is left, after the writer has exited. */
void console_drain(struct console *c);
/* Returns the last max bytes as lines of printable text, separated by '\n'; *ret is owned. */
int console_tail(const struct console *c, size_t max, char **ret);
/* Returns the last non-empty line; *ret is owned, NULL without any output. */
int console_last_line(const struct console *c, char **ret);
/* Returns why the guest ended according to its console, as one line of about 200 bytes at most:
 * kernel panic, the agent's last line, out of memory, else the last line. *ret is owned, NULL
 * without any output. */
int console_cause(const struct console *c, char **ret);
