/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Logs to the journal if there is one (sd_journal_sendv with structured fields), else to stderr.
 * Only main files, the dispatcher and event callbacks log; all others return errors. Untrusted text
 * is escaped: C0, DEL, C1, bidi controls and invalid UTF-8 become \xNN.
 */

#include "proto/base.h"
#include <sys/types.h>
#include <syslog.h>

struct accounts;

void log_init(const char *ident);
void log_set_level(int level); /* LOG_DEBUG .. LOG_ERR */
/* find returns the account whose limit a uid's messages count against. a: borrowed until the next
 * call; NULL: each uid is its own account. */
void log_set_accounts(const struct accounts *a, uid_t (*find)(const struct accounts *a, uid_t uid));
/* If stderr is the file at path, rotates it from now on: a full file is renamed to path.1. Returns
 * 1, 0 if stderr is another file, or -ENOMEM. */
int log_keep_file(const char *path);
/* Opens the file at that path again, after it was moved away. Returns 0 also without such a
 * file. */
int log_reopen(void);

/* fields: "PYRO_VM=vm-..." strings, or NULL. */
void log_full(int level, int error, const char *field, const char *fmt, ...) _printf_(4, 5);

/* Returns the command that finds word (an id) in this daemon's log, owned; NULL when out of
 * memory. */
char *log_search(bool system, const char *word);

/*
 * The same for a message that a user can cause: it counts against the limit of that uid's account
 * alone, and the journal has the uid as PYRO_UID. Call it on the loop's thread only.
 */
void log_uid(int level, int error, uid_t uid, const char *fmt, ...) _printf_(4, 5);

#define log_error(...)   log_full(LOG_ERR, 0, NULL, __VA_ARGS__)
#define log_warning(...) log_full(LOG_WARNING, 0, NULL, __VA_ARGS__)
#define log_info(...)    log_full(LOG_INFO, 0, NULL, __VA_ARGS__)
#define log_debug(...)   log_full(LOG_DEBUG, 0, NULL, __VA_ARGS__)
/* Logs with the text of errno -r appended and returns r. */
#define log_error_errno(r, ...) \
	({ \
		int _lr = (r); \
		log_full(LOG_ERR, _lr, NULL, __VA_ARGS__); \
		_lr; \
	})
#define log_warning_errno(r, ...) \
	({ \
		int _lr = (r); \
		log_full(LOG_WARNING, _lr, NULL, __VA_ARGS__); \
		_lr; \
	})

/* Escapes into ret (always NUL-terminated); returns the length. */
size_t log_escape(const char *s, size_t n, char *ret, size_t ret_size);
