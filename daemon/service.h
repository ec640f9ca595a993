/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One program of ours that runs beside pyrod and may outlive it: an instance of a unit's template where the service
 * manager started pyrod, else a child. It comes to pyrod's launch socket, is known by its process, and is handed there in
 * one message (launch-msg.h) its arguments and descriptors.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct launcher;
struct service;
struct unit_limits;
struct units;

/* Listens at RUNTIME/launch/launch.sock. units: borrowed; NULL: programs are forked. */
int launcher_new(
	sd_event *event, const char *runtime_dir, struct units *units, struct launcher **ret);
/* After all its services. Takes NULL. */
struct launcher *launcher_free(struct launcher *lr);
DEFINE_CLEANUP(struct launcher *, launcher_free)
/* 1: each unit's limits were in force so far; 0: this kernel's systemd has not the means; -ENODATA: not seen yet. */
int launcher_limits(const struct launcher *lr);

struct service_spec {
	const char *id;       /* the instance: vm-... */
	uid_t owner_uid;      /* whose it is: what is logged of it counts for that user */
	const char *template; /* "pyro-vm" */
	const char *program;  /* absolute; forked as PROGRAM ID SOCKET */
	uint32_t flags;       /* LAUNCH_* */
	const char *const *args;
	const int *
		fds; /* borrowed, duplicated; fds[0] is also a child's stdout and stderr from its beginning */
	size_t n_fds;
	const struct unit_limits *limits; /* borrowed; NULL: the unit's own */
	bool pid_namespace;               /* of a child: one of its own, where it can be had */
};

struct service_callbacks {
	/* Its process is known: pid, start time or invocation. It has not been handed anything yet. May be NULL. */
	void (*on_known)(struct service *s, void *userdata);
	/* A packet on its connection, before it closes that by exec. May be NULL. */
	void (*on_reply)(struct service *s, const char *p, size_t n, void *userdata);
	/* Exactly once. status: exit status, -signal, or INT_MIN: not known. err: it never came to run, or NULL;
	 * borrowed. The service may be freed from here. */
	void (*on_exited)(struct service *s, int status, const struct error *err, void *userdata);
};

int service_start(struct launcher *lr, const struct service_spec *spec,
	const struct service_callbacks *cb, void *userdata, struct service **ret,
	struct error *err);

/* A process that an earlier daemon started, and that the caller has verified by its pidfd. */
struct service_adoption {
	const char *id, *template;
	uid_t owner_uid;
	pid_t pid;
	uint64_t start_time;    /* of a child */
	const char *invocation; /* of a unit; "" for a child */
	int pidfd;              /* taken over on success */
};
int service_adopt(struct launcher *lr, const struct service_adoption *a,
	const struct service_callbacks *cb, void *userdata, struct service **ret);

/* SIGKILL by pidfd, or by the unit's end; on_exited follows. */
void service_kill(struct service *s);
pid_t service_pid(const struct service *s);
uint64_t service_start_time(const struct service *s); /* field 22 of /proc/PID/stat; 0 of a unit */
const char *service_invocation(const struct service *s); /* "" of a child */
/* Frees it and lets the process run on. Takes NULL. */
struct service *service_detach(struct service *s);
/* Kills what still runs, and has it collected by the loop; no callback comes any more. Takes NULL. */
struct service *service_free(struct service *s);
DEFINE_CLEANUP(struct service *, service_free)
