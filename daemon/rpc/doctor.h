/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The report of system.doctor, from what the host and the daemon say now, what was read of what is installed and what
 * machines have shown. uid asked for it: its limits count. viewer is the same uid, or 0 where it may know of everybody's
 * machines.
 */

#include "daemon/manager.h"
#include "proto/json.h"

enum capability { CAPABILITY_UNKNOWN, CAPABILITY_NO, CAPABILITY_YES, CAPABILITY_MAX };

struct doctor_probe {
	bool tried;               /* or shown before: else nothing is known, and nothing claimed */
	enum capability booted;   /* its vCPUs ran and the agent answered */
	enum capability executed; /* a command ran to its end */
	const char *detail;       /* borrowed: one line */
	const char *fix;          /* borrowed or NULL */
	bool read;                /* what is installed was to be read */
	const struct error *unread; /* borrowed or NULL: why it was not */
};

int doctor_report(struct manager *m, uid_t uid, uid_t viewer, const struct doctor_probe *probe,
	json_object **ret);
