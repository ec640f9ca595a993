/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The frames that were recorded of each version of the agent protocol (tests/frames), line by line: of all but the newest,
 * which may still become something else.
 */

#include "proto/frame.h"
#include <stdio.h>

struct recorded {
	char way; /* '=': a machine begins; '-': a connection; '>': of the host; '<': of the agent */
	char name[16]; /* as in wire.py; SYNC and NONCE are no frames */
	uint8_t data[2048];
	size_t n;
	struct frame frame; /* of data; no type when it is no frame */
};

/* Fails the test when there is none. */
FILE *recorded_open(unsigned version);
/* False at the end, which closes it. */
bool recorded_next(FILE *file, struct recorded *ret);
