/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The fake VMM of test builds (tests/fake), as a driver of its own: it has no KVM, other words on
 * its command line, and speaks QMP. So test builds have two drivers to choose from.
 */

#include "daemon/vmm/vmm.h"

extern const struct vmm_driver vmm_driver_fake;
