/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The report of system.doctor, from what the host and the daemon say now and what a probe machine
 * did. viewer is the uid that reads it, 0 where it may know of everybody's machines.
 */

#include "daemon/manager.h"
#include "proto/json.h"

struct doctor_probe {
	bool tried;
	bool booted;        /* its vCPUs ran and the agent answered */
	bool executed;      /* `true` ended with status 0 */
	const char *detail; /* borrowed: one line */
	const char *fix;    /* borrowed or NULL */
};

int doctor_report(
	struct manager *m, uid_t viewer, const struct doctor_probe *probe, json_object **ret);
