/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The messages between host and agent, and the fields and frames of each version of the protocol
 * (AGENT_FIELDS, AGENT_FRAMES, nowhere else). A guest keeps its agent for months, over upgrades of
 * the host: HELLO offers a range of versions, WELCOME chooses one, and every version since 1 is
 * supported.
 *
 * Each message has msg_X_put (append the payload's encoding to a buf), msg_X_get (from a frame's
 * payload) and msg_X_done (frees what it owns). _put and _get take the version agreed on for the
 * connection and handle exactly its fields; fields that it lacks are zero. Bytes after the last
 * field come from a newer peer and are skipped. _get returns -EBADMSG for a missing, invalid or
 * out-of-range field; _put returns -EINVAL for the same, but cuts a `what` to MSG_WHAT_MAX. HELLO
 * and WELCOME, which agree on the version, are called with the newest one known and contain their
 * own. A frame type that the agreed version lacks is not sent, and is ignored on arrival; a known
 * type with an invalid payload ends the connection.
 *
 * To add to the protocol: docs/HACKING.md.
 */

#include "base.h"
#include "buf.h"
#include "frame.h"

#define AGENT_PROTOCOL_MIN 1
#define AGENT_PROTOCOL_MAX 3
#define AGENT_PORT_NAME    "org.pyro.agent"
#define AGENT_CHANNEL_NONE 0  /* execs use channels from 1 */
#define AGENT_EXEC_ID_SIZE 16 /* "ex-" and 12 hex digits, NUL */

#define MSG_WHAT_MAX     1024 /* bytes of msg_result.what and msg_bye.what */
#define MSG_CWD_MAX      4096
#define MSG_PATH_MAX     4096
#define MSG_SIZE_MAX     ((UINT64_C(1) << 53) - 1) /* of sizes and lines: exact in JSON */
#define MSG_USER_MAX     256
#define MSG_HOSTNAME_MAX 63

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
	uint8_t stdin_ended;           /* END of stdin has arrived: no more input is taken */
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
	uint8_t sync[SYNC_SIZE]; /* used from now on */
	char *hostname;          /* owned; [a-z0-9-]{1,63} */
};

enum {
	START_STDIN = 1 << 0, /* stdin is a pipe fed by DATA; else /dev/null */
	START_PTY = 1 << 1,   /* reserved; refused */
	/* Run by a login shell, unless the user's login environment has been captured. Otherwise,
	 * and without this flag, by a plain shell in the captured environment. */
	START_LOGIN = 1 << 2,
};

/* Returns the streams of a command with these flags, as a mask. */
static inline unsigned start_streams(uint32_t flags)
{
	return (flags & START_STDIN ? STREAM_BIT(STREAM_STDIN) : 0) |
	       (flags & START_PTY ? STREAM_BIT(STREAM_PTY)
				  : STREAM_BIT(STREAM_STDOUT) | STREAM_BIT(STREAM_STDERR));
}

struct msg_start {
	char exec_id[AGENT_EXEC_ID_SIZE];
	uint32_t flags;
	char *command; /* owned: one shell line */
	char *cwd;     /* owned; absolute, or relative to /workspace */
	char *user;    /* owned: name or number */
	uint32_t n_env;
	char **env;                 /* owned: K=V, added to the login environment */
	uint64_t timeout_usec;      /* from the process's start; 0 = none */
	uint64_t limit[STREAM_MAX]; /* first ACK limit of each output stream */
};

struct msg_kill {
	uint8_t signal; /* 1..64 */
	uint8_t all;    /* 1: SIGKILL the whole cgroup; 0: signal to the foreground group */
};

/* Sent by the host after WELCOME: the offset at which each output stream continues; the host has
 * all bytes below. */
struct msg_resume {
	uint64_t upto[STREAM_MAX];
	uint64_t limit[STREAM_MAX];
};

