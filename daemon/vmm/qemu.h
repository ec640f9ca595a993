/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The QEMU driver.
 */

#include "daemon/vmm/vmm.h"

extern const struct vmm_driver vmm_driver_qemu;
