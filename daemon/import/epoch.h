/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The date of a tree of installed packages: that of their newest changelog. It makes images
 * reproducible as SOURCE_DATE_EPOCH does builds.
 */

#include "daemon/import/tree.h"

/*
 * Sets the date of each file that is later than that date, and was therefore made by the
 * installation. A tree without a changelog is not changed. Returns 0 or -ENOMEM.
 */
int epoch_apply(struct tree *t);
