/* SPDX-License-Identifier: MIT */
#pragma once

/* /tmp on the machine's own disk: new at each start; the old one is deleted in the background. */

#include "proto/base.h"
#include <sys/types.h>

/* Moves the tmp directory of the disk aside and creates a new one. On failure (-errno) the old one
 * or none exists. */
int tmp_renew(int own_fd);
/* Starts a process that deletes the old directories; returns 0 if there are none. */
int tmp_delete_old(int own_fd, pid_t *ret_pid);
/* The work of that process: deletes everything below the directory, in bounded memory. */
void tmp_empty(int fd);
