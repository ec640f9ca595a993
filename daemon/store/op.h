/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Shared by the files of SQL and the store's thread: one queued call, and the helpers that run on
 * that thread. Nothing outside daemon/store includes this.
 */

#include "daemon/store/store.h"
#include <sqlite3.h>
#include <sys/queue.h>

struct store_op {
	STAILQ_ENTRY(store_op) entry;
	/* On the store thread, inside a savepoint. */
	int (*run)(struct store *s, struct store_op *op, struct error *err);
	void (*free)(struct store_op *op); /* on the loop thread */
	store_done_fn done;                /* may be NULL */
	void *userdata;
	int r;
	struct error err; /* owned */
};

/* Takes over op. */
int store_queue(struct store *s, struct store_op *op);

/* The only mapping of SQLite's results to -errno. */
int store_errno(int rc);

/* Prepares a statement, runs one, and reports a failure to do `what`. All map SQLite's error. */
int store_prepare(struct store *s, const char *sql, sqlite3_stmt **ret, struct error *err);
int store_step_done(struct store *s, sqlite3_stmt *stmt, struct error *err);
int store_fail(struct store *s, const char *what, struct error *err);

static inline void stmt_finalizep(sqlite3_stmt **stmt)
{
	(void)sqlite3_finalize(*stmt);
}
#define _cleanup_stmt_ _cleanup_(stmt_finalizep)
