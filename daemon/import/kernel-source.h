/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The sources of a guest kernel: Debian's cloud kernel package through apt (downloaded, never
 * installed), or a kernel of this host.
 */

#include "proto/base.h"
#include "proto/error.h"

/*
 * Downloads the package of the current cloud kernel into the folder work. Tries the host's package
 * lists, then fresh private lists of the host's sources, then of mirror (may be NULL). *ret_deb is
 * the path of the package and *ret_package its name, owned by the caller.
 */
int kernel_source_download(const char *work, const char *mirror, char **ret_deb, char **ret_package,
	struct error *err);

/* Finds the newest readable /boot/vmlinuz-VERSION with a /lib/modules/VERSION; -ENOENT: none. */
int kernel_source_boot(char **ret_path, char **ret_modules);
