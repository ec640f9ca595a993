/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the agent's messages: the first byte selects the message and the version, the rest
 * is the payload. _put must write the bytes that _get accepted, except trailing ones of a newer
 * peer: each message has one encoding.
 */

#include "proto/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TRY(name) \
	static void try_##name(const struct frame *f, uint16_t version) \
	{ \
		struct msg_##name m; \
		struct buf b; \
		if (msg_##name##_get(f, version, &m) < 0) \
			return; \
		buf_init(&b, LIMIT_MESSAGE_BYTES); \
		if (msg_##name##_put(&b, version, &m) < 0 || buf_len(&b) > f->length || \
			memcmp(buf_head(&b), f->payload, buf_len(&b)) != 0) \
			abort(); \
		buf_done(&b); \
		msg_##name##_done(&m); \
	}
AGENT_MESSAGES(TRY)

#define NAME(name) try_##name,
static void (*const tries[])(const struct frame *f, uint16_t version) = { AGENT_MESSAGES(NAME) };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 || size > LIMIT_MESSAGE_BYTES)
		return 0;
	struct frame f = { .payload = data + 1, .length = (uint32_t)(size - 1) };
	tries[data[0] % ARRAY_SIZE(tries)](
		&f, (uint16_t)(1 + data[0] / ARRAY_SIZE(tries) % AGENT_PROTOCOL_MAX));
	return 0;
}
