/* SPDX-License-Identifier: MIT */
#pragma once

/* The steps of PID 1 before the host connects, and helpers shared with SETUP and the shutdown. */

#include "proto/base.h"

/* Sets up /proc, /sys, /dev, the console on 0-2 and the agent's own limits. *ret_what (owned) names
 * the failed step. */
int init_system(char **ret_what);
/* Disks by serial: reading a serial is a request to the host, so each is read once. */
struct disks {
	struct {
		char name[32], serial[32]; /* "vda" */
	} v[16];
	size_t n;
};
/* Loads the modules of /modules/order, then mounts the environment read-only at /env. */
int init_environment(struct disks *d, char **ret_what);
/* Opens the agent's port by name, non-blocking; waits for it with a deadline. */
int init_port(int *ret_fd, char **ret_what);

/* Calls file_dir and mount; *ret_what is "mount DST". */
int init_mount(const char *src, const char *dst, const char *type, unsigned long flags,
	const char *data, char **ret_what);
/* Finds the disk with this serial, "/dev/vdX", owned; waits up to wait_usec for it to appear.
 * -ENODEV. */
int init_disk(struct disks *d, const char *serial, uint64_t wait_usec, char **ret);
/* Returns a socket that receives the kernel's device events, owned; -errno. */
int init_uevents(void);
