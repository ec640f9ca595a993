/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Where a guest kernel comes from: Debian's cloud kernel package through apt (downloaded, never
 * installed), or a kernel of this host.
 */

#include "proto/base.h"
#include "proto/error.h"

/*
 * Downloads the package of the current cloud kernel into the folder work. Tries the host's package
 * lists, then fresh private lists of the host's sources, then of mirror (may be NULL). *ret_deb is the
 * path of the package and *ret_package its name, owned by the caller.
 */
int kernel_source_download(const char *work, const char *mirror, char **ret_deb, char **ret_package,
	struct error *err);

/* The newest readable /boot/vmlinuz-VERSION that has its /lib/modules/VERSION. -ENOENT when there is none. */
int kernel_source_boot(char **ret_path, char **ret_modules);
