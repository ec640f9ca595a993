/* SPDX-License-Identifier: MIT */
#pragma once

/* What ended a command, and by which limit: ended_by and limit of contract.md section 4. */

#include "proto/agent.h"
#include <json-c/json.h>

struct machine;

/* What is known of a command's end. */
struct limit_end {
	const struct msg_exit *exit;
	const struct agent_ended *ended; /* NULL: its agent is too old to report it */
	bool killed;                     /* its owner sent it SIGKILL */
	uint64_t timeout_usec;
};

struct limit {
	const char *ended_by; /* static, or NULL: it ended by itself */
	const char *name;     /* static, or NULL: no limit was involved */
	int64_t value;
	char flag[32]; /* raises the limit; empty: it cannot be raised */
};

/* mc: the command's machine, which still counts in its owner's usage. */
void limit_of(struct machine *mc, const struct limit_end *e, struct limit *ret);
/* Writes the flag that gives the machine more memory; empty if no more is available. */
void limit_more_memory(struct machine *mc, char ret[32]);
/* Adds ended_by, limit and background_left. ended: as in struct limit_end. */
int limit_json(const struct limit *l, const struct agent_ended *ended, json_object *o);