/* Result of SETUP or START: error 0 = done, else a Linux errno of the guest. */
struct msg_result {
	uint32_t error;
	char *what; /* owned or NULL: one line, "mount /workspace", "chdir /nowhere" */
};

/* The agent's observations at the end of a command, from which the host derives the limit that
 * ended it. The host ignores unknown flags. */
enum {
	ENDED_LEFT = 1 << 0,      /* processes of the command still run */
	ENDED_OOM_KILL = 1 << 1,  /* the OOM killer ended one of its processes */
	ENDED_PIDS = 1 << 2,      /* a process or thread was refused: pids_max was reached */
	ENDED_DISK_FULL = 1 << 3, /* the own disk has no block or no inode left */
};

struct agent_ended {
	uint32_t flags;
	uint32_t pids_max; /* 0: no limit */
};

struct msg_exit {
	uint8_t code;      /* 0..255; meaningless when signal is set */
	uint8_t signal;    /* 0 or 1..64 */
	uint8_t timed_out; /* 1: killed by its timeout */
	uint64_t duration_usec;
	uint64_t produced[STREAM_MAX];
	bool tells; /* set by msg_exit_get if the version has `ended` */
	struct agent_ended ended;
};

enum bye_reason {
	BYE_SHUTDOWN = 0, /* requested by SHUTDOWN */
	BYE_REBOOT = 1,   /* the guest's own reboot */
	BYE_POWEROFF = 2, /* the guest's own halt or poweroff */
	BYE_ERROR = 3,    /* the agent cannot continue */
};

struct msg_bye {
	uint8_t reason;
	char *what; /* owned or NULL */
};

struct msg_blob {
	uint8_t *data; /* owned; may be NULL when n is 0 */
	uint32_t n;
};

enum file_op {
	FILE_LIST = 0,
	FILE_READ = 1,
	FILE_WRITE = 2, /* make or replace a file, and the folders above it */
	FILE_EDIT = 3,  /* replace text in a file */
};

enum {
	FILE_RECURSIVE = 1 << 0,   /* of LIST */
	FILE_REPLACE_ALL = 1 << 1, /* of EDIT: each occurrence; else there must be exactly one */
};

/*
 * An operation on the guest's files, as root. The host repeats it after a reconnection with the
 * same id; the agent does not repeat a write or an edit that it remembers, but its answer.
 */
struct msg_file {
	uint8_t id[16];
	uint8_t op; /* enum file_op */
	uint32_t flags;
	char *path;               /* owned; absolute, or relative to /workspace */
	uint32_t max_bytes;       /* of READ: 1..LIMIT_FILE_BYTES */
	uint64_t start_line;      /* of READ: counted from 1; 0 is 1 */
	uint64_t max_lines;       /* of READ; 0: no limit */
	struct msg_blob text;     /* of WRITE; of EDIT: the new text */
	struct msg_blob old_text; /* of EDIT; at most LIMIT_FILE_BYTES with text */
};

enum entry_type { ENTRY_FILE, ENTRY_DIRECTORY, ENTRY_SYMLINK, ENTRY_OTHER };

struct msg_entry {
	uint8_t type;  /* enum entry_type */
	uint64_t size; /* at most MSG_SIZE_MAX, as in msg_file_result */
	char *path;    /* owned; relative to the folder that is listed */
	char *target;  /* owned; of ENTRY_SYMLINK, else NULL */
};

enum {
	FILE_TRUNCATED = 1 << 0, /* max_bytes or a limit cut the content or the entries */
	FILE_LINES = 1 << 1,     /* total_lines is known */
	FILE_UNKNOWN = 1 << 2,   /* with an error: a write or an edit may have been done */
};

