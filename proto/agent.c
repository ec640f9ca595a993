/* SPDX-License-Identifier: MIT */
/*
 * Encodes, decodes and validates the messages of agent.h, with one writer and one reader that walk
 * AGENT_FIELDS. The daemon's end of the stream (daemon/agent, daemon/machine/guest.c) and the
 * guest's (guest/serve.c, guest/exec.c, guest/files.c) call them for every frame except DATA, ACK and END. The two
 * ends do not trust each other: _get builds a local value, which is freed on any failure, and
 * accepts only values in the ranges of agent.h. _put makes the same check, so that a fault in pyro
 * is found where it is made.
 */

#include "proto/agent.h"

#include "proto/utf8.h"

#include <assert.h>
#include <stddef.h>

#define EXEC_ID_LENGTH (AGENT_EXEC_ID_SIZE - 1)
#define SIGNAL_MAX     64
#define ERRNO_MAX      4095
#define ALL_START      (START_STDIN | START_PTY | START_LOGIN)

/* The wire format has four streams: a fifth would be a new field. */
static_assert(STREAM_MAX == 4, "STREAMS is part of every version");

enum message {
#define X(name) MESSAGE_##name,
	AGENT_MESSAGES(X)
#undef X
		MESSAGE_held, /* part of welcome */
	MESSAGE_entry,        /* part of file_result */
};

enum form {
	FORM_NUMBER,
	FORM_VERSION,
	FORM_BYTES,
	FORM_ID,
	FORM_STREAMS,
	FORM_TEXT,
	FORM_WHAT,
	FORM_BLOB,
	FORM_ENV,
	FORM_HELD,
	FORM_ENTRIES,
	FORM_PRESENT,
};

struct field {
	enum message message;
	enum form form;
	size_t max; /* of FORM_TEXT and FORM_BLOB */
	uint16_t since;
	size_t offset, size; /* in the message's struct */
};

