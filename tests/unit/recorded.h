/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The recorded frames of each version of the agent protocol (tests/frames), line by line. The
 * newest version has none, since it may still change.
 */

#include "proto/frame.h"
#include <stdio.h>

struct recorded {
	char way;      /* '=': machine; '-': connection; '>': from the host; '<': from the agent */
	char name[16]; /* as in wire.py; SYNC and NONCE are not frames */
	uint8_t data[2048];
	size_t n;
	struct frame frame; /* of data; without a type when it is not a frame */
};

/* Fails the test when there is no such file. */
FILE *recorded_open(unsigned version);
/* False at the end, where it closes the file. */
bool recorded_next(FILE *file, struct recorded *ret);
