/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A program of pyro that runs beside pyrod and may outlive it: an instance of a template unit if
 * pyrod is a unit, else a child. It connects to pyrod's launch socket, is identified by its
 * process, and receives its arguments and descriptors in one message (launch-msg.h).
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
/* Call after all its services are freed. Accepts NULL. */
struct launcher *launcher_free(struct launcher *lr);
DEFINE_CLEANUP(struct launcher *, launcher_free)
/* Returns 1 if the limits of the last unit are enforced, 0 if the kernel lacks a controller,
 * -ENODATA if no unit was started yet. */
int launcher_limits(const struct launcher *lr);

struct service_spec {
	const char *id;       /* the instance: vm-... */
	uid_t owner_uid;      /* its owner, whose log limit its messages count against */
	const char *template; /* "pyro-vm" */
	const char *program;  /* absolute; forked as PROGRAM ID SOCKET */
	uint32_t flags;       /* LAUNCH_* */
	const char *const *args;
	const int *fds; /* borrowed, duplicated; fds[0] is also a child's stdout and stderr */
	size_t n_fds;
	const struct unit_limits *limits; /* borrowed; NULL: those of the unit file */
	bool pid_namespace;               /* for a child: a new one, if possible */
};

struct service_callbacks {
	/* Its process is known (pid, start time or invocation) and has not received the message
	 * yet. May be NULL. */
	void (*on_known)(struct service *s, void *userdata);
	/* It sent a packet, before exec closes its connection. May be NULL. */
	void (*on_reply)(struct service *s, const char *p, size_t n, void *userdata);
	/* Called exactly once. status: exit status, -signal, or INT_MIN if unknown. err: why it
	 * never ran, or NULL; borrowed. May free the service. */
	void (*on_exited)(struct service *s, int status, const struct error *err, void *userdata);
};

int service_start(struct launcher *lr, const struct service_spec *spec,
	const struct service_callbacks *cb, void *userdata, struct service **ret,
	struct error *err);

/* A process that a previous daemon started and that the caller has verified by its pidfd. */
struct service_adoption {
	const char *id, *template;
	uid_t owner_uid;
	pid_t pid;
	uint64_t start_time;    /* for a child */
	const char *invocation; /* for a unit; "" for a child */
	int pidfd;              /* owned by the service on success */
};
int service_adopt(struct launcher *lr, const struct service_adoption *a,
	const struct service_callbacks *cb, void *userdata, struct service **ret);

/* Sends SIGKILL by pidfd, or stops the unit; on_exited follows. */
void service_kill(struct service *s);
pid_t service_pid(const struct service *s);
uint64_t service_start_time(const struct service *s); /* field 22 of /proc/PID/stat; 0 for a unit */
const char *service_invocation(const struct service *s); /* "" for a child */
/* Frees s without ending the process. Accepts NULL. */
struct service *service_detach(struct service *s);
/* Frees s and kills its process, which the loop reaps; calls no callback. Accepts NULL. */
struct service *service_free(struct service *s);
DEFINE_CLEANUP(struct service *, service_free)
