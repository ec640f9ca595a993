/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Control groups of version 2, by descriptor: one per command under a common node, so that
 * everything a command started can be killed at once and counted as gone. Where none can be made
 * (an ordinary container) the agent runs without and falls back on process groups.
 */

#include "proto/base.h"

/* The common node: mkdir PARENT/NAME, with the controllers that its groups need. *ret_fd is owned. -EOPNOTSUPP without
 * cgroup.kill. */
int cgroup_root(const char *parent, const char *name, int *ret_fd);
/* The same below the calling process's own cgroup, wherever version 2 is mounted; that one's controllers stay as they
 * are. */
int cgroup_root_own(const char *name, int *ret_fd);

/* How many processes and threads a command may have, by the kernel's own limits; 0: not known. */
uint32_t cgroup_pids_max(void);
/* Makes (or reuses) root/name and opens it. pids_max holds where the pids controller is; 0: none. *ret_fd is owned. */
int cgroup_make(int root_fd, const char *name, uint32_t pids_max, int *ret_fd);
/* Opens cgroup.events, to be watched for EPOLLPRI. *ret_fd is owned. */
int cgroup_events(int fd, int *ret_fd);
/* 1 while a process is in it or below, else 0; -errno. */
int cgroup_populated(int events_fd);
/* A process in it or below was killed because the machine was out of memory, not because of a limit that the guest set. */
bool cgroup_oom_killed(int fd);
/* pids_max was reached and a process or thread refused. */
bool cgroup_pids_refused(int fd);
/* SIGKILL to every process in it and below. */
int cgroup_kill(int fd);
/* Removes it with whatever groups the guest made below. */
int cgroup_remove(int root_fd, const char *name);
/* Ends a common node: kills what is in it, waits a moment for that, removes it. Closes fd. */
void cgroup_root_end(int fd, const char *name);
