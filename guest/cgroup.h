/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Control groups (version 2) by descriptor: one per command under a common node, so that all
 * processes of a command can be killed together and their end is known. Where none can be created
 * (in an ordinary container) the agent uses process groups instead.
 */

#include "proto/base.h"

/* Creates the common node PARENT/NAME with the controllers that its groups need. *ret_fd is owned.
 * -EOPNOTSUPP without cgroup.kill. */
int cgroup_root(const char *parent, const char *name, int *ret_fd);
/* The same below the caller's own cgroup, wherever version 2 is mounted; does not change the
 * controllers of that cgroup. */
int cgroup_root_own(const char *name, int *ret_fd);

/* Returns how many processes and threads a command may have, from the kernel's limits; 0 if
 * unknown. */
uint32_t cgroup_pids_max(void);
/* Creates (or reuses) root/name and opens it. pids_max needs the pids controller; 0: no limit.
 * *ret_fd is owned. */
int cgroup_make(int root_fd, const char *name, uint32_t pids_max, int *ret_fd);
/* Opens cgroup.events, to be watched for EPOLLPRI. *ret_fd is owned. */
int cgroup_events(int fd, int *ret_fd);
/* Returns 1 while it or a subgroup has a process, else 0; -errno. */
int cgroup_populated(int events_fd);
/* True if a process in it or below was killed because the machine was out of memory, not because of
 * a limit set by the guest. */
bool cgroup_oom_killed(int fd);
/* True if a process or thread was refused because of pids_max. */
bool cgroup_pids_refused(int fd);
/* Sends SIGKILL to every process in it and below. */
int cgroup_kill(int fd);
/* Removes it with the groups that the guest created below. */
int cgroup_remove(int root_fd, const char *name);
/* Removes a common node: kills its processes, waits briefly for their end, removes it. Closes
 * fd. */
void cgroup_root_end(int fd, const char *name);
