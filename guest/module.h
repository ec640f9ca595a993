/* SPDX-License-Identifier: MIT */
#pragma once

/* Modules by name or alias, from depmod's text indexes of one kernel: what /sbin/modprobe does for the kernel. */

#include "proto/base.h"

/* The agent holds the disk of modules open at this number: a guest's root may hide /lib/modules. */
enum { MODULES_FD = 1000 };

/* Loads one file below the kernel's folder; -EEXIST is success. name is the module's, with underscores. */
typedef int (*module_load_fn)(
	int dir_fd, const char *path, const char *name, const char *options, void *userdata);

/*
 * Loads what name stands for, a module or an alias of several, each behind what it depends on. dir_fd: the
 * folder of the kernel's modules. 0 when something was loaded, was there before or is built in; -ENOENT when
 * nothing has this name, else why nothing was loaded.
 */
int module_request(int dir_fd, const char *name, module_load_fn load, void *userdata);

/* One line of modules.devname. */
struct module_node {
	char name[128]; /* below /dev, plain components */
	mode_t type;    /* S_IFCHR or S_IFBLK */
	unsigned major, minor;
};
/* Calls fn for each device node that loads a module when it is opened. */
int module_nodes(
	int dir_fd, int (*fn)(const struct module_node *n, void *userdata), void *userdata);

/* The folder of this kernel's modules below fd. -errno. */
int module_dir(int fd);

/* Loads name from the modules that are open as MODULES_FD. Only for PID 1. */
int module_load(const char *name);

/* Mounts the file systems that come with modules where the kernel has those built in. It must not ask for modules meanwhile. */
void module_mount_built_in(void);

/* The program that the kernel calls as `modprobe -q -- NAME`; its exit status. */
int module_main(const char *name);
