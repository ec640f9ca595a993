/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One running VMM as the rest of the daemon sees it, and the drivers behind it. Above this nobody knows
 * which VMM it is.
 *
 * Life: vmm_start launches it through pyro-vmm and returns at once; on_started when its control socket
 * answers and the vCPUs run (the agent's stream may be dialled from then on), on_exited exactly once
 * when its process is gone, whatever happened before. vmm_free before that kills it.
 */

#include "daemon/config.h"
#include "daemon/manager.h"

enum { VMM_DISKS_MAX = 4 };

struct vmm_disk {
	const char *serial; /* borrowed: DISK_SERIAL_* */
	int fd;             /* borrowed: opened O_RDONLY or O_RDWR */
	bool read_only;
};

struct vmm_spec {
	const char *id; /* vm-... */
	uid_t owner_uid;
	uint8_t uuid[16];
	unsigned vcpu_count;
	uint64_t mem_mib;
	enum accelerator accelerator; /* KVM or EMULATION, resolved */
	int vmlinux_fd, initrd_fd;    /* borrowed */
	struct vmm_disk disks[VMM_DISKS_MAX];
	size_t n_disks;
	const char *run_dir; /* RUNTIME/vm/ID, exists, ours, 0700: sockets go there */
};

struct vmm_exit {
	int status;         /* exit status, or -signal; INT_MIN: not known */
	bool guest_ended;   /* a SHUTDOWN event of the guest's own came first */
	const char *reason; /* one line: QEMU's last words, escaped; or NULL */
};

struct vmm;
struct vmm_callbacks {
	/* Its process is known: vmm_pid and its kin say which. May be NULL. */
	void (*on_launched)(struct vmm *v, void *userdata);
	void (*on_started)(struct vmm *v, void *userdata);
	/* The VMM could not be brought up; on_exited follows. */
	void (*on_failed)(struct vmm *v, const struct error *err, void *userdata);
	void (*on_exited)(struct vmm *v, const struct vmm_exit *e, void *userdata);
	/* The vCPUs stand still: after vmm_pause, or because a write to a disk failed. reason: "disk_full" or
	 * "disk_error". May be NULL. */
	void (*on_paused)(struct vmm *v, const char *reason, void *userdata);
	/* They go on after vmm_resume. May be NULL. */
	void (*on_resumed)(struct vmm *v, void *userdata);
};

/* What the probe tells doctor and `auto`. */
struct vmm_probe {
	char name[16];
	char *path;    /* owned or NULL */
	char *version; /* owned or NULL */
	bool usable;
	char *reason; /* owned or NULL: why not */
	char *fix;    /* owned or NULL */
};
void vmm_probe_done(struct vmm_probe *p);

/* A VMM that an earlier daemon started and that still runs. */
struct vmm_adoption {
	const char *id;
	uid_t owner_uid;
	pid_t pid;
	uint64_t start_time;
	const char *invocation; /* of its unit, or "" */
	int pidfd;              /* taken over on success: of the process that has been verified */
	const char *run_dir;
};

struct vmm_driver {
	const char *name;
	/* again: what failed to say its version is asked once more, and is not known until it has answered. */
	int (*probe)(struct manager *m, bool again, struct vmm_probe *ret);
	int (*program)(struct manager *m, char **ret);
	int (*start)(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
		void *userdata, struct vmm **ret, struct error *err);
	int (*adopt)(struct manager *m, const struct vmm_adoption *a,
		const struct vmm_callbacks *cb, void *userdata, struct vmm **ret,
		struct error *err);
	void (*detach)(struct vmm *v);
	int (*connect)(struct vmm *v); /* a new connection to the agent's stream: fd, -errno */
	void (*pause)(struct vmm *v);
	void (*resume)(struct vmm *v);
	void (*stop)(struct vmm *v);
	void (*free)(struct vmm *v);
};

extern const struct vmm_driver
	*const vmm_drivers[]; /* NULL-terminated; the first usable is the default */

/* Which accelerator `want` comes to on this host now; vm_unavailable with the fix when it cannot be had. ret_reason
 * (static, may be NULL): why emulation was taken. */
int vmm_resolve_accelerator(
	enum accelerator want, enum accelerator *ret, const char **ret_reason, struct error *err);

/* The program that the next machine's VMM is; *ret is owned. -ENOENT: there is none. */
int vmm_program(struct manager *m, char **ret);
int vmm_start(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err);
/* The name of the unit that a machine's VMM is, where pyrod starts units; NULL when out of memory. */
char *vmm_unit(const char *id);
/* Takes over the watch of a VMM that runs; on_started does not come, a pause of its own is told. */
int vmm_adopt(struct manager *m, const struct vmm_adoption *a, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err);
/* Frees the object and leaves the VMM running, with its sockets, for the next daemon. Takes NULL. */
struct vmm *vmm_detach(struct vmm *v);
/* Dials the agent's stream: an owned non-blocking fd, or -errno. */
int vmm_connect(struct vmm *v);
/* Stops the vCPUs for want of space on the host; on_paused follows when what they have begun to write is written, which may
 * take seconds. Does nothing while that is under way. */
void vmm_pause(struct vmm *v);
/* Lets vCPUs go on that were paused; on_resumed follows, or on_paused again. */
void vmm_resume(struct vmm *v);
/* Ends the process now (its guest's disks are not needed, or the guest has said BYE): SIGKILL; on_exited follows. */
void vmm_stop(struct vmm *v);
pid_t vmm_pid(const struct vmm *v); /* 0 before on_launched */
uint64_t vmm_start_time(
	const struct vmm *v); /* field 22 of /proc/PID/stat: with pid it names the process */
const char *vmm_invocation(const struct vmm
		*v); /* of its unit: names the process as pid and start time do; "" of a child */
const char *vmm_execution_mode(const struct vmm *v); /* "guest_serial" */
/* "QEMU 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", or "the VMM" when it has not said. */
const char *vmm_version(const struct vmm *v);
/* Whether anything came from the guest since this object is there: on its console, or at its agent's port. */
bool vmm_guest_seen(const struct vmm *v);
/* The end of the guest's console as lines of printable text; *ret is owned. */
int vmm_console_tail(struct vmm *v, size_t max, char **ret);
/* What in it tells why the guest ended, as one short line; *ret is owned, NULL when it is empty. */
int vmm_console_cause(struct vmm *v, char **ret);
/* Kills and waits for nothing; no callback comes any more. Takes NULL. */
struct vmm *vmm_free(struct vmm *v);
