/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Limits how often a message is logged, so that a user who can cause it cannot fill a disk or hide
 * other messages. Format and field (the object of the message) identify a message.
 */

#include "proto/base.h"

enum { LOG_LIMIT_BURST = 50 };
#define LOG_LIMIT_USEC (10 * USEC_PER_SEC)

/* Returns true if a message may be logged at now_usec (monotonic): LOG_LIMIT_BURST of a kind per
 * LOG_LIMIT_USEC. *ret_left_out is the number suppressed since the last one. field may be NULL. */
bool log_limit_admit(
	const char *format, const char *field, uint64_t now_usec, unsigned *ret_left_out);
