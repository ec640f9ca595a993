/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The QEMU driver.
 */

#include "daemon/vmm/vmm.h"

extern const struct vmm_driver vmm_driver_qemu;
#ifdef PYRO_CRASH_POINTS
/* Test builds only: the fake VMM, which also speaks QMP, as a driver of its own. It starts the same
 * program, but has no KVM and a uuid option of its own. So test builds have two drivers to choose
 * from. */
extern const struct vmm_driver vmm_driver_fake;
#endif
