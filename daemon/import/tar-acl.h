/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * POSIX ACLs of a tar entry, as the extended attributes Linux keeps them in.
 */

#include "daemon/import/tree.h"

struct archive_entry;

/* Adds system.posix_acl_access and _default to the node when the entry has them. An ACL that names a
 * user or group without its number is dropped, with a line on stderr: names mean nothing before the
 * image has run. */
int tar_acl_read(struct tree *t, uint32_t node, struct archive_entry *e, struct error *err);
