/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What every driver's object begins with. Only vmm.c and the drivers include this.
 */

#include "daemon/vmm/vmm.h"

enum { VMM_VERSION = 160 };

struct console;
struct launch;

struct vmm {
	const struct vmm_driver *driver;
	const char *execution_mode; /* static */
	uid_t owner_uid;            /* what is logged of it counts for that user */
	struct launch *launch;      /* owned by the driver's object */
	struct console *console;    /* owned by the driver's object */
	char version[VMM_VERSION];  /* its name and version, escaped; "" while it has not said */
	bool agent_seen;            /* the guest has opened its agent's port */
};
