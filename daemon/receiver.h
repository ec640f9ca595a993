/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sockets whose other end belongs to a stranger: callers' connections and the sockets that callers pass.
 *
 * A stranger may send a descriptor whose last close() blocks: a TCP socket with SO_LINGER sleeps as long as
 * its owner said, a file of a FUSE server that withholds FLUSH for ever and beyond SIGKILL. So pyrod never
 * receives a descriptor that it does not know, and drops none from a queue: a child process without
 * pyrod's descriptors, the uid's receiver, takes them, returns the AF_UNIX stream sockets whose peer is that
 * uid, and closes all others; another child, the closer, is the last to close a socket in whose queue
 * something may be left.
 *
 * `shared` says that the stranger may hold a copy of this very end (of a socket that was passed): such a
 * copy can take bytes from the queue between two calls of ours, and can hide queued descriptors.
 */

#include "proto/base.h"
#include "proto/limits.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct receivers;
struct receipt;

int receivers_new(sd_event *event, struct receivers **ret);
struct receivers *receivers_free(struct receivers *rs);
DEFINE_CLEANUP(struct receivers *, receivers_free)

/* What receivers_read returns where descriptors are next in the queue. */
#define RECEIVERS_FDS (-EXFULL)

/* Marks a socket of which no stranger has a copy (an accepted connection) as one to be read here. */
int receivers_prepare(int fd);

/* As recv without waiting: bytes, 0 at the end, -errno; RECEIVERS_FDS when only a receiver may read on. */
ssize_t receivers_read(struct receivers *rs, int fd, bool shared, void *p, size_t n);

/* Shuts down and closes fd (negative: nothing to do). Never waits, whatever is queued. */
void receivers_close(struct receivers *rs, int fd, bool shared);
/* Closes a listening socket, in whose queue there may be connections with something in theirs; it is not shut
 * down, since the service manager may hold it too. */
void receivers_close_listener(struct receivers *rs, int fd);

struct received {
	int error;                  /* 0, or -errno: what recvmsg said, -ETOOMANYREFS: more than
		      LIMIT_FDS_WAITING came, -ETIMEDOUT: the receiver was stuck, -EBUSY: none can be had */
	const uint8_t *bytes;       /* borrowed until the callback returns */
	size_t n;                   /* 0: the end */
	int fds[LIMIT_FDS_WAITING]; /* in order; -EBADF: not a stream socket of AF_UNIX whose peer is uid.
				       What the callback does not take is closed. */
	size_t n_fds;
};

/* Once, from the loop; the receipt is no longer the caller's then. */
typedef void (*received_fn)(struct received *rc, void *userdata);

struct receiver_user {
	uid_t uid;     /* whose sockets are taken */
	uid_t account; /* whose limits count: account.h */
};

/* One recvmsg of at most max bytes from fd, by the receiver of this user. fd is borrowed until the callback or
 * receipt_free and must not be read meanwhile. -EBUSY when no receiver can be had for this user now. */
int receipt_new(struct receivers *rs, const struct receiver_user *user, int fd, size_t max,
	received_fn fn, void *userdata, struct receipt **ret);
/* Takes NULL. The callback does not come; what is received all the same is closed. */
struct receipt *receipt_free(struct receipt *rt);
