/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * pyrod.conf (contract.md section 8): INI by libinih, /etc/pyro/pyrod.conf and *.conf of conf.d in
 * order of name; in user mode in $XDG_CONFIG_HOME/pyro/. One table of keys with type and range; an
 * unknown key or a value out of range is an error that names file, line and value.
 */

#include "proto/base.h"
#include "proto/error.h"

enum accelerator { ACCELERATOR_AUTO, ACCELERATOR_KVM, ACCELERATOR_EMULATION, ACCELERATOR_MAX };
const char *accelerator_name(enum accelerator a);
int accelerator_from_name(const char *name, enum accelerator *ret);

struct config {
	enum accelerator accelerator;
	bool host_compat;
	int64_t default_ttl_seconds;                                   /* 600 */
	int64_t default_vcpu_count, default_mem_mib, default_disk_mib; /* 1, 1024, 10240 */
	int64_t retention_days;                                        /* 30 */
	int64_t max_machines;                                          /* per uid, 16 */
	int64_t max_vcpus;                   /* per uid, 0 = 4 x the host's */
	int64_t max_memory_mib;              /* per uid, 0 = half the host's */
	int64_t max_disk_mib;                /* per uid, 0 = computed by machines_user_limits() */
	int64_t total_machines, total_vcpus; /* of all uids, 0 = no limit */
	int64_t total_memory_mib;            /* 0 = three quarters of the host's */
	int64_t total_disk_mib;              /* 0 = no limit */
	int64_t memory_reserve_mib;
	int64_t disk_reserve_mib; /* free space a pull or machine must leave */
	int64_t seed_max_mib;
	int64_t output_limit_mib;
	char *kernel;     /* owned or NULL: path of a bzImage/vmlinux to use instead of the store */
	char *mirror;     /* owned or NULL: mirror for mmdebstrap if the host has none of Debian */
	char *registries; /* owned or NULL */
	int64_t pool;
	char *qemu;                 /* owned or NULL: path of qemu-system-x86_64 */
	char *firecracker, *jailer; /* owned or NULL */
	char **files; /* owned: the files read, in order, NULL-terminated; NULL: no file exists */
};

/* path NULL: the default files of the mode, which may be absent; else that file alone, which must
 * exist. */
int config_load(bool system, const char *path, struct config **ret, struct error *err);
struct config *config_free(struct config *c);
DEFINE_CLEANUP(struct config *, config_free)
