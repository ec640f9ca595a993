/* SPDX-License-Identifier: MIT */
#pragma once

/* Nodes, owners and modes of /dev as udev gives them: those there at the start, and later ones as they appear. */

#include "guest/loop.h"

enum device_group {
	GROUP_ROOT,
	GROUP_AUDIO,
	GROUP_CDROM,
	GROUP_DIALOUT,
	GROUP_DISK,
	GROUP_INPUT,
	GROUP_KMEM,
	GROUP_KVM,
	GROUP_LP,
	GROUP_RENDER,
	GROUP_TTY,
	GROUP_UTMP, /* of no device: /run/utmp */
	GROUP_VIDEO,
	GROUP_MAX
};

struct devices {
	int uevents;             /* owned */
	uint32_t gid[GROUP_MAX]; /* by the environment's /etc/group; 0 where it has none */
	struct source source;
};
#define DEVICES_INIT \
	{ \
		.uevents = -EBADF \
	}

/* Makes the nodes that load a module when opened (modules_fd: this kernel's folder, or none), gives the
 * nodes of /dev their owners and modes, and begins to collect events. */
int devices_setup(struct devices *d, int modules_fd);
/* Follows devices that appear from now on. Once. */
int devices_watch(struct devices *d, struct loop *l);

/* Owner and mode of the node with this name below /dev; false: as the kernel says. */
bool device_rule(const char *name, bool block, enum device_group *ret_group, mode_t *ret_mode);

/* One event of the kernel's, NUL-separated. False unless a node was added. */
struct device_event {
	const char *name; /* borrowed from the event; below /dev */
	bool block;
	mode_t mode; /* the driver's; 0: none */
};
bool device_parse(const char *event, size_t n, struct device_event *ret);
