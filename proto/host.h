/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Capabilities and default paths of this host, read without any library. Used by the daemon, by the
 * launcher, and by `pyro doctor` when no daemon answers.
 */

#include "base.h"
#include <sys/types.h>

struct host_kvm {
	bool exists, readable, writable;
	/* KVM_GET_API_VERSION and KVM_CREATE_VM succeeded, now or before, and the CPU has VMX or
	 * SVM. Without these KVM runs no ordinary kernel (PVM back-end) and error is EOPNOTSUPP. */
	bool usable;
	int error; /* errno of the step that failed, or 0 */
};
void host_kvm_probe(struct host_kvm *ret);

/* True if the CPU has VMX or SVM, so that KVM could work. */
bool host_cpu_virtualization(void);

/* Returns the TSC rate in kHz, measured against CLOCK_MONOTONIC_RAW over HOST_TSC_USEC and cached
 * for the process; 0 if there is no TSC. Sleeps for what is left of that time since
 * host_tsc_begin. */
#define HOST_TSC_USEC UINT64_C(25000)
void host_tsc_begin(void);
uint32_t host_tsc_khz(void);

unsigned host_cpu_count(void);
uint64_t host_memory_mib(void);
uint64_t host_memory_available_mib(void);

/* Finds an executable by name in PATH, or by path if the name has a slash; -ENOENT. *ret is
 * owned. */
int host_find_program(const char *name, char **ret);

/* Finds the first range of at least min_count ids for this uid (by number, or by its name in
 * /etc/passwd) in file, /etc/subuid or /etc/subgid; -ENOENT. */
int host_subid(
	const char *file, uid_t uid, uint64_t min_count, uint64_t *ret_start, uint64_t *ret_count);

/* The name of uid in /etc/passwd; -ENOENT. *ret is owned. */
int host_user_name(uid_t uid, char **ret);

/* The name of gid in /etc/group; -ENOENT. *ret is owned. */
int host_group_name(gid_t gid, char **ret);

/* Returns the command that gives uid count unused subordinate uids and gids; -ENOENT if it has no
 * name. */
int host_subid_command(uid_t uid, uint64_t count, char **ret);

/* Free bytes for unprivileged writers on the file system of path (absolute) or of its nearest
 * parent. */
int host_free_bytes(const char *path, uint64_t *ret);
/* The size of that file system. */
int host_total_bytes(const char *path, uint64_t *ret);

/* Free inodes there; UINT64_MAX if the file system does not count them. */
int host_free_inodes(const char *path, uint64_t *ret);

/*
 * True if the caller or root owns path and each of its parents whose path is longer than `from`
 * bytes, as far as they exist. For a symbolic link both its owner and the owner of its target
 * count.
 */
bool host_is_ours(const char *path, size_t from);

/* True if path or a parent of it is a symbolic link of another user, who could redirect it. */
bool host_has_foreign_link(const char *path);

/* The cause when a user has no usable home: it is HOME, else the one in /etc/passwd, never another
 * user's folder. */
#define HOST_NO_HOME "HOME is not the absolute path of a folder of yours, and your account has none"

/* Default paths; *ret is owned. system: those of the system daemon (socket /run/pyro/pyrod.sock).
 * Else those of uid's own daemon, with sockets in /run/user/UID/pyro, or in ~/.local/state/pyro/run
 * when /run/user/UID does not exist. */
int host_socket_path(bool system, uid_t uid, char **ret);
int host_state_dir(bool system, char **ret); /* /var/lib/pyro, ~/.local/state/pyro */
int host_runtime_dir(bool system, uid_t uid, char **ret);
int host_environment_cache(bool system, char **ret); /* PYRO_ENVIRONMENT_CACHE_DIR wins */
