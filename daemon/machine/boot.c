/* SPDX-License-Identifier: MIT */
/*
 * What a machine needs until it is started: the opened image, disk and kernel, and the pending
 * checks and packing. Made by the step "boot", freed when all steps are done or it is undone.
 */

#include "daemon/machine/machine-internal.h"

int machine_boot_new(struct machine *mc)
{
	machine_boot_free(mc);
	mc->boot = calloc(1, sizeof(*mc->boot));
	if (!mc->boot)
		return -ENOMEM;
	mc->boot->image_fd = mc->boot->own_fd = -EBADF;
	mc->boot->kernel = (struct kernel_files)KERNEL_FILES_INIT;
	return 0;
}

void machine_forget_images(struct machine *mc)
{
	struct manager *m = mc->machines->m;
	struct boot *b = mc->boot;

	if (!b)
		return;
	if (b->kernel_awaited)
		kernels_forget(m->kernels, mc);
	b->kernel_awaited = false;
	if (b->checks > 0)
		integrity_forget(m->integrity, mc);
	b->checks = 0;
	b->image_fd = fd_close(b->image_fd);
	b->own_fd = fd_close(b->own_fd);
	kernel_files_done(&b->kernel);
	b->kernel = (struct kernel_files)KERNEL_FILES_INIT;
}

void machine_boot_free(struct machine *mc)
{
	machine_forget_images(mc);
	free(mc->boot);
	mc->boot = NULL;
}
