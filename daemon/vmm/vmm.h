/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One running VMM, and the drivers behind it. Callers do not know which VMM it is.
 *
 * Lifetime: vmm_start launches it through pyro-vmm and returns at once. on_started is called when
 * its control socket answers and the vCPUs run; from then on vmm_connect may be called. on_exited
 * is called exactly once, when its process has exited, whatever happened before. vmm_free before
 * that kills the process.
 */

#include "daemon/config.h"
#include "daemon/manager.h"

enum { VMM_DISKS_MAX = 4, VMM_DRIVER_NAME = 16, VMM_UUID_TEXT = 37 };

struct vmm_disk {
	const char *serial; /* borrowed: DISK_SERIAL_* */
	int fd;             /* borrowed: opened O_RDONLY or O_RDWR */
	bool read_only;
};

struct vmm_spec {
	const char *driver; /* vmm_choose has named it */
	const char *id;     /* vm-... */
	uid_t owner_uid;
	uint8_t uuid[16];
	unsigned vcpu_count;
	uint64_t mem_mib;
	enum accelerator accelerator; /* KVM or EMULATION, resolved */
	int vmlinux_fd, initrd_fd;    /* borrowed */
	struct vmm_disk disks[VMM_DISKS_MAX];
	size_t n_disks;
	/* RUNTIME/vm/ID, an existing 0700 directory of pyrod's, for the sockets */
	const char *run_dir;
};

struct vmm_exit {
	int status;         /* exit status, or -signal; INT_MIN if unknown */
	bool guest_ended;   /* a SHUTDOWN event caused by the guest came first */
	const char *reason; /* QEMU's last line, escaped, or NULL */
};

struct vmm;
struct vmm_callbacks {
	/* The process exists: vmm_pid, vmm_start_time and vmm_invocation are valid. May be NULL. */
	void (*on_launched)(struct vmm *v, void *userdata);
	void (*on_started)(struct vmm *v, void *userdata);
	/* The VMM could not be started; on_exited follows. */
	void (*on_failed)(struct vmm *v, const struct error *err, void *userdata);
	void (*on_exited)(struct vmm *v, const struct vmm_exit *e, void *userdata);
	/* The vCPUs are paused, after vmm_pause or because a write to a disk failed. reason:
	 * "disk_full" or "disk_error". May be NULL. */
	void (*on_paused)(struct vmm *v, const char *reason, void *userdata);
	/* The vCPUs run again after vmm_resume. May be NULL. */
	void (*on_resumed)(struct vmm *v, void *userdata);
	/* A stream to the guest's agent: fd is a non-blocking socket, owned by the callee. Called
	 * by vmm_dial or after it, or when the guest has dialled by itself. The owner must not free
	 * v in it. */
	void (*on_agent)(struct vmm *v, int fd, void *userdata);
};

/* The result of a probe, for doctor and accelerator=auto. */
struct vmm_probe {
	char *path;    /* owned or NULL */
	char *version; /* owned or NULL */
	bool usable;
	char *reason; /* owned or NULL: why it is not usable */
	char *fix;    /* owned or NULL */
};
void vmm_probe_done(struct vmm_probe *p);

/* A running VMM that a previous daemon started. */
struct vmm_adoption {
	const char *driver; /* of its row */
	const char *id;
	uid_t owner_uid;
	pid_t pid;
	uint64_t start_time;
	const char *invocation; /* invocation id of its unit, or "" */
	int pidfd;              /* of the verified process; owned by the VMM on success */
	const char *run_dir;
};

/* Capabilities of a driver. */
enum {
	VMM_KVM = 1 << 0,
	VMM_EMULATION = 1 << 1,
};

struct vmm_driver {
	const char *name; /* kept in the rows of its machines: never changes, is never reused */
	const char *execution_mode; /* contract.md section 4 */
	const char *id_option;      /* precedes the machine's uuid on the command line */
	unsigned can;               /* VMM_* */
	/* again: repeats a version query that failed; the result is unknown until it completes. */
	int (*probe)(struct manager *m, bool again, struct vmm_probe *ret);
	int (*program)(struct manager *m, char **ret);
	int (*start)(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
		void *userdata, struct vmm **ret, struct error *err);
	int (*adopt)(struct manager *m, const struct vmm_adoption *a,
		const struct vmm_callbacks *cb, void *userdata, struct vmm **ret,
		struct error *err);
	void (*detach)(struct vmm *v);
	/* Asks for a new stream to the agent: calls on_agent, at once or later. -errno */
	int (*dial)(struct vmm *v);
	void (*pause)(struct vmm *v);
	void (*resume)(struct vmm *v);
	void (*stop)(struct vmm *v);
	void (*free)(struct vmm *v);
};

