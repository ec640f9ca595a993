/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The report of system.doctor: from the present state of host and daemon, from the check of the
 * installed files, and from what machines have proven. uid: the caller, whose limits count. viewer:
 * the same uid, or 0 when the caller may see all users' machines.
 */

#include "daemon/manager.h"
#include "proto/json.h"

enum capability { CAPABILITY_UNKNOWN, CAPABILITY_NO, CAPABILITY_YES, CAPABILITY_MAX };

struct doctor_probe {
	bool tried;                 /* or proven before; otherwise the result is unknown */
	enum capability booted;     /* its vCPUs ran and the agent answered */
	enum capability executed;   /* a command ran to its end */
	const char *detail;         /* borrowed: one line */
	const char *fix;            /* borrowed or NULL */
	bool read;                  /* installed files were to be read */
	const struct error *unread; /* borrowed or NULL: why they were not */
};

int doctor_report(struct manager *m, uid_t uid, uid_t viewer, const struct doctor_probe *probe,
	json_object **ret);
