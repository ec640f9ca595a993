/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The daemon's context object: created by main.c, passed to every subsystem. Members are set before
 * the loop runs and stay until manager_free, except the configuration, which a reload replaces:
 * keep no pointer into it beyond an iteration of the loop. It holds pointers and paths only.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct accounts;
struct config;
struct environments;
struct integrity;
struct kernels;
struct launcher;
struct core;
struct machines;
struct receivers;
struct server;
struct store;
struct units;
struct writer;

struct manager {
	sd_event *event;       /* owned */
	bool system;           /* system mode; else user mode */
	char *state_dir;       /* owned; pyro.db, machines/ID/, kernels/, disks/ */
	char *runtime_dir;     /* owned; pyrod.sock, launch/launch.sock, vm/ID/ */
	char *cache_dir;       /* owned; environments */
	char *libexec_dir;     /* owned; where pyro-vmm, pyro-import and pyro-subid are */
	char *agent_path;      /* owned; the static pyro-agent that goes into the initramfs */
	char *socket_path;     /* owned; what clients connect to */
	char *config_path;     /* owned or NULL; --config */
	uint64_t started_usec; /* monotonic */
	int lock_fd;           /* owned; STATE/lock: one daemon per state directory, */
	int cache_lock_fd;     /* owned; CACHE/.lock: and one per cache */
	uid_t import_uid;      /* uid of pyro-import; 0: pyrod's own */
	gid_t import_gid;

	struct units *units;         /* owned; NULL: pyrod is not a unit, so programs are forked */
	struct accounts *accounts;   /* owned */
	struct receivers *receivers; /* owned */
	struct launcher *launcher;   /* owned */
	struct config *config;       /* owned */
	struct store *store;         /* owned */
	struct writer *writer;       /* owned */
	struct integrity *integrity; /* owned; created before its users */
	struct environments *environments; /* owned */
	struct kernels *kernels;           /* owned */
	struct core *core;                 /* owned, with the machines */
	struct machines *machines;         /* owned */
	struct server *server;             /* owned */

	/* If set, the daemon serves only system.* and every other call returns this error (a store
	 * of a newer version, an unreadable store). */
	struct error degraded;
};

/* Reads paths and configuration, opens the store, loads rows. The loop does not run yet. */
int manager_new(bool system, const char *socket_path, const char *config_path, struct manager **ret,
	struct error *err);
/* Reads the configuration again. It applies to new requests; existing machines are unchanged. On
 * failure the old configuration stays. */
int manager_reload(struct manager *m, struct error *err);
struct manager *manager_free(struct manager *m);
DEFINE_CLEANUP(struct manager *, manager_free)
