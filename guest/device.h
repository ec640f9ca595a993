/* SPDX-License-Identifier: MIT */
#pragma once

/* Gives the nodes of /dev their owners and modes, as udev does: those present at the start, and
 * later ones as they appear. */

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
	GROUP_UTMP, /* not of a device: for /run/utmp */
	GROUP_VIDEO,
	GROUP_MAX
};

struct devices {
	int uevents;             /* owned */
	uint32_t gid[GROUP_MAX]; /* from the environment's /etc/group; 0 if absent */
	struct source source;
};
#define DEVICES_INIT \
	{ \
		.uevents = -EBADF \
	}

/* Creates the nodes that load a module when opened (modules_fd: this kernel's module directory, or
 * negative), sets owners and modes of the nodes of /dev, and starts to collect events. */
int devices_setup(struct devices *d, int modules_fd);
/* Handles devices that appear from now on. Call once. */
int devices_watch(struct devices *d, struct loop *l);

/* Returns group and mode of the node with this name below /dev; false if the kernel's apply. */
bool device_rule(const char *name, bool block, enum device_group *ret_group, mode_t *ret_mode);

/* Parses an event of the kernel, NUL-separated. Returns false unless a node was added. */
struct device_event {
	const char *name; /* borrowed from the event; below /dev */
	bool block;
	mode_t mode; /* the driver's; 0: none */
};
bool device_parse(const char *event, size_t n, struct device_event *ret);