/* The answer to FILE. The host ignores unknown flags. */
struct msg_file_result {
	uint8_t id[16];
	uint32_t error; /* 0 = done, else a Linux errno of the guest */
	char *what;     /* owned or NULL: the step that failed */
	uint32_t flags;
	uint64_t size;        /* of the file, after the operation */
	uint64_t total_lines; /* of READ */
	uint32_t found;       /* of EDIT: occurrences of old_text, also with ENODATA and ENOTUNIQ */
	struct msg_blob content; /* of READ: the lines from start_line on */
	uint32_t n_entries;
	struct msg_entry *entries; /* owned; of LIST, sorted by msg_path_compare */
};

/* The order of entries: by the bytes of each component in turn, a folder before its contents. */
int msg_path_compare(const char *a, const char *b);

/*
 * Each field in wire order, with the version that added it. The forms: NUMBER (u8 to u64, little
 * endian), BYTES (the size of the field), ID ("ex-" and 12 digits), STREAMS (a u64 per stream),
 * TEXT (u32 length and at most the given number of bytes without NUL; 2^32-1 for none), WHAT (a
 * TEXT that is cut), BLOB (u32 length and at most the given number of bytes), ENV (u32 count and
 * that many TEXT), HELD and ENTRIES (u32 count and that many msg_held or msg_entry), VERSION (a NUMBER; the fields after it are those of this version, if it is older than the one
 * agreed on), PRESENT (no byte; true since that version). New fields are added at the end of their
 * message; those of msg_held and msg_entry may be added at its end as well.
 */
/* clang-format off */
#define AGENT_FIELDS(X) \
	/* message, field,     form,                       since */ \
	X(hello,    version_min,    NUMBER,                    1) \
	X(hello,    version_max,    VERSION,                   1) \
	X(hello,    nonce,          BYTES,                     1) \
	X(welcome,  version,        VERSION,                   1) \
	X(welcome,  state,          NUMBER,                    1) \
	X(welcome,  machine_id,     BYTES,                     1) \
	X(welcome,  boot_nonce,     BYTES,                     1) \
	X(welcome,  held,           HELD,                      1) \
	X(held,     exec_id,        ID,                        1) \
	X(held,     channel,        NUMBER,                    1) \
	X(held,     exited,         NUMBER,                    1) \
	X(held,     stdin_accepted, NUMBER,                    1) \
	X(held,     produced,       STREAMS,                   1) \
	X(held,     kept,           STREAMS,                   1) \
	X(held,     stdin_ended,    NUMBER,                    3) \
	X(setup,    entropy,        BYTES,                     1) \
	X(setup,    realtime_usec,  NUMBER,                    1) \
	X(setup,    machine_id,     BYTES,                     1) \
	X(setup,    sync,           BYTES,                     1) \
	X(setup,    hostname,       TEXT(MSG_HOSTNAME_MAX),    1) \
	X(start,    exec_id,        ID,                        1) \
	X(start,    flags,          NUMBER,                    1) \
	X(start,    command,        TEXT(LIMIT_COMMAND_BYTES), 1) \
	X(start,    cwd,            TEXT(MSG_CWD_MAX),         1) \
	X(start,    user,           TEXT(MSG_USER_MAX),        1) \
	X(start,    env,            ENV,                       1) \
	X(start,    timeout_usec,   NUMBER,                    1) \
	X(start,    limit,          STREAMS,                   1) \
	X(kill,     signal,         NUMBER,                    1) \
	X(kill,     all,            NUMBER,                    1) \
	X(resume,   upto,           STREAMS,                   1) \
	X(resume,   limit,          STREAMS,                   1) \
	X(result,   error,          NUMBER,                    1) \
	X(result,   what,           WHAT,                      1) \
	X(exit,     code,           NUMBER,                    1) \
	X(exit,     signal,         NUMBER,                    1) \
	X(exit,     timed_out,      NUMBER,                    1) \
	X(exit,     duration_usec,  NUMBER,                    1) \
	X(exit,     produced,       STREAMS,                   1) \
	X(exit,     tells,          PRESENT,                   2) \
	X(exit,     ended.flags,    NUMBER,                    2) \
	X(exit,     ended.pids_max, NUMBER,                    2) \
	X(bye,      reason,         NUMBER,                    1) \
	X(bye,      what,           WHAT,                      1) \
	X(file,     id,             BYTES,                     3) \
	X(file,     op,             NUMBER,                    3) \
	X(file,     flags,          NUMBER,                    3) \
	X(file,     path,           TEXT(MSG_PATH_MAX),        3) \
	X(file,     max_bytes,      NUMBER,                    3) \
	X(file,     start_line,     NUMBER,                    3) \
	X(file,     max_lines,      NUMBER,                    3) \
	X(file,     text,           BLOB(LIMIT_FILE_BYTES),    3) \
	X(file,     old_text,       BLOB(LIMIT_FILE_BYTES),    3) \
	X(file_result, id,            BYTES,                     3) \
	X(file_result, error,         NUMBER,                    3) \
	X(file_result, what,          WHAT,                      3) \
	X(file_result, flags,         NUMBER,                    3) \
	X(file_result, size,          NUMBER,                    3) \
	X(file_result, total_lines,   NUMBER,                    3) \
	X(file_result, found,         NUMBER,                    3) \
	X(file_result, content,       BLOB(LIMIT_FILE_BYTES),    3) \
	X(file_result, entries,       ENTRIES,                   3) \
	X(entry,    type,           NUMBER,                    3) \
	X(entry,    size,           NUMBER,                    3) \
	X(entry,    path,           TEXT(MSG_PATH_MAX),        3) \
	X(entry,    target,         TEXT(MSG_PATH_MAX),        3)

