/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How often one message may be logged, so that nobody who can cause it fills a disk or hides what others
 * cause. What counts as one message is its format and its field (whom or what it is about).
 */

#include "proto/base.h"

enum { LOG_LIMIT_BURST = 50 };
#define LOG_LIMIT_USEC (10 * USEC_PER_SEC)

/* Whether a message may be logged at now_usec (monotonic): LOG_LIMIT_BURST of a kind in LOG_LIMIT_USEC. When one is admitted
 * after others were not, *ret_left_out is their number, else 0. field may be NULL. */
bool log_limit_admit(
	const char *format, const char *field, uint64_t now_usec, unsigned *ret_left_out);
