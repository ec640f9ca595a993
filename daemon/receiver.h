/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Sockets with an untrusted peer: callers' connections and the sockets that callers pass.
 *
 * The peer may send a descriptor whose last close() blocks: a TCP socket with SO_LINGER for as long
 * as its owner chose, a file of a FUSE server that does not answer FLUSH for ever, even after
 * SIGKILL. So pyrod never receives an unknown descriptor and never drops one with a queue: a child
 * process without pyrod's descriptors, the receiver of the uid, receives them, returns the AF_UNIX
 * stream sockets whose peer is that uid, and closes all others; another child, the closer, is the
 * last to close a socket whose queue may hold descriptors.
 *
 * `shared`: the peer may hold a copy of this end of the socket (one that was passed). With it the
 * peer can take bytes from the queue between two of our calls and can hide queued descriptors.
 */

#include "proto/base.h"
#include "proto/limits.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct accounts;
struct receivers;
struct receipt;

int receivers_new(sd_event *event, struct receivers **ret);
struct receivers *receivers_free(struct receivers *rs);
DEFINE_CLEANUP(struct receivers *, receivers_free)

/* Assigns each receiver to its account again, after accounts have changed. */
void receivers_recount(struct receivers *rs, const struct accounts *a);

/* Returned by receivers_read if descriptors are next in the queue. */
#define RECEIVERS_FDS (-EXFULL)

/* Prepares a socket that no peer has a copy of (an accepted connection) for receivers_read. */
int receivers_prepare(int fd);

/* Like a non-blocking recv: returns the number of bytes, 0 at EOF, -errno; RECEIVERS_FDS if only a
 * receiver may read on. */
ssize_t receivers_read(struct receivers *rs, int fd, bool shared, void *p, size_t n);

/* Shuts down and closes fd (if not negative). Never blocks, whatever is queued. */
void receivers_close(struct receivers *rs, int fd, bool shared);
/* Closes a listening socket whose pending connections may hold descriptors. Does not shut it down,
 * since the service manager may hold it too. */
void receivers_close_listener(struct receivers *rs, int fd);

struct received {
	/* 0, or -errno of recvmsg; -ETOOMANYREFS: more than LIMIT_FDS_WAITING descriptors arrived;
	 * -ETIMEDOUT: the receiver was stuck; -EBUSY: no receiver is available */
	int error;
	const uint8_t *bytes; /* borrowed until the callback returns */
	size_t n;             /* 0: EOF */
	/* in order; -EBADF: not an AF_UNIX stream socket whose peer is uid. Those that the callback
	 * does not take are closed. */
	int fds[LIMIT_FDS_WAITING];
	size_t n_fds;
};

/* Called once, from the loop; the receipt is freed afterwards. */
typedef void (*received_fn)(struct received *rc, void *userdata);

struct receiver_user {
	uid_t uid;     /* the peer uid of the sockets that are kept */
	uid_t account; /* whose limits apply (account.h) */
};

/* Starts one recvmsg of at most max bytes on fd by the receiver of this user. fd is borrowed until
 * the callback or receipt_free and must not be read meanwhile. -EBUSY if no receiver is available
 * for this user. */
int receipt_new(struct receivers *rs, const struct receiver_user *user, int fd, size_t max,
	received_fn fn, void *userdata, struct receipt **ret);
/* Cancels the receipt: no callback is called and received descriptors are closed. Accepts NULL. */
struct receipt *receipt_free(struct receipt *rt);
