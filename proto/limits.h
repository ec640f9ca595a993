/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Every limit on what a peer can make a program of pyro hold. Sizes are bytes, times microseconds
 * unless the name says otherwise. design.md sections 5, 6 and reliability.md give the reasons.
 */

/* JSON-RPC socket */
#define LIMIT_REQUEST_BYTES     (1024 * 1024)     /* one request line */
#define LIMIT_REPLY_BYTES       (4 * 1024 * 1024) /* one reply line */
#define LIMIT_IN_FLIGHT         64                /* calls per connection */
#define LIMIT_CONNECTIONS_UID   32                /* connections per uid */
#define LIMIT_CONNECTIONS       256               /* connections in all, */
#define LIMIT_CONNECTIONS_ADMIN 16 /* of which these are for root and group pyro-admin */
#define LIMIT_DETACHED_UID      64 /* calls per uid that outlive their connection */
#define LIMIT_JSON_DEPTH        32
#define LIMIT_JSON_VALUES       10000
#define LIMIT_FDS_PER_LINE      4
#define LIMIT_FDS_RECEIVE       253 /* SCM_MAX_FD: the most the kernel passes at once */
#define LIMIT_FDS_WAITING       16  /* descriptors received and not yet taken by a line */
#define LIMIT_RECEIVERS         64  /* processes that receive descriptors, one per uid */
#define LIMIT_RECEIVERS_ACCOUNT 4   /* of these per account; root is exempt from both */
#define LIMIT_CONN_OUT_BYTES    (8 * 1024 * 1024) /* queued for a client that does not read */

/* Agent stream */
#define FRAME_PAYLOAD_MAX        (32 * 1024)
#define LIMIT_MESSAGE_BYTES      (512 * 1024)  /* one message sent as several frames */
#define LIMIT_FILE_BYTES         (1024 * 1024) /* contents or entries of one file operation */
#define LIMIT_FILE_MESSAGE_BYTES (LIMIT_FILE_BYTES + 64 * 1024) /* with its path and heads */
#define LIMIT_FILE_ENTRIES       10000                          /* of one list */
#define LIMIT_FILES              8            /* file operations of a machine at once */
#define STREAM_WINDOW            (256 * 1024) /* the agent's ring buffer and flow-control window */
#define LIMIT_AGENT_EXECS        64           /* execs an agent holds at once */
#define LIMIT_LINK_CONTROL_BYTES (256 * 1024) /* control frames queued towards a guest */

/* Commands */
#define LIMIT_COMMAND_BYTES    (128 * 1024) /* MAX_ARG_STRLEN of Linux: one word of execve */
#define LIMIT_ENV_BYTES        (256 * 1024)
#define LIMIT_ENV_COUNT        1024
#define LIMIT_CAPTURE_BYTES    (1024 * 1024)      /* of each stream in a reply */
#define LIMIT_READ_CHARS       262144             /* of exec.read */
#define LIMIT_TRANSCRIPT_BYTES (16 * 1024 * 1024) /* of the files of one command's output */
#define LIMIT_CONSOLE_BYTES    (64 * 1024)        /* last console output kept per machine */

/* Ranges of contract.md section 1 */
#define VCPU_MIN            1
#define VCPU_MAX            32
#define MEM_MIB_MIN         128
#define MEM_MIB_MAX         (16 * 1024 * 1024)
#define DISK_MIB_MIN        64
#define DISK_MIB_MAX        (16 * 1024 * 1024)
#define TTL_SECONDS_MAX     31536000
#define TIMEOUT_SECONDS_MAX 86400

/* Machines */
#define LIMIT_RUNS_WAITING 64 /* per uid: vm.run calls without a machine (pulling, draining) */

#define LIMIT_LISTENERS_UID 256 /* calls that wait for, read or are attached to commands of a uid */

/* Commands that a workspace keeps; the oldest ended ones beyond any of these are forgotten */
#define LIMIT_WORKSPACE_COMMANDS     500
#define LIMIT_WORKSPACE_TEXT_BYTES   (1024 * 1024)          /* of their command lines */
#define LIMIT_WORKSPACE_OUTPUT_BYTES (512ULL * 1024 * 1024) /* of their transcripts */

/* Workspaces */
#define LIMIT_WORKSPACES_WAITING 64   /* per account: without a machine yet (pulling) */
#define LIMIT_FILES_WAITING      16   /* per account: file operations that wait for a start */
#define LIMIT_NAME_BYTES         63   /* of a name: [a-z0-9][a-z0-9._-]* */
#define LIMIT_LABELS             64   /* of one workspace */
#define LIMIT_LABEL_KEY_BYTES    63   /* letters, digits and . _ / - */
#define LIMIT_LABELS_BYTES       8192 /* keys and values of one workspace together */

/* Environment images (reliability.md section 6) */
#define LIMIT_IMAGE_ENTRIES    2000000
#define LIMIT_IMAGE_BYTES      (32ULL << 30) /* apparent size of all files together */
#define LIMIT_IMAGE_PATH       4096
#define LIMIT_IMAGE_NAME       255
#define LIMIT_IMAGE_DEPTH      256
#define LIMIT_IMAGE_XATTR      (64 * 1024)   /* of one entry: names, values and 16 bytes for each */
#define LIMIT_IMAGE_WALK       (1ULL << 30)  /* path and link bytes followed for all entries */
#define LIMIT_IMAGE_RATIO      200           /* unpacked size over compressed size, */
#define LIMIT_IMAGE_RATIO_FROM (64ULL << 20) /* checked above this size */
#define LIMIT_VMLINUX_BYTES    (256 * 1024 * 1024)