/* NULL-terminated, in order of preference. */
extern const struct vmm_driver *const vmm_drivers[];
/* Returns NULL if this pyrod has no driver of that name. */
const struct vmm_driver *vmm_driver_find(const char *name);

/* Resolves `want` to an accelerator on this host now; vm_unavailable with the fix if it is not
 * available. ret_reason (static, may be NULL): why emulation was chosen. */
int vmm_resolve_accelerator(
	enum accelerator want, enum accelerator *ret, const char **ret_reason, struct error *err);

struct vmm_choice {
	const char *driver;           /* static: its name */
	enum accelerator accelerator; /* KVM or EMULATION */
	const char *reason;           /* static: why emulation was chosen; NULL with KVM */
};
/* Chooses for the next machine: the accelerator as above, and the first usable driver with it. */
int vmm_choose(struct manager *m, enum accelerator want, struct vmm_choice *ret, struct error *err);

/* Returns the program of the next machine's VMM with that accelerator; *ret is owned. -ENOENT if
 * there is none. */
int vmm_program(struct manager *m, enum accelerator a, char **ret);
int vmm_start(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err);

/* identity.c: field 22 of /proc/PID/stat. */
int vmm_process_start_time(pid_t pid, uint64_t *ret);
/* 1: the driver's option and this uuid are on the command line; 0: they are not; -ENODATA: there is
 * no command line (the process is ending); -ENODEV: there is no such driver. */
int vmm_process_is(const char *driver, pid_t pid, const uint8_t uuid[16]);
/* Searches all processes; 0: none. For a daemon that died between the launch and the commit of the
 * pid: the uuid is random. */
pid_t vmm_process_find(const char *driver, const uint8_t uuid[16]);
void vmm_uuid_text(const uint8_t uuid[16], char ret[VMM_UUID_TEXT]);

/* Returns the unit name of a machine's VMM, used where pyrod starts units; NULL when out of
 * memory. */
char *vmm_unit(const char *id);
/* Watches a running VMM of a previous daemon; does not call on_started, but reports a present
 * pause. */
int vmm_adopt(struct manager *m, const struct vmm_adoption *a, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err);
/* Frees the object and leaves the VMM and its sockets to the next daemon. Accepts NULL. */
struct vmm *vmm_detach(struct vmm *v);
/* Asks for a new stream to the guest's agent; on_agent is called, at once or later. -errno if there
 * can be none now. */
int vmm_dial(struct vmm *v);
/* Pauses the vCPUs for lack of space on the host; on_paused follows when their pending writes are
 * complete, which may take seconds. Does nothing if a pause is pending. */
void vmm_pause(struct vmm *v);
/* Resumes paused vCPUs; on_resumed follows, or on_paused again. */
void vmm_resume(struct vmm *v);
/* Kills the process (SIGKILL), when its guest has sent BYE or its disks are not needed; on_exited
 * follows. */
void vmm_stop(struct vmm *v);
pid_t vmm_pid(const struct vmm *v); /* 0 before on_launched */
/* Field 22 of /proc/PID/stat: with the pid it identifies the process. */
uint64_t vmm_start_time(const struct vmm *v);
/* The invocation id of its unit, which identifies the process too; "" for a child. */
const char *vmm_invocation(const struct vmm *v);
const char *vmm_execution_mode(const struct vmm *v); /* "guest_serial" */
/* "QEMU 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", or "the VMM" while unknown. */
const char *vmm_version(const struct vmm *v);
/* True if the guest has written to its console or opened the agent's port since this object
 * exists. */
bool vmm_guest_seen(const struct vmm *v);
/* Returns the last output of the guest's console as lines of printable text; *ret is owned. */
int vmm_console_tail(struct vmm *v, size_t max, char **ret);
/* Returns why the guest ended according to its console, as one short line; *ret is owned, NULL
 * without any output. */
int vmm_console_cause(struct vmm *v, char **ret);
/* Frees the object and kills the process without waiting; calls no callback. Accepts NULL. */
struct vmm *vmm_free(struct vmm *v);
