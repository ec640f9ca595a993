/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * POSIX ACLs of a tar entry, as extended attributes of Linux.
 */

#include "daemon/import/tree.h"

struct archive_entry;

/*
 * Adds system.posix_acl_access and _default to the node when the entry has them. An ACL that names
 * a user or group without its number is dropped, with a line on stderr: the image's names are not
 * known here.
 */
int tar_acl_read(struct tree *t, uint32_t node, struct archive_entry *e, struct error *err);
