/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One stream's output for a reply: its first quarter and last three quarters of LIMIT_CAPTURE_BYTES.
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
	uint64_t total; /* bytes that came in all */
};

void capture_done(struct capture *c);
int capture_add(struct capture *c, const void *p, size_t n);

/* The text with a marker where bytes are left out; what is not UTF-8 becomes U+FFFD and sets *ret_binary.
 * *ret is a JSON string, owned. */
int capture_text(const struct capture *c, json_object **ret, bool *ret_truncated, bool *ret_binary);
