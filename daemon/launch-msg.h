/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The messages between pyrod and the programs it starts (pyro-vmm, pyro-import) on the launch
 * socket (SOCK_SEQPACKET, one message per packet). pyrod sends one LAUNCH with every descriptor;
 * pyro-vmm answers with notes and at most one failure, and its end of the socket closes when the
 * VMM is executed.
 *
 * The first descriptor becomes stdout and stderr of the VMM, the others 3, 4, ... in order.
 */

#include "proto/base.h"
#include "proto/buf.h"

enum {
	LAUNCH_FDS_MAX = 16,
	LAUNCH_ARGS_MAX = 128,
	LAUNCH_ARG_BYTES = 8 * 1024,
	LAUNCH_BYTES = 64 * 1024, /* one LAUNCH message */
	LAUNCH_REPLY_BYTES = 512, /* one reply */
	LAUNCH_FIRST_FD = 3,
};

enum {
	LAUNCH_KVM = 1 << 0,  /* the VMM opens /dev/kvm */
	LAUNCH_UNIT = 1 << 1, /* it is a unit, which systemd confines */
	LAUNCH_FLAGS = LAUNCH_KVM | LAUNCH_UNIT,
};

struct launch_msg {
	uint32_t flags;
	uint16_t n_fds; /* number of descriptors sent with it, at least one */
	uint16_t n_args;
	char **args; /* owned, NULL-terminated; args[0] is an absolute path */
};

/* args: borrowed, NULL-terminated. -E2BIG above a limit. */
int launch_msg_put(struct buf *out, uint32_t flags, size_t n_fds, const char *const *args);
/* Returns -EBADMSG for a malformed message, -EPROTONOSUPPORT for another version. */
int launch_msg_get(const void *p, size_t n, struct launch_msg *ret);
void launch_msg_done(struct launch_msg *m);

enum launch_reply_type {
	LAUNCH_NOTE = 1,   /* a containment step that failed */
	LAUNCH_FAILED = 2, /* the VMM is not executed */
	LAUNCH_REPLY_MAX
};

/* Cuts text to the size of a reply. Returns the number of bytes written to ret. */
size_t launch_reply_put(
	char ret[LAUNCH_REPLY_BYTES], enum launch_reply_type type, const char *text);
/* *ret_text points into p: *ret_n bytes without NUL. */
int launch_reply_get(const char *p, size_t n, enum launch_reply_type *ret_type,
	const char **ret_text, size_t *ret_n);
