/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The store thread and its queue. SQLite lives on that thread alone, with the only connection (WAL,
 * synchronous=FULL, EXCLUSIVE, STRICT). Each store_* call is queued, runs in one transaction
 * (commits are grouped) and completes on the loop by eventfd. Rows are loaded once at start, and
 * reads are served from memory.
 */

#include "proto/base.h"
#include "proto/error.h"
#include <sys/types.h>
#include <systemd/sd-event.h>

struct store;

/* Called on the loop thread. r: 0 committed, otherwise -errno with err set. */
typedef void (*store_done_fn)(int r, const struct error *err, void *userdata);

/* Opens or creates path and brings the schema up to date. Called before the loop runs, since it
 * waits. Fails with internal for a damaged store and with unsupported for one of a newer version,
 * which is not touched. A fix that moves the file away begins with STORE_ASIDE; pyrod must be
 * restarted after it. */
#define STORE_ASIDE "mkdir -p "
int store_new(sd_event *event, const char *path, struct store **ret, struct error *err);
/* Finishes the queued calls and closes the store. Takes NULL. */
struct store *store_free(struct store *s);

/* Runs a no-op on the thread, for the watchdog. */
int store_ping(struct store *s, store_done_fn done, void *userdata);

struct vm_row {
	char id[16];
	uid_t owner_uid;
	char *environment, *env_digest, *kernel_hash; /* owned */
	char *environment_version;                    /* owned; NULL: not known */
	unsigned vcpu_count;
	uint64_t mem_mib, disk_mib;
	int64_t ttl_seconds;
	uint64_t created_usec, expires_usec; /* CLOCK_REALTIME; expires 0: never */
	uint64_t active_usec;                /* CLOCK_REALTIME: last call that used it */
	char noun[16];                       /* of its owner: struct machine_owner */
	char state[16];                      /* machine_state_name() */
	char stop_reason[16];                /* "" unless stopped */
	char driver[16];                     /* name in vmm_drivers */
	char accelerator[16], start_mode[16];
	uint8_t uuid[16], sync[32];
	pid_t vmm_pid;           /* 0: not started */
	uint64_t vmm_start_time; /* ticks since boot; identifies the process with pid and boot_id */
	char vmm_invocation[33]; /* of its unit, identifies it with boot_id; "": forked */
	char boot_id[40];
	char *last_error; /* owned or NULL */
};
void vm_row_done(struct vm_row *row);
int vm_row_copy(struct vm_row *dst, const struct vm_row *src);

int store_vm_load(struct store *s, struct vm_row **ret, size_t *ret_n,
	struct error *err); /* before the loop */
int store_vm_put(struct store *s, const struct vm_row *row, store_done_fn done,
	void *userdata); /* inserts or replaces; copies row */
/* Deletes the rows of its commands and of its workspace too. */
int store_vm_delete(struct store *s, const char *id, store_done_fn done, void *userdata);

struct workspace_row {
	char id[16]; /* of its machine too */
	uid_t owner_uid;
	char *name;        /* owned; NULL: none. Unique for its owner. */
	char *labels;      /* owned: JSON, an object of strings */
	uint64_t commands; /* how many it has had */
	bool shared;       /* MCP clients may use it */
};
void workspace_row_done(struct workspace_row *row);
int workspace_row_copy(struct workspace_row *dst, const struct workspace_row *src);

/* Before the loop: deletes the rows without a machine, whose creation was interrupted, and makes a
 * row without a name for each workspace's machine that lacks one. Returns how many it made. */
int store_workspace_repair(struct store *s, struct error *err);
int store_workspace_load(struct store *s, struct workspace_row **ret, size_t *ret_n,
	struct error *err); /* before the loop */
int store_workspace_put(struct store *s, const struct workspace_row *row, store_done_fn done,
	void *userdata); /* inserts or replaces; copies row */
/* For a workspace without a machine; else store_vm_delete deletes its row. */
int store_workspace_delete(struct store *s, const char *id, store_done_fn done, void *userdata);

struct exec_row {
	char id[16];
	char vm_id[16];
	uid_t owner_uid;
	uint32_t channel;
	char *command; /* owned */
	bool with_stdin;
	bool live; /* the caller reads the output over live stdio */
	uint64_t timeout_usec;
	/* Of a command that its workspace keeps; the rest is zero otherwise. */
	bool kept;
	uint64_t sequence;                 /* in its workspace, from 1 */
	char state[16];                    /* command_state_name() */
	char *cwd, *user;                  /* owned or NULL */
	uint64_t started_usec, ended_usec; /* CLOCK_REALTIME; ended 0: it has not ended */
	uint64_t duration_usec;
	int exit_code; /* 0..255; -1: none */
	bool timed_out;
	char ended_by[16], limit_name[24], limit_flag[32]; /* as in struct limit; "": none */
	int64_t limit_value;
	int background_left; /* 0, 1; -1: not known */
	uint64_t stdout_bytes, stderr_bytes;
	char execution_mode[32], accelerator[16], start_mode[16];
	int64_t stdin_bytes; /* of the text of its input; -1: none */
	char *last_error;    /* owned or NULL: why it is lost */
};
void exec_row_done(struct exec_row *row);
int exec_row_copy(struct exec_row *dst, const struct exec_row *src);

int store_exec_load(struct store *s, struct exec_row **ret, size_t *ret_n,
	struct error *err); /* before the loop */
int store_exec_put(struct store *s, const struct exec_row *row, store_done_fn done,
	void *userdata); /* copies row; deleted with its machine's row */
int store_exec_forget(struct store *s, const char *id, store_done_fn done, void *userdata);