/*
 * Each frame type, with the version that added it. Some agents of protocol 1 understand LOGIN and
 * send what EXIT contains since version 2 in a separate frame of type 37, which must not be reused.
 */
#define AGENT_FRAMES(X) \
	X(NOP, 1) \
	/* sent by the host */ \
	X(HELLO, 1) X(SETUP, 1) X(START, 1) X(KILL, 1) X(RESUME, 1) X(EXIT_ACK, 1) X(SHUTDOWN, 1) \
	X(LOGIN, 2) X(FILE, 3) \
	/* sent by the agent */ \
	X(WELCOME, 1) X(SETUP_DONE, 1) X(STARTED, 1) X(EXIT, 1) X(BYE, 1) \
	X(FILE_DONE, 3) \
	/* sent by both; never get new fields: libpyro uses them without a version */ \
	X(DATA, 1) X(ACK, 1) X(END, 1)
/* clang-format on */

/* True if this version has frames of this type: they may be sent and are handled. */
bool agent_knows(uint16_t version, uint16_t frame_type);

/* clang-format off */
#define AGENT_MESSAGES(X) \
	X(hello) X(welcome) X(setup) X(start) X(kill) X(resume) X(result) X(exit) X(bye) X(file) \
	X(file_result)
/* clang-format on */
#define X(name) \
	int msg_##name##_put(struct buf *out, uint16_t version, const struct msg_##name *m); \
	int msg_##name##_get(const struct frame *f, uint16_t version, struct msg_##name *ret); \
	void msg_##name##_done(struct msg_##name *m);
AGENT_MESSAGES(X)
#undef X

/* Encodes the message and appends it as one frame, or as several if it is long (frame_put_long).
 * -EPROTONOSUPPORT if the version lacks the frame type. */
#define msg_send(out, version, name, frame_type, channel, msg) \
	({ \
		struct buf _payload; \
		buf_init(&_payload, LIMIT_FILE_MESSAGE_BYTES); \
		int _r = agent_knows((version), (frame_type)) \
				 ? msg_##name##_put(&_payload, (version), (msg)) \
				 : -EPROTONOSUPPORT; \
		if (_r >= 0) \
			_r = frame_put_long((out), (frame_type), (channel), buf_head(&_payload), \
				buf_len(&_payload)); \
		buf_done(&_payload); \
		_r; \
	})
