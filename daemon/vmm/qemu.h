/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The qemu driver.
 */

#include "daemon/vmm/vmm.h"

extern const struct vmm_driver vmm_driver_qemu;
