/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One VMM, and the drivers behind it. Callers do not know which VMM it is.
 *
 * Lifetime: vmm_launch starts its process through pyro-vmm and returns at once. on_launched is
 * called when the process exists; it has no guest yet. vmm_boot, at any time after vmm_launch, lets
 * the guest run as soon as the VMM's control channel answers; on_started is called when the vCPUs
 * run. on_exited is called exactly once, when its process has exited, whatever happened before.
 * vmm_free before that kills the process.
 */

#include "daemon/config.h"
#include "daemon/manager.h"

enum { VMM_DRIVER_NAME = 16, VMM_UUID_TEXT = 37 };

/* How the guest finds each disk is the driver's: by its serial, or else by this order. */
enum vmm_disk_kind { VMM_DISK_ENVIRONMENT, VMM_DISK_OWN, VMM_DISK_MODULES, VMM_DISK_MAX };

struct vmm_disk {
	enum vmm_disk_kind what;
	int fd; /* borrowed: opened O_RDONLY or O_RDWR */
	bool read_only;
};

struct vmm_driver;
struct vmm_spec {
	const struct vmm_driver *driver; /* NULL: vmm_launch fails */
	const char *id;                  /* vm-... */
	uid_t owner_uid;
	uint8_t uuid[16];
	unsigned vcpu_count;
	uint64_t mem_mib;
	enum accelerator accelerator; /* KVM or EMULATION, resolved */
	int vmlinux_fd, initrd_fd;    /* borrowed */
	struct vmm_disk disks[VMM_DISK_MAX];
	size_t n_disks;
	/* RUNTIME/vm/ID, an existing 0700 directory of pyrod's, for the sockets */
	const char *run_dir;
};

struct vmm_exit {
	int status;         /* exit status, or -signal; INT_MIN if unknown */
	bool guest_ended;   /* a SHUTDOWN event caused by the guest came first */
	const char *reason; /* the VMM's last line, escaped, or NULL */
};

struct vmm;
struct vmm_callbacks {
	/* The process exists, without a guest: vmm_pid, vmm_start_time and vmm_invocation are valid.
	 * May be NULL. */
	void (*on_launched)(struct vmm *v, void *userdata);
	/* Its vCPUs run, after vmm_boot. */
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
	const struct vmm_driver *driver; /* of its row; NULL: vmm_adopt fails */
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

struct vmm_command;

/* What differs between VMMs; running.c does the rest. */
struct vmm_driver {
	const char *name;  /* kept in the rows of its machines: never changes, is never reused */
	const char *title; /* of its VMM, in messages */
	const char *execution_mode; /* contract.md section 4 */
	const char *id_option;      /* precedes the machine's uuid on the command line */
	unsigned can;               /* VMM_* */
	const char *const *sockets; /* NULL-terminated; files in run_dir, removed at its exit */
	size_t size;                /* of its object, which begins with a struct vmm */
	/* again: repeats a version query that failed; the result is unknown until it completes. */
	int (*probe)(struct manager *m, bool again, struct vmm_probe *ret);
	/* The VMM's program; *ret is owned. */
	int (*program)(struct manager *m, char **ret, struct error *err);
	/* Makes the arguments and descriptors of a launch; ret is freed also after a failure. */
	int (*command)(struct vmm *v, const struct vmm_spec *spec, struct vmm_command *ret,
		struct error *err);
	/* Connects to the control channel, before the process is launched or of one that is
	 * adopted; vmm_report_* follow, in later iterations of the loop. -errno */
	int (*connect)(struct vmm *v);
	/* Lets the guest run, once, after vmm_report_ready; vmm_report_started follows. */
	void (*boot)(struct vmm *v);
	/* vmm_report_paused, vmm_report_resumed follow. May be called again before that. */
	void (*pause)(struct vmm *v);
	void (*resume)(struct vmm *v);
	/* Asks for a new stream to the agent: vmm_report_agent follows, at once or later. -errno */
	int (*dial)(struct vmm *v);
	/* Handles what the process sent before it exited. Returns the fix (static, may be NULL) for
	 * a start that ended with that last line (may be NULL). */
	const char *(*exited)(struct vmm *v, const char *reason);
	/* Frees what the driver added to the object. */
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

/* Starts the process; no guest runs before vmm_boot. */
int vmm_launch(struct manager *m, const struct vmm_spec *spec, const struct vmm_callbacks *cb,
	void *userdata, struct vmm **ret, struct error *err);
/* Lets the guest run, now or when the VMM is ready; on_started follows, or on_failed. Does nothing
 * if the guest has been booted, also by a previous daemon. */
void vmm_boot(struct vmm *v);

/* identity.c: field 22 of /proc/PID/stat. */
int vmm_process_start_time(pid_t pid, uint64_t *ret);
/* 1: it has a VMM's uid, and the driver's option and this uuid are on its command line; 0: not so;
 * -ENODATA: there is no command line (the process is ending); -ENODEV: driver is NULL. */
int vmm_process_is(const struct vmm_driver *driver, pid_t pid, const uint8_t uuid[16]);
/* Searches all processes; 0: none. For a daemon that died between the launch and the commit of the
 * pid: the uuid is random. */
pid_t vmm_process_find(const struct vmm_driver *driver, const uint8_t uuid[16]);
void vmm_uuid_text(const uint8_t uuid[16], char ret[VMM_UUID_TEXT]);

/* Returns the unit name of a machine's VMM, used where pyrod starts units; NULL when out of
 * memory. */
char *vmm_unit(const char *id);
/* Watches a running VMM of a previous daemon; does not call on_started for a guest that runs, but
 * reports a present pause. One without a guest waits for vmm_boot; a guest that then does not run
 * is only logged. */
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
