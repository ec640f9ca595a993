/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The QEMU driver.
 */

#include "daemon/vmm/vmm.h"

extern const struct vmm_driver vmm_driver_qemu;
#ifdef PYRO_CRASH_POINTS
/* The fake VMM of tests, which speaks QMP too, as a driver of its own: with the same program, but without KVM, and known by
 * another option. So that a build of tests has two drivers to choose from. */
extern const struct vmm_driver vmm_driver_fake;
#endif