#define NUMBER  FORM_NUMBER, 0
#define VERSION FORM_VERSION, 0
#define BYTES   FORM_BYTES, 0
#define ID      FORM_ID, 0
#define STREAMS FORM_STREAMS, 0
#define TEXT(n) FORM_TEXT, (n)
#define WHAT    FORM_WHAT, MSG_WHAT_MAX
#define BLOB(n) FORM_BLOB, (n)
#define ENV     FORM_ENV, 0
#define HELD    FORM_HELD, 0
#define ENTRIES FORM_ENTRIES, 0
#define PRESENT FORM_PRESENT, 0
#define FIELD(message, field, form, since) \
	{ MESSAGE_##message, form, since, offsetof(struct msg_##message, field), \
		sizeof(((struct msg_##message *)0)->field) },
static const struct field fields[] = { AGENT_FIELDS(FIELD) };

/* Where the field stands in the message m. */
static void *field_at(const struct field *f, const void *m)
{
	return (uint8_t *)(uintptr_t)m + f->offset;
}

bool agent_knows(uint16_t version, uint16_t frame_type)
{
	switch (frame_type) {
#define X(type, since) \
	case FRAME_##type: return version >= (since);
		AGENT_FRAMES(X)
#undef X
	default: return false;
	}
}

/* Validation */

static bool exec_id_valid(const char id[AGENT_EXEC_ID_SIZE])
{
	return memcmp(id, "ex-", 3) == 0 && id[EXEC_ID_LENGTH] == '\0' &&
	       strspn(id + 3, "0123456789abcdef") == EXEC_ID_LENGTH - 3;
}

static bool hello_valid(const struct msg_hello *m)
{
	return m->version_min >= 1 && m->version_min <= m->version_max;
}

static bool held_valid(const struct msg_held *h)
{
	bool valid = exec_id_valid(h->exec_id) && h->channel != AGENT_CHANNEL_NONE &&
		     h->exited <= 1 && h->stdin_ended <= 1;

	for (size_t i = 0; i < STREAM_MAX; i++)
		valid = valid && h->kept[i] <= h->produced[i];
	return valid;
}

static bool welcome_valid(const struct msg_welcome *m)
{
	if (m->version < 1 || m->state > AGENT_SET_UP || m->n_held > LIMIT_AGENT_EXECS)
		return false;
	for (size_t i = 0; i < m->n_held; i++) {
		if (!held_valid(&m->held[i]))
			return false;
	}
	return true;
}

static bool setup_valid(const struct msg_setup *m)
{
	if (!m->hostname || memchr(m->sync, 0, sizeof(m->sync)))
		return false;
	size_t n = strlen(m->hostname);
	return n >= 1 && n <= MSG_HOSTNAME_MAX &&
	       strspn(m->hostname, "abcdefghijklmnopqrstuvwxyz0123456789-") == n;
}

static bool text_valid(const char *s, size_t max)
{
	return s && *s && strnlen(s, max + 1) <= max;
}

static bool start_env_valid(const struct msg_start *m)
{
	size_t bytes = 0;

	if (m->n_env > LIMIT_ENV_COUNT)
		return false;
	for (size_t i = 0; i < m->n_env; i++) {
		const char *e = m->env[i];
		if (!e || *e == '=' || !strchr(e, '='))
			return false;
		bytes += strlen(e) + 1;
	}
	return bytes <= LIMIT_ENV_BYTES;
}

static bool start_valid(const struct msg_start *m)
{
	return exec_id_valid(m->exec_id) && !(m->flags & ~(uint32_t)ALL_START) &&
	       text_valid(m->command, LIMIT_COMMAND_BYTES) && text_valid(m->cwd, MSG_CWD_MAX) &&
	       text_valid(m->user, MSG_USER_MAX) && start_env_valid(m);
}

static bool kill_valid(const struct msg_kill *m)
{
	return m->signal >= 1 && m->signal <= SIGNAL_MAX && m->all <= 1;
}

static bool resume_valid(_unused_ const struct msg_resume *m)
{
	return true;
}

static bool result_valid(const struct msg_result *m)
{
	return m->error <= ERRNO_MAX;
}

static bool exit_valid(const struct msg_exit *m)
{
	return m->signal <= SIGNAL_MAX && m->timed_out <= 1;
}

static bool bye_valid(const struct msg_bye *m)
{
	return m->reason <= BYE_ERROR;
}

static bool blob_valid(const struct msg_blob *b, size_t max)
{
	return b->n <= max && (b->n == 0 || b->data);
}

static uint32_t file_flags(uint8_t op)
{
	return op == FILE_LIST ? FILE_RECURSIVE : op == FILE_EDIT ? FILE_REPLACE_ALL : 0;
}

static bool file_valid(const struct msg_file *m)
{
	bool reads = m->op == FILE_READ;

	if (m->op > FILE_EDIT || (m->flags & ~file_flags(m->op)) ||
		!text_valid(m->path, MSG_PATH_MAX) || reads != (m->max_bytes > 0) ||
		m->max_bytes > LIMIT_FILE_BYTES || (!reads && (m->start_line || m->max_lines)))
		return false;
	return blob_valid(&m->text, m->op >= FILE_WRITE ? LIMIT_FILE_BYTES : 0) &&
	       blob_valid(&m->old_text, m->op == FILE_EDIT ? LIMIT_FILE_BYTES - m->text.n : 0) &&
	       (m->op == FILE_EDIT) == (m->old_text.n > 0);
}

static bool entry_valid(const struct msg_entry *e)
{
	return e->type <= ENTRY_OTHER && e->size <= MSG_SIZE_MAX &&
	       text_valid(e->path, MSG_PATH_MAX) &&
	       (e->type == ENTRY_SYMLINK) == (e->target != NULL) &&
	       (!e->target || strnlen(e->target, MSG_PATH_MAX + 1) <= MSG_PATH_MAX);
}

static bool file_result_valid(const struct msg_file_result *m)
{
	if (m->error > ERRNO_MAX || m->size > MSG_SIZE_MAX || m->total_lines > MSG_SIZE_MAX ||
		!blob_valid(&m->content, LIMIT_FILE_BYTES) || m->n_entries > LIMIT_FILE_ENTRIES)
		return false;
	for (size_t i = 0; i < m->n_entries; i++) {
		if (!entry_valid(&m->entries[i]))
			return false;
	}
	return true;
}

int msg_path_compare(const char *a, const char *b)
{
	size_t i = 0;

	while (a[i] && a[i] == b[i])
		i++;
	/* A separator is below each byte of a name, and the end of a path below both. */
	int x = !a[i] ? -1 : a[i] == '/' ? 0 : (unsigned char)a[i];
	int y = !b[i] ? -1 : b[i] == '/' ? 0 : (unsigned char)b[i];
	return x - y;
}

/* Writing */

static uint64_t number_at(const void *p, size_t size)
{
	switch (size) {
	case sizeof(uint8_t): return *(const uint8_t *)p;
	case sizeof(uint16_t): return *(const uint16_t *)p;
	case sizeof(uint32_t): return *(const uint32_t *)p;
	default: return *(const uint64_t *)p;
	}
}

static void put_number(struct buf *b, uint64_t v, size_t size, int *r)
{
	switch (size) {
	case sizeof(uint8_t): put_u8(b, (uint8_t)v, r); break;
	case sizeof(uint16_t): put_u16(b, (uint16_t)v, r); break;
	case sizeof(uint32_t): put_u32(b, (uint32_t)v, r); break;
	default: put_u64(b, v, r);
	}
}

/* Appends a text for people, cut to MSG_WHAT_MAX. */
static void put_what(struct buf *b, const char *what, int *r)
{
	if (!what) {
		put_str(b, NULL, r);
		return;
	}
	size_t n = (size_t)utf8_cut(what, MSG_WHAT_MAX);
	put_u32(b, (uint32_t)n, r);
	put_bytes(b, what, n, r);
}

static void put_env(struct buf *b, const struct msg_start *m, int *r)
{
	put_u32(b, m->n_env, r);
	for (size_t i = 0; i < m->n_env; i++)
		put_str(b, m->env[i], r);
}

static void put_message(
	struct buf *b, enum message message, uint16_t version, const void *m, int *r);

static void put_held(struct buf *b, uint16_t version, const struct msg_welcome *m, int *r)
{
	put_u32(b, m->n_held, r);
	for (size_t i = 0; i < m->n_held; i++)
		put_message(b, MESSAGE_held, version, &m->held[i], r);
}

static void put_blob(struct buf *b, const struct msg_blob *blob, int *r)
{
	put_u32(b, blob->n, r);
	put_bytes(b, blob->data, blob->n, r);
}

static void put_entries(struct buf *b, uint16_t version, const struct msg_file_result *m, int *r)
{
	put_u32(b, m->n_entries, r);
	for (size_t i = 0; i < m->n_entries; i++)
		put_message(b, MESSAGE_entry, version, &m->entries[i], r);
}

static void put_field(struct buf *b, const struct field *f, uint16_t version, const void *m, int *r)
{
	const void *at = field_at(f, m);

	switch (f->form) {
	case FORM_NUMBER:
	case FORM_VERSION: put_number(b, number_at(at, f->size), f->size, r); break;
	case FORM_BYTES: put_bytes(b, at, f->size, r); break;
	case FORM_ID: put_bytes(b, at, EXEC_ID_LENGTH, r); break;
	case FORM_STREAMS:
		for (size_t i = 0; i < STREAM_MAX; i++)
			put_u64(b, ((const uint64_t *)at)[i], r);
		break;
	case FORM_TEXT: put_str(b, *(char *const *)at, r); break;
	case FORM_WHAT: put_what(b, *(char *const *)at, r); break;
	case FORM_BLOB: put_blob(b, at, r); break;
	case FORM_ENV: put_env(b, m, r); break;
	case FORM_HELD: put_held(b, version, m, r); break;
	case FORM_ENTRIES: put_entries(b, version, m, r); break;
	case FORM_PRESENT: break;
	}
}

static void put_message(
	struct buf *b, enum message message, uint16_t version, const void *m, int *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];

		if (f->message != message || f->since > version)
			continue;
		put_field(b, f, version, m, r);
		if (f->form == FORM_VERSION)
			version = MIN_OF(version, *(const uint16_t *)field_at(f, m));
	}
}

/* Reading */

static void get_number(struct rd *rd, void *ret, size_t size)
{
	switch (size) {
	case sizeof(uint8_t): *(uint8_t *)ret = get_u8(rd); break;
	case sizeof(uint16_t): *(uint16_t *)ret = get_u16(rd); break;
	case sizeof(uint32_t): *(uint32_t *)ret = get_u32(rd); break;
	default: *(uint64_t *)ret = get_u64(rd);
	}
}

static int get_env(struct rd *rd, struct msg_start *m)
{
	size_t left = LIMIT_ENV_BYTES;
	uint32_t n = get_u32(rd);

	if (rd->failed || n > LIMIT_ENV_COUNT)
		return -EBADMSG;
	m->env = calloc((size_t)n + 1, sizeof(*m->env)); /* NULL at the end */
	if (!m->env)
		return -ENOMEM;
	while (m->n_env < n) {
		int r = get_str(rd, left, &m->env[m->n_env]);
		if (r < 0)
			return r;
		const char *e = m->env[m->n_env];
		if (!e || strlen(e) + 1 > left)
			return -EBADMSG;
		left -= strlen(e) + 1;
		m->n_env++;
	}
	return 0;
}

static int get_message(struct rd *rd, enum message message, uint16_t version, void *m);

static int get_held(struct rd *rd, uint16_t version, struct msg_welcome *m)
{
	uint32_t n = get_u32(rd);
	int r = 0;

	if (rd->failed || n > LIMIT_AGENT_EXECS)
		return -EBADMSG;
	if (n > 0) {
		m->held = calloc(n, sizeof(*m->held));
		if (!m->held)
			return -ENOMEM;
	}
	m->n_held = n;
	for (uint32_t i = 0; r >= 0 && i < n; i++)
		r = get_message(rd, MESSAGE_held, version, &m->held[i]);
	return r;
}

static int get_blob(struct rd *rd, size_t max, struct msg_blob *ret)
{
	uint32_t n = get_u32(rd);

	if (rd->failed || n > max || n > rd->n)
		return -EBADMSG;
	if (n == 0)
		return 0;
	ret->data = malloc(n);
	if (!ret->data)
		return -ENOMEM;
	ret->n = n;
	get_bytes(rd, ret->data, n);
	return 0;
}

static int get_entries(struct rd *rd, uint16_t version, struct msg_file_result *m)
{
	enum { ENTRY_BYTES_MIN = 1 + 8 + 4 + 4 };
	uint32_t n = get_u32(rd);
	int r = 0;

	if (rd->failed || n > LIMIT_FILE_ENTRIES || n > rd->n / ENTRY_BYTES_MIN)
		return -EBADMSG;
	if (n > 0) {
		m->entries = calloc(n, sizeof(*m->entries));
		if (!m->entries)
			return -ENOMEM;
	}
	m->n_entries = n;
	for (uint32_t i = 0; r >= 0 && i < n; i++)
		r = get_message(rd, MESSAGE_entry, version, &m->entries[i]);
	return r;
}

static int get_field(struct rd *rd, const struct field *f, uint16_t version, void *m)
{
	void *at = field_at(f, m);

	switch (f->form) {
	case FORM_NUMBER:
	case FORM_VERSION: get_number(rd, at, f->size); break;
	case FORM_BYTES: get_bytes(rd, at, f->size); break;
	case FORM_ID:
		get_bytes(rd, at, EXEC_ID_LENGTH);
		((char *)at)[EXEC_ID_LENGTH] = '\0';
		break;
	case FORM_STREAMS:
		for (size_t i = 0; i < STREAM_MAX; i++)
			((uint64_t *)at)[i] = get_u64(rd);
		break;
	case FORM_TEXT:
	case FORM_WHAT: return get_str(rd, f->max, at);
	case FORM_BLOB: return get_blob(rd, f->max, at);
	case FORM_ENV: return get_env(rd, m);
	case FORM_HELD: return get_held(rd, version, m);
	case FORM_ENTRIES: return get_entries(rd, version, m);
	case FORM_PRESENT: *(bool *)at = true; break;
	}
	return rd->failed ? -EBADMSG : 0;
}

/* Bytes after the last field come from a newer peer and are skipped. */
static int get_message(struct rd *rd, enum message message, uint16_t version, void *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];
		int r;

		if (f->message != message || f->since > version)
			continue;
		r = get_field(rd, f, version, m);
		if (r < 0)
			return r;
		if (f->form == FORM_VERSION)
			version = MIN_OF(version, *(const uint16_t *)field_at(f, m));
	}
	return 0;
}

