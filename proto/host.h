/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What this host can do, read without any library: asked by the daemon, by `pyro doctor` when no
 * daemon answers, and by the launcher.
 */

#include "base.h"
#include <sys/types.h>

struct host_kvm {
	bool exists, readable, writable;
	/* KVM_GET_API_VERSION answered, the CPU has VMX or SVM (without these KVM runs no ordinary
	 * kernel: PVM back-end, error is EOPNOTSUPP then), and KVM_CREATE_VM answered, now or before. */
	bool usable;
	int error; /* errno of the step that failed, 0 */
};
void host_kvm_probe(struct host_kvm *ret);

/* True if the CPU has VMX or SVM (so that KVM would be worth having). */
bool host_cpu_virtualization(void);

/* The TSC rate in kHz, measured against CLOCK_MONOTONIC_RAW over HOST_TSC_USEC, cached for the process; 0: there is
 * none. Waits for what is left of that time since host_tsc_begin. */
#define HOST_TSC_USEC UINT64_C(25000)
void host_tsc_begin(void);
uint32_t host_tsc_khz(void);

unsigned host_cpu_count(void);
uint64_t host_memory_mib(void);
uint64_t host_memory_available_mib(void);

/* An executable by name in PATH, or the path itself when it has a slash; -ENOENT. *ret is owned. */
int host_find_program(const char *name, char **ret);

/* The first range of at least min_count ids for this uid (by number, or by its name in /etc/passwd)
 * in file, /etc/subuid or /etc/subgid; -ENOENT. */
int host_subid(
	const char *file, uid_t uid, uint64_t min_count, uint64_t *ret_start, uint64_t *ret_count);

/* The name of uid in /etc/passwd; -ENOENT. *ret is owned. */
int host_user_name(uid_t uid, char **ret);

/* The name of gid in /etc/group; -ENOENT. *ret is owned. */
int host_group_name(gid_t gid, char **ret);

/* The command that gives uid count subordinate uids and gids nobody has; -ENOENT: it has no name. */
int host_subid_command(uid_t uid, uint64_t count, char **ret);

/* Free bytes for unprivileged writers of the file system that holds path (absolute; or its nearest
 * parent). */
int host_free_bytes(const char *path, uint64_t *ret);
/* How large that file system is. */
int host_total_bytes(const char *path, uint64_t *ret);

/* The same for free inodes; UINT64_MAX where the file system does not count them. */
int host_free_inodes(const char *path, uint64_t *ret);

/*
 * True if the folder path and those on the way to it that are longer than `from` bytes belong to the caller or to root, as
 * far as they exist. Symbolic links count with their owner and with what they lead to.
 */
bool host_is_ours(const char *path, size_t from);

/* True if a symbolic link on the way to path, or path itself, is one of another user's, who may let it lead elsewhere. */
bool host_has_foreign_link(const char *path);

/* Why a user has no place of their own: home is HOME, else what /etc/passwd says, and never a folder of another user's. */
#define HOST_NO_HOME "HOME is not the absolute path of a folder of yours, and your account has none"

/* Default places; *ret is owned. system: those of the system's daemon (the socket is /run/pyro/pyrod.sock). Else those of uid's
 * own daemon: its sockets are in /run/user/UID/pyro, or in ~/.local/state/pyro/run when /run/user/UID does not exist. */
int host_socket_path(bool system, uid_t uid, char **ret);
int host_state_dir(bool system, char **ret); /* /var/lib/pyro, ~/.local/state/pyro */
int host_runtime_dir(bool system, uid_t uid, char **ret);
int host_environment_cache(bool system, char **ret); /* PYRO_ENVIRONMENT_CACHE_DIR wins */
