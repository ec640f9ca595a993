/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The interface as one table (design.md section 4): every method, with its parameters and results
 * as arrays of fields. Validation, look-up and authorisation in the daemon, the CLI's flags and
 * help, the documentation and the tests all read it. No second description exists.
 */

#include "base.h"
#include "error.h"

struct json_object;

#define API_VERSION 1

enum api_type {
	API_BOOL,
	API_INT,
	API_STRING,  /* UTF-8; no NUL unless API_NUL */
	API_ENUM,    /* one of names */
	API_ID,      /* "vm-" and 12 hex digits, or a unique prefix; names[0] is the kind */
	API_REF,     /* a name, an id or its unique prefix; names[0] is the kind */
	API_NAME,    /* [a-z0-9][a-z0-9._-]*, at most LIMIT_NAME_BYTES */
	API_TIME,    /* RFC 3339, UTC */
	API_OBJECT,  /* fields in sub; sub NULL: an object of strings (env, labels) */
	API_ARRAY,   /* elements described by sub[0] */
	API_CALL_ID, /* the id of a request: a string of at most 64 bytes, or an integer */
	API_FD,      /* index into the line's descriptors; a stream socket */
	API_JSON,    /* any value; of results only */
	API_TYPE_MAX
};

enum {
	API_REQUIRED = 1 << 0,
	API_NULLABLE = 1 << 1,
	API_POSITIONAL = 1 << 2, /* on the command line */
	API_REST = 1 << 3,       /* takes all remaining words */
	API_NEGATED = 1 << 4,    /* the flag is --no-NAME */
	API_NO_CLI = 1 << 5,
	API_NO_MCP = 1 << 6,
	API_LIVE = 1 << 7, /* an FD that carries live stdio */
	API_NUL = 1 << 8,
	API_OPTIONAL = 1 << 9, /* a result field that may be absent */
};

struct api_field {
	const char *name;
	enum api_type type;
	unsigned flags;
	const char *dflt; /* JSON text of the default; NULL: null */
	int64_t min, max; /* INT: range; STRING/ARRAY: length (max 0: only the line's limit) */
	const char *const *names;    /* ENUM: NULL-terminated; ID, REF: the kind */
	const struct api_field *sub; /* OBJECT, ARRAY */
	const char *client;          /* how libpyro creates the descriptor of an FD */
	const char *cli;             /* other flag names, comma-separated: "cpus", "-m,memory" */
	int since;                   /* the API version that added it; 0 means 1 */
	const char *help;
};
/* Field arrays end with {.name = NULL}. */

enum api_object {
	API_OBJ_NONE,
	API_OBJ_VM,
	API_OBJ_WORKSPACE,
	API_OBJ_EXEC,
	API_OBJ_SHELL,
	API_OBJ_ENV,
	API_OBJ_MAX
};
enum api_right { API_ANYONE, API_OWNER, API_ADMIN };
enum api_life { API_CALLER, API_KEPT };
enum {
	API_READ_ONLY = 1 << 0,
	API_DESTRUCTIVE = 1 << 1,
	API_IDEMPOTENT = 1 << 2,
	API_NOT_A_TOOL = 1 << 3,
	API_PROGRESS = 1 << 4, /* sends `progress` notifications while it works */
};

struct api_method {
	const char *name;
	const char *symbol; /* C name: vm_run */
	enum api_object object;
	enum api_right right;
	enum api_life life;
	unsigned hints;
	const struct api_field *params;
	const struct api_field *result;
	const char *help;
};

extern const struct api_method api_methods[];
extern const size_t api_n_methods;

/* Returns an index into api_methods, or -ENOENT. */
int api_find(const char *method);

/* Indices by symbol: API_M_vm_run, ... */
enum api_method_index {
#define API_METHOD(symbol, ...) API_M_##symbol,
#include "api.def"
#undef API_METHOD
	API_M_MAX
};

/*
 * Checks params (object or NULL) against the fields and returns a new object, owned by the caller,
 * with every field present: a missing one has its default or null. n_fds is the number of
 * descriptors sent with the line; exactly one FD field must name each. The error is
 * invalid_argument and names field, value and range; for an unknown name it lists the known ones.
 */
int api_check_params(const struct api_field *fields, struct json_object *params, size_t n_fds,
	struct json_object **ret, struct error *err);

/* Checks that a result has every field of the table with its type and no other. For tests and debug
 * builds. */
int api_check_result(const struct api_field *fields, struct json_object *result, struct error *err);

/* Returns the table as an OpenRPC 1.3 document (https://spec.open-rpc.org), the result of
 * `rpc.discover`. */
int api_openrpc(struct json_object **ret);

/* True if the n bytes have the form of a name, as ids and their prefixes do. */
bool api_is_name(const char *text, size_t n);

/* Converts a value of an API_TIME field to microseconds of CLOCK_REALTIME. -EBADMSG: it is none. */
int api_time_usec(const char *text, uint64_t *ret);

/* Returns the id prefix ("vm-") of a kind as in names[0] of an API_ID or API_REF field ("vm", "exec", ...). */
const char *api_id_prefix(const char *kind);

/* Makes a new id: prefix + 12 random hex digits. ret has room for API_ID_SIZE. */
#define API_ID_SIZE 16
void api_new_id(const char *prefix, char ret[API_ID_SIZE]);
