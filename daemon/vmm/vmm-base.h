/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The first member of every driver's object. Only vmm.c and the drivers include this.
 */

#include "daemon/vmm/vmm.h"

enum { VMM_VERSION = 160 };

struct console;
struct launch;

struct vmm {
	const struct vmm_driver *driver;
	uid_t owner_uid;           /* its log lines count against this user's limit */
	struct launch *launch;     /* owned by the driver's object */
	struct console *console;   /* owned by the driver's object */
	char version[VMM_VERSION]; /* name and version, escaped; "" until known */
	bool agent_seen;           /* the guest has opened the agent's port */
};
