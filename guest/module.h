/* SPDX-License-Identifier: MIT */
#pragma once

/* Modules by name or alias, from depmod's text indexes of one kernel: what /sbin/modprobe does for
 * the kernel. */

#include "proto/base.h"

/* The agent keeps the disk of modules open as this descriptor: the guest's root may hide
 * /lib/modules. */
enum { MODULES_FD = 1000 };

/* Loads a file below the kernel's module directory; -EEXIST is success. name: of the module, with
 * underscores. */
typedef int (*module_load_fn)(
	int dir_fd, const char *path, const char *name, const char *options, void *userdata);

/*
 * Loads the module of this name, or those of this alias, each after its dependencies. dir_fd: the
 * kernel's module directory. Returns 0 if one was loaded, loaded before or built in; -ENOENT if
 * nothing has this name; else the error.
 */
int module_request(int dir_fd, const char *name, module_load_fn load, void *userdata);

/* One line of modules.devname. */
struct module_node {
	char name[128]; /* below /dev, without "." and ".." */
	mode_t type;    /* S_IFCHR or S_IFBLK */
	unsigned major, minor;
};
/* Calls fn for each device node that loads a module when it is opened. */
int module_nodes(
	int dir_fd, int (*fn)(const struct module_node *n, void *userdata), void *userdata);

/* Opens the directory of this kernel's modules below fd; -errno. */
int module_dir(int fd);

/* Loads name from the modules in MODULES_FD. For PID 1 only. */
int module_load(const char *name);

/* Mounts the file systems whose modules are built into the kernel. The kernel must not request
 * modules meanwhile. */
void module_mount_built_in(void);

/* Runs as `modprobe -q -- NAME` for the kernel; returns the exit status. */
int module_main(const char *name);