static void free_env(struct msg_start *m)
{
	/* May contain one entry more than n_env: the refused one. */
	for (size_t i = 0; m->env && m->env[i]; i++)
		free(m->env[i]);
	free(m->env);
}

static void free_message(enum message message, void *m);

static void free_entries(struct msg_file_result *m)
{
	for (size_t i = 0; i < m->n_entries; i++)
		free_message(MESSAGE_entry, &m->entries[i]);
	free(m->entries);
}

static void free_message(enum message message, void *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		const struct field *f = &fields[i];

		if (f->message != message)
			continue;
		if (f->form == FORM_TEXT || f->form == FORM_WHAT)
			free(*(char **)field_at(f, m));
		else if (f->form == FORM_ENV)
			free_env(m);
		else if (f->form == FORM_BLOB)
			free(((struct msg_blob *)field_at(f, m))->data);
		else if (f->form == FORM_HELD)
			free(((struct msg_welcome *)m)->held);
		else if (f->form == FORM_ENTRIES)
			free_entries(m);
	}
}

#define DEFINE_MESSAGE(name) \
	int msg_##name##_put(struct buf *out, uint16_t version, const struct msg_##name *m) \
	{ \
		int r = version >= 1 && name##_valid(m) ? 0 : -EINVAL; \
\
		if (r >= 0) \
			put_message(out, MESSAGE_##name, version, m, &r); \
		return r; \
	} \
\
	int msg_##name##_get(const struct frame *f, uint16_t version, struct msg_##name *ret) \
	{ \
		struct rd rd = { .p = f->payload, .n = f->length }; \
		_cleanup_(msg_##name##_done) struct msg_##name m = { 0 }; \
		int r = version >= 1 ? get_message(&rd, MESSAGE_##name, version, &m) : -EINVAL; \
\
		if (r < 0) \
			return r; \
		if (!name##_valid(&m)) \
			return -EBADMSG; \
		*ret = m; \
		m = (struct msg_##name){ 0 }; \
		return 0; \
	} \
\
	void msg_##name##_done(struct msg_##name *m) \
	{ \
		free_message(MESSAGE_##name, m); \
		*m = (struct msg_##name){ 0 }; \
	}
AGENT_MESSAGES(DEFINE_MESSAGE)
