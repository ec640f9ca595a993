/* SPDX-License-Identifier: MIT */
#pragma once

/* /tmp on the machine's own disk: new at each start, the old one deleted in the background. */

#include "proto/base.h"
#include <sys/types.h>

/* Puts the tmp folder of the disk aside and makes a new one. -errno: the old one is there, or none. */
int tmp_renew(int own_fd);
/* Deletes what was put aside, in a process of its own; 0 when there is nothing. */
int tmp_delete_old(int own_fd, pid_t *ret_pid);
/* What that process does: deletes everything below the folder, whatever it is, in bounded memory. */
void tmp_empty(int fd);
