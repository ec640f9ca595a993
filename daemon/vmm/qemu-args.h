/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * QEMU's command line for one machine, and the order of its descriptors in the launch message.
 */

#include "daemon/vmm/vmm-base.h"

/* Looked up in QEMU's data directories; in Debian's package qemu-system-data. */
#define QEMU_FIRMWARE "qboot.rom"

/* Descriptors in the order of the launch message; disks follow in the order of vmm_spec. */
enum qemu_fd {
	QEMU_FD_QMP,
	QEMU_FD_AGENT,
	QEMU_FD_CONSOLE,
	QEMU_FD_VMLINUX,
	QEMU_FD_INITRD,
	QEMU_FD_DISKS
};

/* Appends the arguments. tsc_khz: the host's TSC rate, for emulation; 0 if unknown. -EINVAL for a
 * spec that QEMU cannot run. */
int qemu_args_make(
	const struct vmm_spec *spec, const char *program, uint32_t tsc_khz, struct vmm_command *c);
