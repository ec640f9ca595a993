/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Keeps the output of one stream for a reply: its first quarter and last three quarters of
 * LIMIT_CAPTURE_BYTES.
 */

#include "proto/limits.h"
#include "proto/base.h"
#include <json-c/json.h>

/* A reply holds two streams and the echoed command within LIMIT_REPLY_BYTES, escapes counted. */
#define CAPTURE_JSON_BYTES (LIMIT_REPLY_BYTES * 3 / 8)

struct capture {
	char *head; /* owned: up to a quarter, grown as needed */
	char *tail; /* owned: ring of three quarters, allocated when the head is full */
	size_t head_n;
	uint64_t total; /* bytes added so far */
};

void capture_done(struct capture *c);
int capture_add(struct capture *c, const void *p, size_t n);

/* Makes *ret, a JSON string owned by the caller, with a marker where bytes are left out. Bytes that
 * are not UTF-8 become U+FFFD and set *ret_binary. */
int capture_text(const struct capture *c, json_object **ret, bool *ret_truncated, bool *ret_binary);
