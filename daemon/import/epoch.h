/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The date of a tree that packages were installed into: that of their newest changelog, which does for it what
 * SOURCE_DATE_EPOCH does for a build.
 */

#include "daemon/import/tree.h"

/* Gives what is later than that date, so was made by the installation, that date. A tree without a changelog stays as it
 * is. -ENOMEM. */
int epoch_apply(struct tree *t);
