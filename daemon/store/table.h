/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Describes a noun's table once: which column is which member of its row's struct. The SQL of loads
 * and puts, the binding and reading of values, and copy and free of rows come from the description.
 * Nothing outside daemon/store includes this.
 */

#include "daemon/store/store.h"

enum column_type {
	COLUMN_STRING, /* char *, owned */
	COLUMN_CHARS,  /* char[N], with its NUL */
	COLUMN_BYTES,  /* uint8_t[N] */
	COLUMN_BOOL,
	COLUMN_INT32,
	COLUMN_UINT32,
	COLUMN_INT64,
	COLUMN_UINT64, /* 2^63 and above: stored as the negative number of the same bits */
	COLUMN_TYPE_MAX
};

struct column {
	const char *name;
	enum column_type type;
	bool nullable; /* COLUMN_STRING only: NULL is a value */
	size_t offset, size;
};

/* A column has its member's name. A member of any other type does not compile. */
#define COLUMN_TYPE_OF(member) \
	(COLUMN_IS(member, char *)        ? COLUMN_STRING \
		: COLUMN_IS(member, bool) ? COLUMN_BOOL \
					  : COLUMN_OTHER_OF(member))
#define COLUMN_IS(member, type) __builtin_types_compatible_p(__typeof__(member), type)
#define COLUMN_OTHER_OF(member) \
	_Generic((member) + 0, \
		char *: COLUMN_CHARS, \
		uint8_t *: COLUMN_BYTES, \
		int32_t: COLUMN_INT32, \
		uint32_t: COLUMN_UINT32, \
		int64_t: COLUMN_INT64, \
		uint64_t: COLUMN_UINT64)
#define COLUMN_(row, member, can_be_null) \
	{ \
		.name = #member, .type = COLUMN_TYPE_OF(((struct row *)0)->member), \
		.nullable = can_be_null, .offset = offsetof(struct row, member), \
		.size = sizeof(((struct row *)0)->member) \
	}
#define COLUMN(row, member)         COLUMN_(row, member, false)
#define COLUMN_OR_NULL(row, member) COLUMN_(row, member, true)

struct table {
	const char *name;             /* in SQL */
	const char *noun;             /* plural, in messages */
	const char *order;            /* SQL: ORDER BY of a load */
	const struct column *columns; /* the first is the primary key, a COLUMN_CHARS */
	size_t n_columns, row_size;
	const char *before_put; /* SQL or NULL: runs before a put; ?1, ?2, ...: the first columns */
	const char *const *also_delete; /* SQL, ends with NULL: deletes dependent rows; ?1: key */
};

extern const struct table vm_table, exec_table, workspace_table;

void table_row_done(const struct table *t, void *row);
/* -ENOMEM; dst is written only on success. */
int table_row_copy(const struct table *t, void *dst, const void *src);

/* Loads all rows into an allocated array. Called before the loop runs. */
int table_load(
	struct store *s, const struct table *t, void **ret, size_t *ret_n, struct error *err);

/* Queues an insert of the row, or an update of the row with its key. The row is copied. */
int table_put(struct store *s, const struct table *t, const void *row, store_done_fn done,
	void *userdata);
/* Queues a delete of the row with this key, and of its dependent rows. */
int table_delete(struct store *s, const struct table *t, const char *key, store_done_fn done,
	void *userdata);
