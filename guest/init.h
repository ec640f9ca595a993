/* SPDX-License-Identifier: MIT */
#pragma once

/* What PID 1 does before anybody speaks to it, and the few system calls SETUP and the end share
 * with it. */

#include "proto/base.h"

/* /proc, /sys, /dev, console on 0-2, this process's own limits. *ret_what (owned) names the failed
 * step. */
int init_system(char **ret_what);
/* Disks by serial: asking one for its serial is a request to the host, so each is asked once. */
struct disks {
	struct {
		char name[32], serial[32]; /* "vda" */
	} v[16];
	size_t n;
};
/* The modules of /modules/order, then the environment, read-only, at /env. */
int init_environment(struct disks *d, char **ret_what);
/* The agent's port by name, non-blocking; waits a bounded time for it. */
int init_port(int *ret_fd, char **ret_what);

/* file_dir + mount; *ret_what says "mount DST". */
int init_mount(const char *src, const char *dst, const char *type, unsigned long flags,
	const char *data, char **ret_what);
/* The disk with this serial, "/dev/vdX", owned; waits up to wait_usec for it to appear. -ENODEV. */
int init_disk(struct disks *d, const char *serial, uint64_t wait_usec, char **ret);
/* A socket that receives the kernel's device events; owned. -errno. */
int init_uevents(void);
