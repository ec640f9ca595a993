/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The messages between host and agent, field by field. Each has msg_X_put (append the payload's
 * encoding to a buf) and msg_X_get (from a frame's payload; -EBADMSG on anything wrong, out of
 * range or left over), and msg_X_done where it owns memory. _put refuses with -EINVAL what _get
 * would refuse, but cuts a `what` to MSG_WHAT_MAX. Unknown frame types are ignored by both sides,
 * so that a newer peer may say more; a known type with a wrong payload ends the connection.
 */

#include "base.h"
#include "buf.h"
#include "frame.h"

#define AGENT_PROTOCOL_MIN 1
#define AGENT_PROTOCOL_MAX 1
#define AGENT_PORT_NAME    "org.pyro.agent"
#define AGENT_CHANNEL_NONE 0  /* execs use channels from 1 */
#define AGENT_EXEC_ID_SIZE 16 /* "ex-" and 12 hex digits, NUL */

#define MSG_WHAT_MAX 1024 /* bytes of msg_result.what and msg_bye.what */
#define MSG_CWD_MAX  4096
#define MSG_USER_MAX 256

/* Serials by which the guest finds its disks (design.md section 6). */
#define DISK_SERIAL_ENV     "pyro-env"
#define DISK_SERIAL_OWN     "pyro-own"
#define DISK_SERIAL_MODULES "pyro-modules"

struct msg_hello {
	uint16_t version_min, version_max;
	uint8_t nonce[NONCE_SIZE];
};

enum agent_state {
	AGENT_READY = 0, /* environment mounted, waiting for SETUP */
	AGENT_SET_UP = 1,
};

/* What the agent holds of one exec, in WELCOME. */
struct msg_held {
	char exec_id[AGENT_EXEC_ID_SIZE];
	uint32_t channel;
	uint8_t exited; /* EXIT will be sent again */
	uint64_t stdin_accepted;
	uint64_t produced[STREAM_MAX]; /* read from the program so far */
	uint64_t kept[STREAM_MAX];     /* the earliest offset still in the ring */
};

struct msg_welcome {
	uint16_t version;       /* chosen, within HELLO's range */
	uint8_t state;          /* enum agent_state */
	uint8_t machine_id[16]; /* zero before SETUP */
	uint8_t boot_nonce[16];
	uint32_t n_held;
	struct msg_held *held; /* owned, n_held <= LIMIT_AGENT_EXECS */
};

struct msg_setup {
	uint8_t entropy[64]; /* used before anything else */
	uint64_t realtime_usec;
	uint8_t machine_id[16];
	uint8_t sync[SYNC_SIZE]; /* from now on */
	char *hostname;          /* owned; [a-z0-9-]{1,63} */
};

enum {
	START_STDIN = 1 << 0, /* stdin is a pipe fed by DATA; else /dev/null */
	START_PTY = 1 << 1,   /* reserved: refused by protocol 1 */
	/* By a login shell, unless the user's login environment has been captured; else, and without this, by a
	 * plain one in the captured environment. */
	START_LOGIN = 1 << 2,
};

struct msg_start {
	char exec_id[AGENT_EXEC_ID_SIZE];
	uint32_t flags;
	char *command; /* owned: one shell line */
	char *cwd;     /* owned; absolute, or relative to /workspace */
	char *user;    /* owned: name or number */
	uint32_t n_env;
	char **env;                 /* owned: K=V, put on top of the login environment */
	uint64_t timeout_usec;      /* from the process's start; 0 = none */
	uint64_t limit[STREAM_MAX]; /* first ACK limit of each output stream */
};

struct msg_kill {
	uint8_t signal; /* 1..64 */
	uint8_t all;    /* 1: SIGKILL the whole cgroup; 0: signal to the foreground group */
};

/* The host's side after WELCOME: where each output stream goes on (bytes below are safe). */
struct msg_resume {
	uint64_t upto[STREAM_MAX];
	uint64_t limit[STREAM_MAX];
};

/* Why SETUP or START did not do its work. error 0 = done, else a Linux errno of the guest. */
struct msg_result {
	uint32_t error;
	char *what; /* owned or NULL: one line, "mount /workspace", "chdir /nowhere" */
};

struct msg_exit {
	uint8_t code;      /* 0..255; meaningless when signal is set */
	uint8_t signal;    /* 0 or 1..64 */
	uint8_t timed_out; /* 1: killed by its timeout */
	uint64_t duration_usec;
	uint64_t produced[STREAM_MAX];
};

/* What the agent saw when a command ended, for the host to tell which limit ended it. A flag that the host does
 * not know is ignored. */
enum {
	ENDED_LEFT = 1 << 0, /* processes of it run on */
	ENDED_OOM_KILL =
		1 << 1,      /* the kernel killed a process of it: the guest was out of memory */
	ENDED_PIDS = 1 << 2, /* it was refused a process or thread: it had pids_max */
	ENDED_DISK_FULL = 1 << 3, /* the own disk has no block or no inode left */
};

struct msg_ended {
	uint32_t flags;
	uint32_t pids_max; /* 0: no limit */
};

enum bye_reason {
	BYE_SHUTDOWN = 0, /* asked for by SHUTDOWN */
	BYE_REBOOT = 1,   /* the guest's own reboot */
	BYE_POWEROFF = 2, /* the guest's own halt or poweroff */
	BYE_ERROR = 3,    /* the agent cannot go on */
};

struct msg_bye {
	uint8_t reason;
	char *what; /* owned or NULL */
};

#define AGENT_MESSAGES(X) \
	X(hello) X(welcome) X(setup) X(start) X(kill) X(resume) X(result) X(exit) X(bye) X(ended)
#define X(name) \
	int msg_##name##_put(struct buf *out, const struct msg_##name *m); \
	int msg_##name##_get(const struct frame *f, struct msg_##name *ret); \
	void msg_##name##_done(struct msg_##name *m);
AGENT_MESSAGES(X)
#undef X

/* Encodes the message and appends it as one frame, or as several when it is long (frame_put_long).
 */
#define msg_send(out, name, frame_type, channel, msg) \
	({ \
		struct buf _payload; \
		buf_init(&_payload, LIMIT_MESSAGE_BYTES); \
		int _r = msg_##name##_put(&_payload, (msg)); \
		if (_r >= 0) \
			_r = frame_put_long((out), (frame_type), (channel), buf_head(&_payload), \
				buf_len(&_payload)); \
		buf_done(&_payload); \
		_r; \
	})
